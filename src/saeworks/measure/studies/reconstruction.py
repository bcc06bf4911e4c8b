"""How well each site's SAE reconstructs held-out activations, and how its latents fire.

Shapes: N tokens, D model width, M latents, R documents (rows of per-document sums).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.activations.outliers import beyond
from saeworks.config import EvalConfig
from saeworks.dictionary.base import SparseCode
from saeworks.measure import bootstrap
from saeworks.measure.banks import Bank, firing, widest
from saeworks.measure.engine import Chunk, Measured, Reading, Study, Subject
from saeworks.measure.held_out import HeldOut
from saeworks.measure.studies import outliers
from saeworks.measure.studies.outliers import SiteMeans, Usual
from saeworks.measure.sums import PerDocument
from saeworks.results import regime
from saeworks.results.figure import Axis, Figure, Trace
from saeworks.results.headlines import (
    COSINE,
    DEAD_SHARE,
    FVU,
    FVU_WITHOUT_OUTLIERS,
    L0,
    MSE,
    OUTLIER_SHARE,
)
from saeworks.results.metric import Metric, Value
from saeworks.results.records import plain
from saeworks.results.result import Result
from saeworks.results.series import Histogram

METRICS = {
    FVU: Metric(
        "FVU",
        "Fraction of variance unexplained: Σ‖x−x̂‖² / Σ‖x−x̄‖², a ratio of sums in raw space; x̄ is "
        "the site's mean over the same tokens.",
        better="lower",
    ),
    MSE: Metric("MSE", "Mean squared error per token and dimension, raw space.", better="lower"),
    COSINE: Metric("Cosine", "Mean cosine of x and x̂ (0 where x̂ is 0).", better="higher"),
    L0: Metric("L0", "Mean number of latents that fire on a token.", "latents/token"),
    "l1": Metric("L1", "Mean sum of a token's activations, in the site's raw units."),
    "l2_ratio": Metric("L2 ratio", "Mean of ‖x̂‖/‖x‖; below 1 where the SAE shrinks.", better="one"),
    "relative_bias": Metric(
        "Relative bias",
        "Relative reconstruction bias γ = E‖x̂‖² / E⟨x, x̂⟩ (Rajamanoharan et al. 2024); below 1 "
        "where the SAE shrinks, 1 where it is unbiased.",
        better="one",
    ),
    DEAD_SHARE: Metric(
        "Dead",
        "Share of latents that never fire on the evaluated tokens (no interval: on more tokens it "
        "can only fall).",
        better="lower",
    ),
}

_SUMS = (
    "n", "error", "variance", COSINE, L0, "l1", "l2_ratio", "x_hat_squared", "x_dot_x_hat",
    "outliers", "usual_error", "usual_variance",
)  # fmt: skip


@dataclass
class SiteSums:
    """What one pass leaves of an SAE: sums by document, and counts by latent.

    Attributes:
        sums: the columns are `_SUMS`; float64.
        fired: tokens on which each latent fires (is strictly positive).
        total: sum of its activations.
        peak: its largest activation.
    """

    sums: Float[Tensor, "R S"]
    fired: Int[Tensor, " M"]
    total: Float[Tensor, " M"]
    peak: Float[Tensor, " M"]

    @classmethod
    def empty(cls, rows: int, width: int, device: torch.device) -> "SiteSums":
        """Nothing seen yet."""
        return cls(
            torch.zeros(rows, len(_SUMS), dtype=torch.float64, device=device),
            torch.zeros(width, dtype=torch.int64, device=device),
            torch.zeros(width, dtype=torch.float64, device=device),
            torch.zeros(width, dtype=torch.float64, device=device),
        )

    def add(
        self,
        code: SparseCode,
        x_ND: Float[Tensor, "N D"],
        x_hat_ND: Float[Tensor, "N D"],
        mean_D: Float[Tensor, " D"],
        row_N: Int[Tensor, " N"],
        usual: Usual | None = None,
    ) -> None:
        """Count tokens in; row_N is each token's document. Without `usual`, none is an outlier."""
        x, x_hat = x_ND.double(), x_hat_ND.double()
        x_norm, x_hat_norm = x.norm(dim=1), x_hat.norm(dim=1)
        dot = (x * x_hat).sum(dim=1)
        owner, indices, values = firing(code)
        zeros = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        error_N = (x - x_hat).square().sum(dim=1)
        variance_N = (x - mean_D).square().sum(dim=1)
        far_N, usual_variance_N = zeros, variance_N
        if usual is not None and usual.others:
            far_N = beyond(x_ND, usual.limit).double()
            usual_variance_N = (x - usual.mean).square().sum(dim=1)
        sums_NS = torch.stack(
            [
                torch.ones_like(zeros),
                error_N,
                variance_N,
                _divide(dot, x_norm * x_hat_norm),
                zeros.index_add(0, owner, torch.ones_like(values)),
                zeros.index_add(0, owner, values),
                _divide(x_hat_norm, x_norm),
                x_hat_norm.square(),
                dot,
                far_N,
                torch.where(far_N > 0, 0.0, error_N),
                torch.where(far_N > 0, 0.0, usual_variance_N),
            ],
            dim=1,
        )
        self.sums.index_add_(0, row_N, sums_NS)
        self.fired += torch.bincount(indices, minlength=code.width)
        self.total.index_add_(0, indices, values)
        self.peak.scatter_reduce_(0, indices, values, "amax")


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0.0)


