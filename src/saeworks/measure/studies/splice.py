"""What the language model loses when a site's activations are replaced by their reconstruction.

Shapes: B sequences, T positions, V vocabulary, P predictions that are counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.lm.model import LanguageModel
from saeworks.lm.prefix import shared_prefix
from saeworks.measure import bootstrap
from saeworks.measure.banks import kept_rows, logit_batch, reconstruct
from saeworks.measure.engine import Measured, ModelBatch, Reading, Study, Subject
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tick
from saeworks.measure.studies.outliers import SiteMeans
from saeworks.measure.sums import PerDocument
from saeworks.results.headlines import (
    DELTA_CE,
    DELTA_CE_PERCENT,
    KL,
    LOSS_RECOVERED_MEAN,
    LOSS_RECOVERED_ZERO,
)
from saeworks.results.metric import Metric
from saeworks.results.result import Result

COUNTED = (
    "At kept positions x is replaced, at excluded ones (such as BOS) it stays; one site at a time. "
    "Cross-entropy counts every prediction of a next token of the same document from a kept "
    "position."
)
CE_CLEAN = "ce_clean"
METRICS = {
    CE_CLEAN: Metric("CE", f"Cross-entropy of the untouched model. {COUNTED}", "nats"),
    "ce_spliced": Metric(
        "CE spliced",
        f"Cross-entropy with x̂ in the place of x. {COUNTED}",
        "nats",
        "lower",
    ),
    DELTA_CE: Metric("ΔCE", "CE spliced − CE.", "nats", "lower"),
    DELTA_CE_PERCENT: Metric("ΔCE %", "100 · ΔCE / CE.", "%", "lower"),
    LOSS_RECOVERED_ZERO: Metric(
        "Loss recovered (zero)",
        "(CE_zero − CE_spliced) / (CE_zero − CE), against the site set to 0.",
        better="higher",
    ),
    LOSS_RECOVERED_MEAN: Metric(
        "Loss recovered (mean)",
        "(CE_mean − CE_spliced) / (CE_mean − CE), against the site set to its mean over the kept "
        "held-out tokens.",
        better="higher",
    ),
    KL: Metric(
        "KL",
        "Mean Kullback–Leibler divergence KL(clean ‖ spliced) of the next-token distributions.",
        "nats",
        "lower",
    ),
}
STATISTICS: dict[str, bootstrap.Statistic] = {
    CE_CLEAN: lambda s: s["clean"] / s["n"],
    "ce_spliced": lambda s: s["spliced"] / s["n"],
    DELTA_CE: lambda s: (s["spliced"] - s["clean"]) / s["n"],
    DELTA_CE_PERCENT: lambda s: 100 * (s["spliced"] - s["clean"]) / s["clean"],
    LOSS_RECOVERED_ZERO: lambda s: (s["zero"] - s["spliced"]) / (s["zero"] - s["clean"]),
    LOSS_RECOVERED_MEAN: lambda s: (s["mean"] - s["spliced"]) / (s["mean"] - s["clean"]),
    KL: lambda s: s[KL] / s["n"],
}
_LOGIT_ROWS = 2**22
"""Logits turned into log-probabilities at once, elements."""

Replace = Callable[[Tensor], Tensor]
"""Kept rows of x [rows, D] → what is put in their place."""


def counted(batch: HeldOut) -> Bool[Tensor, "B T"]:
    """Positions whose next-token prediction counts: kept, and followed by the same document."""
    counted_BT = batch.keep_NT.clone()
    counted_BT[:, -1] = False
    counted_BT[:, :-1] &= batch.document_NT[:, 1:] == batch.document_NT[:, :-1]
    return counted_BT


def splice_hook(replace: Replace, batch: HeldOut, site: str, number: int) -> Callable[..., Tensor]:
    """A hook that replaces the activations of the kept positions."""

    def hook(x_BTD: Tensor) -> Tensor:
        rows_ND = kept_rows(x_BTD, batch.keep_NT, site, number)
        out_BTD = x_BTD.clone()
        out_BTD[batch.keep_NT] = replace(rows_ND).to(x_BTD.dtype)
        return out_BTD

    return hook


def prediction_losses(
    logits_BTV: Float[Tensor, "B T V"],
    batch: HeldOut,
    clean_BTV: Float[Tensor, "B T V"] | None = None,
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"] | None]:
    """Cross-entropy of each counted prediction, and KL(clean ‖ these logits) where clean is given.

    Log-probabilities are taken in float32, a bounded number of rows at a time; sums over the
    vocabulary of the KL in float64.
    """
    row_P, position_P = counted(batch).nonzero(as_tuple=True)
    target_P = batch.tokens_NT[row_P, position_P + 1]
    losses: list[Tensor] = []
    divergences: list[Tensor] = []
    step = max(1, _LOGIT_ROWS // logits_BTV.shape[-1])
    for start in range(0, len(row_P), step):
        at = (row_P[start : start + step], position_P[start : start + step])
        log_q = logits_BTV[at].float().log_softmax(dim=-1)
        losses.append(-log_q.gather(1, target_P[start : start + step, None])[:, 0].double())
        if clean_BTV is not None:
            log_p = clean_BTV[at].float().log_softmax(dim=-1)
            divergences.append((log_p.exp() * (log_p - log_q)).sum(dim=-1, dtype=torch.float64))
    none = logits_BTV.new_zeros(0, dtype=torch.float64)
    loss_P = torch.cat(losses) if losses else none
    if clean_BTV is None:
        return loss_P, None
    return loss_P, torch.cat(divergences) if divergences else none


@final
class Losses(Reading):
    """What the untouched model loses on every counted prediction.

    Attributes:
        loss_NT: nats lost on the next token, float32; NaN where that is not counted.
    """

    title = "losses"
    logits = True

    def __init__(self, lm: LanguageModel, held_out: HeldOut) -> None:
        self.held_out, self.batch_tokens = held_out, logit_batch(lm)
        self.loss_NT = torch.full(held_out.tokens_NT.shape, torch.nan)

    def batch(self, batch: ModelBatch, tick: Tick) -> None:
        assert batch.logits_BTV is not None
        loss_P, _ = prediction_losses(batch.logits_BTV, batch.held_out)
        loss_BT = torch.full(batch.held_out.tokens_NT.shape, torch.nan)
        loss_BT[counted(batch.held_out).cpu()] = loss_P.float().cpu()
        self.loss_NT[batch.sequence_B] = loss_BT


_Key = tuple[str, ...]


class _Sums:
    """Per-document sums [R] by name, such as `("clean",)` or `(site, "bank", name, "kl")`."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows, self.device = rows, device
        self.by_name: dict[_Key, Tensor] = {}

    def add(self, name: _Key, batch: HeldOut, values_P: Tensor) -> None:
        sums_R = self.by_name.setdefault(
            name, torch.zeros(self.rows, dtype=torch.float64, device=self.device)
        )
        sums_R.index_add_(0, batch.row_NT[counted(batch)], values_P)


