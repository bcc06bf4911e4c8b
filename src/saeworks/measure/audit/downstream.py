"""g. Downstream: what each part of the error does to the language model's loss.

One site at a time, x is replaced at the kept tokens of the test documents by x̂, x̂ + ℓ and x̂ + u.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.lm.model import LanguageModel
from saeworks.lm.prefix import shared_prefix
from saeworks.measure import bootstrap
from saeworks.measure.audit.engine import Sums
from saeworks.measure.audit.fits import Fit, dot, square
from saeworks.measure.audit.study import AuditStudy
from saeworks.measure.audit.words import Sections, percent, shown, side
from saeworks.measure.banks import LM_TOKENS, reconstruct
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tick
from saeworks.measure.studies.splice import (
    counted,
    logit_batch,
    logits,
    prediction_losses,
    splice_hook,
)
from saeworks.results.metric import Metric, Value


class Downstream(AuditStudy):
    """CE with x̂, x̂ + ℓ and x̂ + u in the place of x."""

    name = "downstream"
    title = "Downstream"
    about = (
        "Cross-entropy over predictions within the first test documents (how many, and of how many "
        "tokens, is in the series), with x replaced at their kept tokens by x̂, x̂ + ℓ or x̂ + u. "
        "Recovered: the share of the gap CE(x̂) − CE(x) that putting a part back closes; the "
        "shares need not add up to 1. Unstable where the gap is small."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        "ce_clean": Metric("CE", "Untouched.", "nats"),
        "gap": Metric("CE gap", "CE with x̂ in the place of x, less CE.", "nats", "lower"),
        "gap_linear": Metric("CE gap, x̂ + ℓ", "With ℓ put back: what u costs.", "nats", "lower"),
        "gap_nonlinear": Metric("CE gap, x̂ + u", "With u put back: what ℓ costs.", "nats", "lower"),
        "recovered_linear": Metric("Recovered by ℓ", "(CE(x̂) − CE(x̂ + ℓ))/(CE(x̂) − CE)."),
        "recovered_nonlinear": Metric("Recovered by u", "(CE(x̂) − CE(x̂ + u))/(CE(x̂) − CE)."),
        "squared_share_linear": Metric(
            "‖e‖² share of ℓ", "1 − Σ⟨u, u′⟩/Σ‖e‖² over the same tokens: what to compare with."
        ),
    }

    @classmethod
    def sentences(cls, sections: Sections) -> tuple[str, ...]:
        gap, linear, nonlinear = (
            cls.value(sections, metric)
            for metric in ("gap", "recovered_linear", "recovered_nonlinear")
        )
        if linear.value is None or gap.value is None:
            return ()
        if side(gap, 0.0) is None:
            return (
                f"The SAE's cost to the model's loss, {shown(gap)} nats, was measured on too few "
                "documents for an interval: whether it is above 0, and which part of the error "
                "causes it, cannot be told.",
            )
        if side(gap, 0.0) != 1:
            return (
                f"The SAE's cost to the model's loss is not clearly above 0 ({shown(gap)} nats), "
                "so which part of the error causes it cannot be told.",
            )
        share = cls.value(sections, "squared_share_linear")
        return (
            f"The SAE costs the model {shown(gap)} nats; putting ℓ back recovers {percent(linear)} "
            f"of that, putting u back {percent(nonlinear)} (the two need not add up)."
            f"{_beside_share(linear, share)}",
        )


def _beside_share(recovered: Value, share: Value) -> str:
    """What ℓ recovers beside its share of ‖e‖²; empty where one of them has no interval."""
    if share.low is None or share.high is None or side(recovered, 0.0) is None:
        return ""
    words = {1: "more than", -1: "less than", 0: "not clearly different from"}
    above, below = side(recovered, share.high), side(recovered, share.low)
    apart = max(above or 0, 0) + min(below or 0, 0)
    return f" What ℓ recovers is {words[apart]} its share of ‖e‖², {percent(share)}."


STATISTICS: dict[str, bootstrap.Statistic] = {
    "ce_clean": lambda s: s["clean"] / s["n"],
    "gap": lambda s: (s["x_hat"] - s["clean"]) / s["n"],
    "gap_linear": lambda s: (s["x_hat_l"] - s["clean"]) / s["n"],
    "gap_nonlinear": lambda s: (s["x_hat_u"] - s["clean"]) / s["n"],
    "recovered_linear": lambda s: (s["x_hat"] - s["x_hat_l"]) / (s["x_hat"] - s["clean"]),
    "recovered_nonlinear": lambda s: (s["x_hat"] - s["x_hat_u"]) / (s["x_hat"] - s["clean"]),
    "squared_share_linear": lambda s: 1 - s["u"] / s["e"],
}

Batches = Callable[[int], Iterator[tuple[HeldOut, Tensor]]]
"""Tokens per batch → batches in which only the test documents are kept, and the clean losses."""


@dataclass(frozen=True)
class Limits:
    """What is measured on, and how often its documents are resampled.

    Attributes:
        documents: in all.
        tokens: of the test fold to use.
        seed: of the resamples.
    """

    documents: int
    tokens: int
    resamples: int
    seed: int


@torch.no_grad()
def downstream(
    site: str,
    sae: SAE,
    fit: Fit,
    lm: LanguageModel,
    batches: Batches,
    limits: Limits,
    tick: Tick,
) -> dict[str, Value]:
    """The metrics of one SAE: three language-model passes over the first test documents.

    Args:
        batches: see `Batches`.
    """
    sums = Sums(limits.documents, lm.device)
    for number, (batch, loss_NT) in enumerate(first(lm, batches, limits.tokens)):
        counted_NT = counted(batch)
        clean_P = loss_NT[counted_NT].double()
        found = {"n": torch.ones_like(clean_P), "clean": clean_P}
        from_site = shared_prefix(lm, batch.tokens_NT, site)
        for name, replace in _replacements(sae, fit).items():
            hook = splice_hook(replace, batch, site, number)
            with from_site():
                spliced_BTV = logits(lm, batch, {site: hook})
            found[name], _ = prediction_losses(spliced_BTV, batch)
            tick(batch.tokens_NT.numel())
        found |= _norms(site, sae, fit, lm, batch, counted_NT)
        sums.add(batch.row_NT[counted_NT], found)
    return bootstrap.estimate(sums.columns(), STATISTICS, limits.resamples, limits.seed)


def first(lm: LanguageModel, batches: Batches, tokens: int) -> Iterator[tuple[HeldOut, Tensor]]:
    """The first batches that hold so many kept tokens, or all."""
    used = 0
    for batch, loss_NT in batches(min(LM_TOKENS, logit_batch(lm))):
        if used >= tokens:
            return
        used += int(batch.keep_NT.sum())
        yield batch, loss_NT


def extent(batches: Iterable[tuple[HeldOut, Tensor]]) -> dict[str, int]:
    """Tokens at which x is replaced in batches, predictions that are counted, and of how many
    documents these are."""
    found, rows = {"tokens": 0, "predictions": 0}, set[int]()
    for batch, _ in batches:
        rows_P = batch.row_NT[counted(batch)]
        found["tokens"] += int(batch.keep_NT.sum())
        found["predictions"] += len(rows_P)
        rows |= set(rows_P.tolist())
    return found | {"documents": len(rows)}


def _replacements(sae: SAE, fit: Fit) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """x̂, x̂ + ℓ and x̂ + u = x − ℓ, of rows x."""

    def linear(x_ND: Tensor) -> Tensor:
        return fit.linear(x_ND.double()).to(x_ND.dtype)

    return {
        "x_hat": lambda x_ND: reconstruct(sae, x_ND),
        "x_hat_l": lambda x_ND: reconstruct(sae, x_ND) + linear(x_ND),
        "x_hat_u": lambda x_ND: x_ND - linear(x_ND),
    }


def _norms(
    site: str, sae: SAE, fit: Fit, lm: LanguageModel, batch: HeldOut, counted_NT: Tensor
) -> dict[str, Tensor]:
    """‖e‖² and ⟨u, u′⟩ at the counted positions."""
    x_ND = lm.capture(batch.tokens_NT, [site])[site][counted_NT]
    e_ND = x_ND.double() - reconstruct(sae, x_ND).double()
    assert fit.again is not None
    u_ND, again_ND = (e_ND - map_(x_ND.double()) for map_ in (fit.linear, fit.again))
    return {"e": square(e_ND), "u": dot(u_ND, again_ND)}