Tallies = Mapping[str, Mapping[str, SiteSums]]
"""Bank → site → what one pass over the held-out tokens leaves."""


@final
class Tally(Reading):
    """What an SAE does with each token, as sums by document and counts by latent.

    Attributes:
        tallies: bank → site → the sums.
    """

    title = "reconstruction"

    def __init__(
        self,
        banks: Mapping[str, Bank],
        held_out: HeldOut,
        means: SiteMeans,
        with_outliers: bool = True,
    ) -> None:
        self.banks, self.held_out = banks, held_out
        self.sites = {site for bank in banks.values() for site in bank}
        self.width = widest(banks)
        self.needs, self._means, self._with_outliers = (means,), means, with_outliers
        self.tallies: dict[str, dict[str, SiteSums]] = {
            name: {
                site: SiteSums.empty(held_out.rows, sae.width, sae.b_dec.device)
                for site, sae in bank.items()
            }
            for name, bank in banks.items()
        }

    def rows(self, site: str, chunk: Chunk) -> None:
        mean_D = self._means.means[site]
        usual = self._means.usual[site] if self._with_outliers else None
        for name, bank in self.banks.items():
            if site in bank:
                code, x_hat_ND = chunk.code(bank[site]), chunk.x_hat(bank[site])
                self.tallies[name][site].add(
                    code, chunk.x_ND, x_hat_ND, mean_D, chunk.document_N, usual
                )


FREQUENCY = "log10_frequency_histogram"


@final
class Reconstruction(Study):
    """FVU, MSE, cosine, L0, L1, l2 ratio, relative bias, dead share per site, and how often latents
    fire. Where training left outliers out, also FVU with them."""

    name = "reconstruction"
    title = "Reconstruction of held-out activations"
    metrics: ClassVar = METRICS
    headline = (FVU, L0, FVU_WITHOUT_OUTLIERS, DEAD_SHARE, regime.KEY)
    figures = (
        Figure(
            "frequency",
            "histogram",
            (Trace(x=f"{FREQUENCY}.edges", y=f"{FREQUENCY}.counts"),),
            lines="suites",
            x=Axis("log₁₀ frequency"),
            y=Axis("latents", zero=True),
        ),
    )

    def __init__(self, subject: Subject, config: EvalConfig) -> None:
        self.subject, self.config = subject, config
        self.held_out = subject.held_out(config.tokens)
        self.means = SiteMeans(subject.lm, subject.sites, self.held_out)
        self.tally = Tally(subject.banks, self.held_out, self.means)
        self.readings: Sequence[Reading] = (self.tally,)
        self.with_outliers: Tally | None = None
        all_tokens = subject.with_outliers(config.tokens)
        if all_tokens.kept > self.held_out.kept:
            means = SiteMeans(subject.lm, subject.sites, all_tokens)
            self.with_outliers = Tally(subject.banks, all_tokens, means, with_outliers=False)
            self.readings = (self.tally, self.with_outliers)

    def results(self) -> dict[str, Measured]:
        results = summarise(self.tally.tallies, self.subject.banks, self.held_out, self.config)
        if self.with_outliers is not None:
            results = _with_outliers(results, self.with_outliers, self.config)
        return {
            name: Measured(result, per_document(self.tally.tallies[name]))
            for name, result in results.items()
        }