@final
class Spliced(Reading):
    """The model's losses with each site replaced, as sums by document.

    One pass per site and SAE, and two for the ablations of a site; the blocks before a site are
    computed once for all passes of that site. Two batches of logits are in memory at most.
    """

    title = "splice"
    logits = True

    def __init__(self, subject: Subject, held_out: HeldOut, means: SiteMeans) -> None:
        self.banks, self.lm, self.held_out = subject.banks, subject.lm, held_out
        self.needs, self._means = (means,), means
        self.batch_tokens = logit_batch(subject.lm)
        self._sites = subject.sites
        saes = sum(len(bank) for bank in subject.banks.values())
        self.passes = (2 * len(self._sites) + saes) * held_out.tokens_NT.numel()
        self._sums = _Sums(held_out.rows, subject.lm.device)

    def batch(self, batch: ModelBatch, tick: Tick) -> None:
        assert batch.logits_BTV is not None
        clean_P, _ = prediction_losses(batch.logits_BTV, batch.held_out)
        self._sums.add(("n",), batch.held_out, torch.ones_like(clean_P))
        self._sums.add(("clean",), batch.held_out, clean_P)
        for site in self._sites:
            self._splice(site, batch, tick)

    def _splice(self, site: str, batch: ModelBatch, tick: Tick) -> None:
        ablations: dict[_Key, Replace] = {
            (site, "zero"): torch.zeros_like,
            (site, "mean"): _constant(self._means.means[site]),
        }
        through: dict[_Key, Replace] = {
            (site, "bank", name): _through(bank[site])
            for name, bank in self.banks.items()
            if site in bank
        }
        held_out = batch.held_out
        from_site = shared_prefix(self.lm, held_out.tokens_NT, site)
        for key, replace in (ablations | through).items():
            hook = splice_hook(replace, held_out, site, batch.number)
            compared = None if key in ablations else batch.logits_BTV
            with from_site():
                spliced_BTV = logits(self.lm, held_out, {site: hook})
            loss_P, kl_P = prediction_losses(spliced_BTV, held_out, compared)
            self._sums.add(key, held_out, loss_P)
            if kl_P is not None:
                self._sums.add((*key, KL), held_out, kl_P)
            tick(held_out.tokens_NT.numel())

    def per_document(self, name: str) -> PerDocument:
        """The sums of a bank."""
        return {site: _per_document(self._sums, name, site) for site in self.banks[name]}


