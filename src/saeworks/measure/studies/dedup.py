"""What it costs to make near-equal latents one: FVU before and after, on other held-out tokens than
those by which the latents were weighted."""

from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.dedup import clusters, merge, tie
from saeworks.errors import UserError
from saeworks.measure import bootstrap
from saeworks.measure.banks import firing
from saeworks.measure.engine import Chunk, Measured, Reading, Study, Subject
from saeworks.measure.held_out import HeldOut
from saeworks.measure.studies.geometry import DISTINCT, LIVE
from saeworks.measure.studies.outliers import SiteMeans
from saeworks.measure.studies.reconstruction import SiteSums, Tally, per_document
from saeworks.results.headlines import FVU
from saeworks.results.metric import Metric, Value
from saeworks.results.names import DEDUP
from saeworks.results.result import TABLE

METRICS = {
    LIVE: Metric("Live", "Latents that fire on the first half of the tokens.", "latents"),
    DISTINCT: Metric(
        "Live, distinct",
        "Directions left where each live latent whose decoder row has a cosine above the threshold "
        "with a more frequent one's takes over that one's, in whatever expert.",
        "latents",
    ),
    "merged": Metric(
        "Live, merged",
        "Live latents left where such latents are made one; of those of one expert only, since a "
        "token's expert computes no latent of another.",
        "latents",
    ),
    FVU: Metric("FVU", "As it was, on the second half of the tokens.", better="lower"),
    "fvu_tied": Metric(
        "FVU, shared directions",
        "With a decoder row for each distinct direction (the mean of its latents' by how often "
        "they fire); encoder and code as they were.",
        better="lower",
    ),
    "fvu_merged": Metric(
        "FVU, merged",
        "With one latent, encoder row and all, for each of those merged; none where an SAE cannot "
        "have so few (k above what is left).",
        better="lower",
    ),
    "fvu_tied_ratio": Metric("FVU ratio, shared", "FVU, shared directions / FVU.", better="lower"),
    "fvu_merged_ratio": Metric("FVU ratio, merged", "FVU, merged / FVU.", better="lower"),
}
_AS_IT_WAS, _TIED, _MERGED = "as it was", "tied", "merged"


@final
class Fired(Reading):
    """How often each latent fires, by bank and site."""

    title = DEDUP

    def __init__(self, tally: Tally, held_out: HeldOut) -> None:
        self.held_out, self.beside = held_out, tally
        self.sites, self.width, self._banks = tally.sites, tally.width, tally.banks
        self.counts = {
            (name, site): torch.zeros(sae.width, dtype=torch.int64, device=sae.b_dec.device)
            for name, bank in tally.banks.items()
            for site, sae in bank.items()
        }

    def rows(self, site: str, chunk: Chunk) -> None:
        for name, bank in self._banks.items():
            if site in bank:
                _, indices, _ = firing(chunk.code(bank[site]))
                counts_M = self.counts[name, site]
                counts_M += torch.bincount(indices, minlength=len(counts_M))


@final
class Variants(Reading):
    """The sums of every SAE as it was and de-duplicated by how often its latents fire.

    Attributes:
        counts: bank, site → how many latents are left.
        sums: bank, site → variant → its sums.
    """

    title = DEDUP

    def __init__(self, tally: Tally, fired: Fired, means: SiteMeans, threshold: float) -> None:
        self.held_out, self.needs = means.held_out, (fired, means)
        self.sites, self.width, self._banks = tally.sites, tally.width, tally.banks
        self._fired, self._means, self._threshold = fired, means, threshold
        self.counts: dict[tuple[str, str], dict[str, Value]] = {}
        self.sums: dict[tuple[str, str], dict[str, SiteSums]] = {}
        self._saes: dict[tuple[str, str], dict[str, SAE]] = {}

    def begin(self) -> None:
        for name, bank in self._banks.items():
            for site, sae in bank.items():
                fired_M = self._fired.counts[name, site]
                counts, saes = _variants(sae, fired_M, self._threshold)
                self.counts[name, site], self._saes[name, site] = counts, saes
                self.sums[name, site] = {
                    kind: SiteSums.empty(self.held_out.rows, variant.width, fired_M.device)
                    for kind, variant in saes.items()
                }

    def rows(self, site: str, chunk: Chunk) -> None:
        for (name, at), saes in self._saes.items():
            for kind, sae in saes.items() if at == site else ():
                code, x_hat_ND = chunk.code(sae), chunk.x_hat(sae)
                mean_D, sums = self._means.means[site], self.sums[name, site][kind]
                sums.add(code, chunk.x_ND, x_hat_ND, mean_D, chunk.document_N)


