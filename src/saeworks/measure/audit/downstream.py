"""g. Downstream: what each part of the error does to the language model's loss.

One site at a time, x is replaced at the kept tokens of the test documents by x̂, x̂ + ℓ and x̂ + u.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.lm.prefix import shared_prefix
from saeworks.measure import bootstrap
from saeworks.measure.audit.engine import DocumentSums
from saeworks.measure.audit.fits import Fit, dot, square
from saeworks.measure.audit.study import AuditStudy
from saeworks.measure.audit.words import Sections, percent, shown, side
from saeworks.measure.banks import logit_batch, reconstruct
from saeworks.measure.engine import ModelBatch, Reading, Subject
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tick
from saeworks.measure.studies.splice import (
    CE_CLEAN,
    Losses,
    counted,
    logits,
    prediction_losses,
    splice_hook,
)
from saeworks.results.figure import ENCODER, GREY, LINEAR, NONLINEAR, Figure, Trace
from saeworks.results.metric import Metric, Value
from saeworks.results.section import Section


class Downstream(AuditStudy):
    """CE with x̂, x̂ + ℓ and x̂ + u in the place of x."""

    name = "downstream"
    title = "Downstream"
    chapter = "effects"
    about = (
        "Cross-entropy over predictions within the first test documents (how many, and of how many "
        "tokens, is in the series), with x replaced at their kept tokens by x̂, x̂ + ℓ or x̂ + u. "
        "Recovered: the share of the gap CE(x̂) − CE(x) that putting a part back closes; the "
        "shares need not add up to 1. Unstable where the gap is small."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        CE_CLEAN: Metric("CE", "Untouched.", "nats"),
        "gap": Metric("CE gap", "CE with x̂ in the place of x, less CE.", "nats", "lower"),
        "gap_linear": Metric("CE gap, x̂ + ℓ", "With ℓ put back: what u costs.", "nats", "lower"),
        "gap_nonlinear": Metric("CE gap, x̂ + u", "With u put back: what ℓ costs.", "nats", "lower"),
        "recovered_linear": Metric("Recovered by ℓ", "(CE(x̂) − CE(x̂ + ℓ))/(CE(x̂) − CE)."),
        "recovered_nonlinear": Metric("Recovered by u", "(CE(x̂) − CE(x̂ + u))/(CE(x̂) − CE)."),
        "squared_share_linear": Metric(
            "‖e‖² share of ℓ", "1 − Σ⟨u, u′⟩/Σ‖e‖² over the same tokens: what to compare with."
        ),
        "squared_share_nonlinear": Metric("‖e‖² share of u", "Σ⟨u, u′⟩/Σ‖e‖²."),
    }
    figures = (
        Figure(
            "loss",
            "bar",
            (
                Trace("ℓ: loss recovered", "recovered_linear", ink=LINEAR),
                Trace("ℓ: share of ‖e‖²", "squared_share_linear", ink=5),
                Trace("u: loss recovered", "recovered_nonlinear", ink=NONLINEAR),
                Trace("u: share of ‖e‖²", "squared_share_nonlinear", ink=ENCODER),
            ),
            "Share of the loss gap recovered, and of ‖e‖²",
            above_zero="gap",
            wide=True,
        ),
        Figure(
            "gaps",
            "bar",
            (
                Trace("x̂", "gap", ink=GREY),
                Trace("x̂ + ℓ", "gap_linear", ink=LINEAR),
                Trace("x̂ + u", "gap_nonlinear", ink=NONLINEAR),
            ),
            "CE with x replaced, less CE",
        ),
    )

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
    CE_CLEAN: lambda s: s["clean"] / s["n"],
    "gap": lambda s: (s["x_hat"] - s["clean"]) / s["n"],
    "gap_linear": lambda s: (s["x_hat_l"] - s["clean"]) / s["n"],
    "gap_nonlinear": lambda s: (s["x_hat_u"] - s["clean"]) / s["n"],
    "recovered_linear": lambda s: (s["x_hat"] - s["x_hat_l"]) / (s["x_hat"] - s["clean"]),
    "recovered_nonlinear": lambda s: (s["x_hat"] - s["x_hat_u"]) / (s["x_hat"] - s["clean"]),
    "squared_share_linear": lambda s: 1 - s["u"] / s["e"],
    "squared_share_nonlinear": lambda s: s["u"] / s["e"],
}


@final
class PutBack(Reading):
    """The model's losses with parts put back, as sums by document: three passes of the language
    model per SAE over the first test documents.

    Args:
        test: the tokens of the test fold.
        fits: of each bank and site, once the second fold is over.
        tokens: of the test fold to use, to the end of a batch.
        needs: what the fits need.
        beside: the reading of the test fold.
    """

    title = Downstream.name

    def __init__(
        self,
        subject: Subject,
        test: HeldOut,
        losses: Losses,
        fits: Callable[[str, str], Fit],
        tokens: int,
        needs: Sequence[Reading],
        beside: Reading,
    ) -> None:
        self.lm, self.banks, self._sites = subject.lm, subject.banks, subject.sites
        self.batch_tokens = logit_batch(subject.lm)
        self.held_out = first(test, self.batch_tokens, tokens)
        self.needs, self.beside, self._fits, self._losses = needs, beside, fits, losses
        saes = sum(len(bank) for bank in subject.banks.values())
        used = int(self.held_out.keep_NT.any(dim=1).sum())
        self.passes = 3 * saes * used * self.held_out.tokens_NT.shape[1]
        self._sums = {
            (name, site): DocumentSums(test.rows, subject.lm.device)
            for name, bank in subject.banks.items()
            for site in bank
        }

    def batch(self, batch: ModelBatch, tick: Tick) -> None:
        held_out = batch.held_out
        counted_BT = counted(held_out)
        loss_BT = self._losses.loss_NT[batch.sequence_B].to(counted_BT.device)
        clean_P = loss_BT[counted_BT].double()
        for site in self._sites:
            from_site = shared_prefix(self.lm, held_out.tokens_NT, site)
            for name, bank in self.banks.items():
                if site not in bank:
                    continue
                losses = {"n": torch.ones_like(clean_P), "clean": clean_P}
                parts = _Parts(bank[site], self._fits(name, site), counted_BT[held_out.keep_NT])
                for part, replace in parts.replacements().items():
                    hook = splice_hook(replace, held_out, site, batch.number)
                    with from_site():
                        spliced_BTV = logits(self.lm, held_out, {site: hook})
                    losses[part], _ = prediction_losses(spliced_BTV, held_out)
                    tick(held_out.tokens_NT.numel())
                self._sums[name, site].add(held_out.row_NT[counted_BT], losses | parts.norms)

    def section(self, name: str, resamples: int, seed: int) -> Section:
        """The section on a bank: its values with intervals at every site."""
        sites = {}
        for site in self._sites:
            if site in self.banks[name]:
                columns = self._sums[name, site].columns()
                sites[site] = bootstrap.estimate(columns, STATISTICS, resamples, seed)
        return Downstream.section(sites, dict.fromkeys(sites, _extent(self.held_out)))


def first(test: HeldOut, batch_tokens: int, tokens: int) -> HeldOut:
    """The first batches of the test fold that hold so many kept tokens, or all of them."""
    step = max(1, batch_tokens // test.tokens_NT.shape[1])
    present_n = test.keep_NT.any(dim=1).nonzero()[:, 0]
    keep_NT, used = torch.zeros_like(test.keep_NT), 0
    for batch_n in torch.split(present_n, step):
        if used >= tokens:
            break
        keep_NT[batch_n] = test.keep_NT[batch_n]
        used += int(keep_NT[batch_n].sum())
    return dataclasses.replace(test, keep_NT=keep_NT)


def _extent(used: HeldOut) -> dict[str, int]:
    """Tokens at which x is replaced, predictions that are counted, and of how many documents these
    are."""
    rows_P = used.row_NT[counted(used)]
    return {
        "tokens": used.kept,
        "predictions": len(rows_P),
        "documents": len(torch.unique(rows_P)),
    }


class _Parts:
    """What is put in the place of one batch's x at a site.

    Attributes:
        norms: ‖e‖² and ⟨u, u′⟩ at the counted positions, once x̂ was made.
    """

    def __init__(self, sae: SAE, fit: Fit, counted_N: Tensor) -> None:
        self._sae, self._fit, self._counted_N = sae, fit, counted_N
        self._x_hat_ND: Tensor | None = None
        self.norms: dict[str, Tensor] = {}

    def replacements(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """x̂, x̂ + ℓ and x̂ + u = x − ℓ, of the kept rows x."""
        return {
            "x_hat": self._x_hat,
            "x_hat_l": lambda x_ND: self._x_hat(x_ND) + self._linear(x_ND),
            "x_hat_u": lambda x_ND: x_ND - self._linear(x_ND),
        }

    def _linear(self, x_ND: Tensor) -> Tensor:
        return self._fit.linear(x_ND.double()).to(x_ND.dtype)

    def _x_hat(self, x_ND: Tensor) -> Tensor:
        if self._x_hat_ND is None:
            self._x_hat_ND = reconstruct(self._sae, x_ND)
            wide_PD = x_ND[self._counted_N].double()
            e_PD = wide_PD - self._x_hat_ND[self._counted_N].double()
            assert self._fit.again is not None
            u_PD, again_PD = (e_PD - map_(wide_PD) for map_ in (self._fit.linear, self._fit.again))
            self.norms = {"e": square(e_PD), "u": dot(u_PD, again_PD)}
        return self._x_hat_ND
