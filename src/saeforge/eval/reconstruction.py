"""How well each site's SAE reconstructs held-out activations, and how its latents fire.

Shapes: N tokens, D model width, M latents, R documents (rows of per-document sums).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeforge.config import EvalConfig
from saeforge.dictionary.base import SAE
from saeforge.eval import bootstrap
from saeforge.eval.banks import (
    Bank,
    firing,
    for_each_site,
    row_chunks,
    site_means,
    sites_of,
)
from saeforge.eval.held_out import HeldOut
from saeforge.eval.progress import Tick, Tracker, silent
from saeforge.eval.result import Metric, Result, Value
from saeforge.eval.sums import PerDocument
from saeforge.lm.model import LanguageModel

METRICS = {
    "fvu": Metric(
        "FVU",
        "Fraction of variance unexplained: Σ‖x−x̂‖² / Σ‖x−x̄‖², a ratio of sums in raw space; x̄ is "
        "the site's mean over the same tokens.",
        better="lower",
    ),
    "mse": Metric("MSE", "Mean squared error per token and dimension, raw space.", better="lower"),
    "cosine": Metric("Cosine", "Mean cosine of x and x̂ (0 where x̂ is 0).", better="higher"),
    "l0": Metric("L0", "Mean number of latents that fire on a token.", "latents/token"),
    "l1": Metric("L1", "Mean sum of a token's activations, in the site's raw units."),
    "l2_ratio": Metric("L2 ratio", "Mean of ‖x̂‖/‖x‖; below 1 where the SAE shrinks.", better="one"),
    "relative_bias": Metric(
        "Relative bias",
        "Relative reconstruction bias γ = E‖x̂‖² / E⟨x, x̂⟩ (Rajamanoharan et al. 2024); below 1 "
        "where the SAE shrinks, 1 where it is unbiased.",
        better="one",
    ),
    "dead_share": Metric(
        "Dead",
        "Share of latents that never fire on the evaluated tokens (no interval: on more tokens it "
        "can only fall).",
        better="lower",
    ),
}

_SUMS = (
    "n", "error", "variance", "cosine", "l0", "l1", "l2_ratio", "x_hat_squared", "x_dot_x_hat"
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
        sae: SAE,
        x_ND: Float[Tensor, "N D"],
        mean_D: Float[Tensor, " D"],
        row_N: Int[Tensor, " N"],
    ) -> None:
        """Count tokens in; row_N is each token's document."""
        for part in row_chunks(len(x_ND), sae.width):
            self._add(sae, x_ND[part], mean_D, row_N[part])

    def _add(self, sae: SAE, x_ND: Tensor, mean_D: Tensor, row_N: Tensor) -> None:
        code = sae.encode_sparse(x_ND)
        x, x_hat = x_ND.double(), sae.decode(code).double()
        x_norm, x_hat_norm = x.norm(dim=1), x_hat.norm(dim=1)
        dot = (x * x_hat).sum(dim=1)
        owner, indices, values = firing(code)
        zeros = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        sums_NS = torch.stack(
            [
                torch.ones_like(zeros),
                (x - x_hat).square().sum(dim=1),
                (x - mean_D).square().sum(dim=1),
                _divide(dot, x_norm * x_hat_norm),
                zeros.index_add(0, owner, torch.ones_like(values)),
                zeros.index_add(0, owner, values),
                _divide(x_hat_norm, x_norm),
                x_hat_norm.square(),
                dot,
            ],
            dim=1,
        )
        self.sums.index_add_(0, row_N, sums_NS)
        self.fired += torch.bincount(indices, minlength=sae.width)
        self.total.index_add_(0, indices, values)
        self.peak.scatter_reduce_(0, indices, values, "amax")


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0.0)


Tallies = Mapping[str, Mapping[str, SiteSums]]
"""Bank → site → what one pass over the held-out tokens leaves."""


@torch.no_grad()
def tally(
    banks: Mapping[str, Bank],
    lm: LanguageModel,
    held_out: HeldOut,
    means: Mapping[str, Tensor],
    tick: Tick,
) -> Tallies:
    """One pass of the language model feeds every SAE of every bank."""
    tallies = {
        name: {
            site: SiteSums.empty(held_out.rows, sae.width, lm.device) for site, sae in bank.items()
        }
        for name, bank in banks.items()
    }

    def visit(site: str, rows_ND: Tensor, batch: HeldOut) -> None:
        row_N = batch.row_NT[batch.keep_NT]
        for name, bank in banks.items():
            if site in bank:
                tallies[name][site].add(bank[site], rows_ND, means[site], row_N)

    for_each_site(lm, sites_of(banks, lm), held_out, visit, tick)
    return tallies


def reconstruction(
    banks: Mapping[str, Bank],
    lm: LanguageModel,
    held_out: HeldOut,
    config: EvalConfig,
    progress: Tracker = silent,
) -> dict[str, Result]:
    """FVU, MSE, cosine, L0, L1, l2 ratio, relative bias, dead share per site, and how often
    latents fire; for any number of banks on the same tokens.

    Two passes of the language model, whatever the number of sites and banks: one for each site's
    mean (FVU's denominator), one for everything else. Memory is bounded by documents and latents,
    not by tokens.

    Raises:
        UserError: if a bank has no SAE, a site is unknown or of another width, or an activation is
            NaN or infinite.
    """
    sites = sites_of(banks, lm)
    with progress("reconstruction", 2 * held_out.tokens_NT.numel()) as tick:
        means = site_means(lm, sites, held_out, tick)
        tallies = tally(banks, lm, held_out, means, tick)
    return summarise(tallies, banks, held_out, config)


def summarise(
    tallies: Tallies, banks: Mapping[str, Bank], held_out: HeldOut, config: EvalConfig
) -> dict[str, Result]:
    """The result of each bank from what its pass left."""
    return {
        name: Result(
            evaluation="reconstruction",
            title="Reconstruction of held-out activations",
            config=asdict(config)
            | {
                "intervals": bootstrap.describe(held_out.documents, config.bootstrap, config.seed),
                "held_out": held_out.digest,
            },
            tokens=held_out.kept,
            documents=held_out.documents,
            metrics=METRICS,
            sites={
                site: _values(sums, banks[name][site].d, config) for site, sums in sites.items()
            },
            series={
                site: {"log10_frequency_histogram": _histogram(sums.fired, held_out.kept)}
                for site, sums in sites.items()
            },
        )
        for name, sites in tallies.items()
    }


def per_document(sites: Mapping[str, SiteSums]) -> PerDocument:
    """A bank's sums by document, by the names that `statistics` uses."""
    return {
        site: dict(zip(_SUMS, tallied.sums.cpu().numpy().T, strict=True))
        for site, tallied in sites.items()
    }


def _values(site: SiteSums, d: int, config: EvalConfig) -> dict[str, Value]:
    sums = per_document({"": site})[""]
    values = bootstrap.estimate(sums, statistics(d), config.bootstrap, config.seed)
    return values | {"dead_share": Value(float((site.fired == 0).double().mean()))}


def statistics(d: int) -> dict[str, bootstrap.Statistic]:
    """The metrics as functions of the sums of `per_document`, for activations of width d."""
    return {
        "fvu": lambda s: s["error"] / s["variance"],
        "mse": lambda s: s["error"] / (s["n"] * d),
        "cosine": lambda s: s["cosine"] / s["n"],
        "l0": lambda s: s["l0"] / s["n"],
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
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "dead": int((fired == 0).sum()),
    }
