"""Neuronpedia's dashboards of a suite's latents, from what was measured of them.

The files are those that SAEDashboard 0.8.0 writes (`neuronpedia_dashboard.py`: a folder per SAE
with `batch-0.json`, `batch-1.json`, …) and Neuronpedia's script
`convert-saedashboard-to-neuronpedia-export.py` reads. What nobody measured here is an empty list,
which is SAEDashboard's own default: alignment and correlation with neurons, the histogram of
logits, weights by head, the decoder vector.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from saeworks.cost.progress import Progress
from saeworks.errors import UserError
from saeworks.files.access import write_json
from saeworks.interop.base import folder_name
from saeworks.results.latents import read_latents, size_of_latents
from saeworks.results.series import Histogram, Latent, TokenContext
from saeworks.results.suite_meta import SuiteMeta

BATCH = 128
"""Latents of a file, as SAEDashboard has them."""


def export(
    path: Path, meta: SuiteMeta, out: Path, sites: Sequence[str], say: Callable[[str], None]
) -> None:
    """Write the latents of `results/latents.json` at some sites of a suite, a folder for each.

    Raises:
        UserError: if the suite has no such latents, or a site's name tells no layer.
    """
    again = f"saeworks eval {path}"
    heads = {
        site: {"model_id": meta.model.name, "layer": _layer(site), "sae_set": meta.variant}
        for site in sites
    }
    batches: dict[str, list[Latent]] = {site: [] for site in sites}
    known: set[str] = set()
    size = size_of_latents(path)
    with Progress(f"{path}: looking", size, say, unit="bytes") as progress:
        result, _ = read_latents(path, again, lambda site, _: known.add(site), progress.add)
    if missing := [site for site in sites if site not in known]:
        raise UserError(f"{path} has no latents of {missing[0]}; run `{again}`")
    about = {
        "n_prompts_total": result.documents,
        "n_tokens_in_prompt": meta.text.get("context", 0),
        "dataset": str(meta.text.get("source", "")),
    }
    written = dict.fromkeys(sites, 0)

    def write(site: str) -> None:
        features = [_feature(latent) | about for latent in batches[site]]
        batch = heads[site] | {"sae_id_suffix": None, "features": features}
        write_json(out / folder_name(site) / f"batch-{written[site]}.json", batch)
        written[site] += 1
        batches[site].clear()

    def take(site: str, latent: Latent) -> None:
        if site in batches:
            batches[site].append(latent)
            if len(batches[site]) == BATCH:
                write(site)

    with Progress(f"{path}: writing", size, say, unit="bytes") as progress:
        read_latents(path, again, take, progress.add)
    for site in sites:
        if batches[site]:
            write(site)


def _layer(site: str) -> int:
    """The number of a site's layer, which stands in its name.

    Raises:
        UserError: if none does.
    """
    number = re.search(r"(?:^|\.)(\d+)(?:\.|@|$)", site)
    if number is None:
        raise UserError(f"site {site!r} names no layer, which Neuronpedia asks for")
    return int(number[1])


def _feature(latent: Latent) -> dict[str, Any]:
    """A latent as SAEDashboard's `NeuronpediaDashboardFeature`."""
    edges, counts = latent.histogram.edges, latent.histogram.counts
    return {
        "feature_index": latent.latent,
        "neuron_alignment_indices": [],
        "neuron_alignment_values": [],
        "neuron_alignment_l1": [],
        "correlated_neurons_indices": [],
        "correlated_neurons_l1": [],
        "correlated_neurons_pearson": [],
        "correlated_features_indices": [partner.latent for partner in latent.partners],
        # φ is Pearson's correlation of firing; theirs is of activations, and no cosine of these
        # was measured
        "correlated_features_pearson": [partner.phi for partner in latent.partners],
        "correlated_features_l1": [None] * len(latent.partners),
        "neg_str": [effect.token for effect in latent.suppressed],
        "neg_values": [effect.effect for effect in latent.suppressed],
        "pos_str": [effect.token for effect in latent.promoted],
        "pos_values": [effect.effect for effect in latent.promoted],
        "frac_nonzero": latent.frequency or 0.0,
        # the page reads both lists in step, so values are the middles of the bins, not their edges
        "freq_hist_data_bar_values": [(low + high) / 2 for low, high in pairwise(edges)],
        "freq_hist_data_bar_heights": counts,
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        "decoder_weights_dist": [],
        "activations": [_activation(context, latent.histogram) for context in latent.contexts],
        "vector": [],
    }


def _activation(context: TokenContext, histogram: Histogram) -> dict[str, Any]:
    """A context as SAEDashboard's `NeuronpediaDashboardActivation`: among the largest, bins are
    −1, the largest activation and −1; else those of the histogram that its peak is in."""
    values = [value or 0.0 for value in context.activations]
    low, high, share = -1.0, histogram.edges[-1], -1.0
    if context.kind == "quantile" and any(histogram.counts):
        peak = values[context.peak]
        inside = (bin_ for bin_, high in enumerate(histogram.edges[1:]) if peak <= high)
        at = next(inside, len(histogram.counts) - 1)
        low, high = histogram.edges[at], histogram.edges[at + 1]
        share = histogram.counts[at] / sum(histogram.counts)
    return {
        "bin_min": low,
        "bin_max": high,
        "bin_contains": share,
        "tokens": context.tokens,
        "values": values,
        "qualifying_token_index": context.peak,
    }