@final
class Dedup(Study):
    """De-duplicate every SAE by how often its latents fire on one half of the tokens, and measure
    FVU on the other.

    Raises:
        UserError: if the tokens cannot be halved.
    """

    name = DEDUP
    title = "Near-equal latents made one"
    metrics: ClassVar = METRICS
    headline = ("fvu_tied_ratio", "fvu_merged_ratio")
    sentences: ClassVar = {TABLE: "After merging duplicates"}

    def __init__(
        self, subject: Subject, config: EvalConfig, threshold: float, tally: Tally
    ) -> None:
        self.config, self.threshold, self.tally = config, threshold, tally
        first, self.second = tally.held_out.halves()
        means = SiteMeans(subject.lm, subject.sites, self.second)
        self.variants = Variants(tally, Fired(tally, first), means, threshold)
        self.readings = (self.variants,)

    def results(self) -> dict[str, Measured]:
        config, second, variants = self.config, self.second, self.variants
        intervals = bootstrap.describe(second.documents, config.bootstrap, config.seed)
        digest, measured = self.tally.held_out.digest, {}
        for name, bank in self.tally.banks.items():
            values = {
                site: variants.counts[name, site] | _fvus(variants.sums[name, site], config)
                for site in bank
            }
            about = {"held_out": digest, "intervals": intervals, "threshold": self.threshold}
            result = self.result(config, second, values, about=about)
            measured[name] = Measured(result)
        return measured


def _variants(
    sae: SAE, fired_M: Int[Tensor, " M"], threshold: float
) -> tuple[dict[str, Value], dict[str, SAE]]:
    """The number of latents left in each variant, and the variants' SAEs."""
    across = clusters(sae, fired_M.double(), threshold)
    within = clusters(sae, fired_M.double(), threshold, across=False)
    counts = {
        LIVE: Value(float((fired_M > 0).sum())),
        DISTINCT: Value(float(across.distinct)),
        "merged": Value(float(within.distinct)),
    }
    saes = {_AS_IT_WAS: sae, _TIED: tie(sae, across)}
    with suppress(UserError):  # too few latents for its k: the metric is undefined
        saes[_MERGED] = merge(sae, within)
    return counts, saes


def _fvus(sums: Mapping[str, SiteSums], config: EvalConfig) -> dict[str, Value]:
    """FVU of each variant with its ratio to the SAE as it was, on the same documents."""
    per = per_document(sums)
    columns = {
        f"{kind} {key}": column for kind, of_kind in per.items() for key, column in of_kind.items()
    }
    n = per[_AS_IT_WAS]["n"]
    drawn = bootstrap.resampled(columns, n > 0, config.bootstrap, config.seed)
    undefined = np.full(1, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        fvu = {kind: drawn.sums[f"{kind} error"] / drawn.sums[f"{kind} variance"] for kind in per}
        was, tied = fvu[_AS_IT_WAS], fvu[_TIED]
        merged = fvu.get(_MERGED, undefined)
        return {
            FVU: drawn.interval(was),
            "fvu_tied": drawn.interval(tied),
            "fvu_merged": drawn.interval(merged),
            "fvu_tied_ratio": drawn.interval(tied / was),
            "fvu_merged_ratio": drawn.interval(merged / was),
        }