def summarise(
    tallies: Tallies, banks: Mapping[str, Bank], held_out: HeldOut, config: EvalConfig
) -> dict[str, Result]:
    """The result of each bank from what its pass left."""
    far = {
        name: any(
            bool(site_sums.sums[:, _SUMS.index("outliers")].any()) for site_sums in sites.values()
        )
        for name, sites in tallies.items()
    }
    return {
        name: Reconstruction.result(
            config,
            held_out,
            {
                site: _values(sums, banks[name][site].d, config, far[name])
                for site, sums in sites.items()
            },
            {
                site: {FREQUENCY: _histogram(sums.fired, held_out.kept)}
                for site, sums in sites.items()
            },
            METRICS | (_of(outliers.METRICS, OUTLIER_STATISTICS) if far[name] else {}),
            {"intervals": bootstrap.describe(held_out.documents, config.bootstrap, config.seed)},
        )
        for name, sites in tallies.items()
    }


def per_document(sites: Mapping[str, SiteSums]) -> PerDocument:
    """A bank's sums by document, by the names that `statistics` uses."""
    return {
        site: dict(zip(_SUMS, tallied.sums.cpu().numpy().T, strict=True))
        for site, tallied in sites.items()
    }


def _values(site: SiteSums, d: int, config: EvalConfig, far: bool) -> dict[str, Value]:
    sums = per_document({"": site})[""]
    known = statistics(d) | (OUTLIER_STATISTICS if far else {})
    values = bootstrap.estimate(sums, known, config.bootstrap, config.seed)
    return values | {DEAD_SHARE: Value(float((site.fired == 0).double().mean()))}


def _of(metrics: Mapping[str, Metric], names: Iterable[str]) -> dict[str, Metric]:
    return {name: metrics[name] for name in names}


def _with_outliers(
    results: Mapping[str, Result], tally: Tally, config: EvalConfig
) -> dict[str, Result]:
    """The results of tokens without outliers, and beside them the FVU of all tokens."""
    extended = {}
    for name, result in results.items():
        share = Value(1 - result.tokens / tally.held_out.kept)
        added = {
            site: bootstrap.estimate(sums, EXCLUDED_STATISTICS, config.bootstrap, config.seed)
            | {outliers.EXCLUDED_SHARE: share}
            for site, sums in per_document(tally.tallies[name]).items()
        }
        sites = {site: {**values, **added[site]} for site, values in result.sites.items()}
        metrics = _of(outliers.METRICS, (outliers.EXCLUDED_SHARE, *EXCLUDED_STATISTICS))
        extended[name] = replace(result, metrics={**result.metrics, **metrics}, sites=sites)
    return extended


OUTLIER_STATISTICS: dict[str, bootstrap.Statistic] = {
    OUTLIER_SHARE: lambda s: s["outliers"] / s["n"],
    FVU_WITHOUT_OUTLIERS: lambda s: s["usual_error"] / s["usual_variance"],
}
EXCLUDED_STATISTICS: dict[str, bootstrap.Statistic] = {
    outliers.WITH_EXCLUDED: lambda s: s["error"] / s["variance"],
}


def statistics(d: int) -> dict[str, bootstrap.Statistic]:
    """The metrics as functions of the sums of `per_document`, for activations of width d."""
    return {
        FVU: lambda s: s["error"] / s["variance"],
        MSE: lambda s: s["error"] / (s["n"] * d),
        COSINE: lambda s: s[COSINE] / s["n"],
        L0: lambda s: s[L0] / s["n"],
        "l1": lambda s: s["l1"] / s["n"],
        "l2_ratio": lambda s: s["l2_ratio"] / s["n"],
        "relative_bias": lambda s: s["x_hat_squared"] / s["x_dot_x_hat"],
    }


def _histogram(fired_M: Tensor, tokens: int) -> dict[str, Any]:
    """Counts of live latents by log10 of the share of tokens they fire on, five bins a decade."""
    fired = fired_M.cpu().numpy()
    low = int(np.floor(np.log10(1.0 / tokens)))
    edges = np.round(np.linspace(low, 0, 5 * -low + 1), 6) if low < 0 else np.array([-1.0, 0.0])
    counts, _ = np.histogram(np.log10(fired[fired > 0] / tokens), bins=edges)
    drawn: dict[str, Any] = plain(Histogram(edges.tolist(), counts.tolist()))
    return drawn | {"dead": int((fired == 0).sum())}
