"""What it costs to make near-equal latents one: FVU before and after, on other held-out tokens than
those by which the latents were weighted."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.dedup import clusters, merge, tie
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure import bootstrap
from saeworks.measure.banks import Bank, site_means, sites_of
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tracker, silent
from saeworks.measure.studies.reconstruction import SiteSums, per_document, tally
from saeworks.results.metric import Metric, Value
from saeworks.results.result import Result

METRICS = {
    "live": Metric("Live", "Latents that fire on the first half of the tokens.", "latents"),
    "distinct": Metric(
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
    "fvu": Metric("FVU", "As it was, on the second half of the tokens.", better="lower"),
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


@torch.no_grad()
def dedup(
    banks: Mapping[str, Bank],
    lm: LanguageModel,
    held_out: HeldOut,
    config: EvalConfig,
    threshold: float,
    progress: Tracker = silent,
) -> dict[str, Result]:
    """De-duplicate every SAE by how often its latents fire on one half of the tokens, and measure
    FVU on the other: three passes of the language model over a half.

    Raises:
        UserError: if the tokens cannot be halved.
    """
    first, second = held_out.halves()
    sites = sites_of(banks, lm)
    passes = first.tokens_NT.numel() + 2 * second.tokens_NT.numel()
    with progress("dedup", passes) as tick:
        zeros = {site: torch.zeros(lm.width(site), device=lm.device) for site in sites}
        weighed = tally(banks, lm, first, zeros, tick)
        found = {
            (name, site): _variants(sae, weighed[name][site].fired, threshold)
            for name, bank in banks.items()
            for site, sae in bank.items()
        }
        flat = {
            f"{kind} {name}": {
                site: found[name, site][1][kind] for site in bank if kind in found[name, site][1]
            }
            for name, bank in banks.items()
            for kind in (_AS_IT_WAS, _TIED, _MERGED)
        }
        flat = {name: bank for name, bank in flat.items() if bank}
        means = site_means(lm, sites, second, tick)
        sums = tally(flat, lm, second, means, tick)
    return {
        name: Result(
            evaluation="dedup",
            title="Near-equal latents made one",
            config=asdict(config)
            | {
                "intervals": bootstrap.describe(second.documents, config.bootstrap, config.seed),
                "held_out": held_out.digest,
                "threshold": threshold,
            },
            tokens=second.kept,
            documents=second.documents,
            metrics=METRICS,
            sites={
                site: found[name, site][0]
                | _fvus(
                    {
                        kind: sums[f"{kind} {name}"][site]
                        for kind in (_AS_IT_WAS, _TIED, _MERGED)
                        if site in sums.get(f"{kind} {name}", {})
                    },
                    config,
                )
                for site in bank
            },
        )
        for name, bank in banks.items()
    }


def _variants(
    sae: SAE, fired_M: Int[Tensor, " M"], threshold: float
) -> tuple[dict[str, Value], dict[str, SAE]]:
    """How many latents are left, and the SAEs."""
    across = clusters(sae, fired_M.double(), threshold)
    within = clusters(sae, fired_M.double(), threshold, across=False)
    counts = {
        "live": Value(float((fired_M > 0).sum())),
        "distinct": Value(float(across.distinct)),
        "merged": Value(float(within.distinct)),
    }
    saes = {_AS_IT_WAS: sae, _TIED: tie(sae, across)}
    with suppress(UserError):  # too few latents for its k: the metric is undefined
        saes[_MERGED] = merge(sae, within)
    return counts, saes


def _fvus(sums: Mapping[str, SiteSums], config: EvalConfig) -> dict[str, Value]:
    """FVU of each variant with its ratio to the SAE as it was, on the same documents."""
    per = per_document(sums)
    columns = {f"{kind} {key}": column for kind, one in per.items() for key, column in one.items()}
    n = per[_AS_IT_WAS]["n"]
    drawn = bootstrap.resampled(columns, n > 0, config.bootstrap, config.seed)
    undefined = np.full(1, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        fvu = {kind: drawn.sums[f"{kind} error"] / drawn.sums[f"{kind} variance"] for kind in per}
        was, tied = fvu[_AS_IT_WAS], fvu[_TIED]
        merged = fvu.get(_MERGED, undefined)
        return {
            "fvu": drawn.interval(was),
            "fvu_tied": drawn.interval(tied),
            "fvu_merged": drawn.interval(merged),
            "fvu_tied_ratio": drawn.interval(tied / was),
            "fvu_merged_ratio": drawn.interval(merged / was),
        }