@final
class Splice(Study):
    """CE, ΔCE in nats and %, loss recovered against zero and mean ablation, KL, per site."""

    name = "splice"
    title = "Language-model loss with one site replaced by its reconstruction"
    metrics: ClassVar = METRICS
    headline = (DELTA_CE, LOSS_RECOVERED_ZERO, KL)

    def __init__(self, subject: Subject, config: EvalConfig, means: SiteMeans) -> None:
        self.config = config
        self.spliced = Spliced(subject, means.held_out.first(config.splice_tokens), means)
        self.readings = (self.spliced,)

    def results(self) -> dict[str, Measured]:
        measured = {}
        for name in self.spliced.banks:
            sums = self.spliced.per_document(name)
            measured[name] = Measured(summarise(sums, self.spliced.held_out, self.config), sums)
        return measured


def _per_document(sums: _Sums, name: str, site: str) -> dict[str, NDArray[np.float64]]:
    keys: dict[str, _Key] = {
        "n": ("n",),
        "clean": ("clean",),
        "zero": (site, "zero"),
        "mean": (site, "mean"),
        "spliced": (site, "bank", name),
        KL: (site, "bank", name, KL),
    }
    return {sum_: sums.by_name[key].cpu().numpy() for sum_, key in keys.items()}


def logits(
    lm: LanguageModel,
    batch: HeldOut,
    hooks: Mapping[str, Callable[..., Tensor]] | None = None,
) -> Float[Tensor, "B T V"]:
    """Logits of a batch with its sites spliced."""
    logits_BTV = lm.run(batch.tokens_NT, hooks or {}, logits=True)
    assert logits_BTV is not None
    return logits_BTV


def _constant(mean_D: Tensor) -> Replace:
    return lambda rows_ND: mean_D.to(rows_ND.dtype).expand_as(rows_ND)


def _through(sae: SAE) -> Replace:
    return lambda rows_ND: reconstruct(sae, rows_ND)


def summarise(per_document: PerDocument, held_out: HeldOut, config: EvalConfig) -> Result:
    """The result of one bank from its sums by document."""
    counted_R = next(iter(per_document.values()))["n"]
    tokens, documents = int(counted_R.sum()), int((counted_R > 0).sum())
    series = {}
    for site, sums in per_document.items():
        ablated = {
            f"ce_{kind}": float(sums[kind].sum()) / max(tokens, 1) for kind in ("zero", "mean")
        }
        series[site] = {"ablation": ablated}
    return Result(
        evaluation=Splice.name,
        title=Splice.title,
        config=asdict(config)
        | {
            "counted": COUNTED,
            "intervals": bootstrap.describe(documents, config.bootstrap, config.seed),
            "held_out": held_out.digest,
        },
        tokens=tokens,
        documents=documents,
        metrics=METRICS,
        sites={
            site: bootstrap.estimate(sums, STATISTICS, config.bootstrap, config.seed)
            for site, sums in per_document.items()
        },
        series=series,
    )
