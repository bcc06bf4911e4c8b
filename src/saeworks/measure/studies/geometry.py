"""How the directions of a dictionary lie: duplicates, neighbours, similarity of experts, maps.

Only latents that fire on the held-out tokens count, and each counts once. Up to `SAMPLED` of them
are compared each with each; of more, a random sample of so many with all.

Shapes: M latents, L live ones, S those whose neighbours are looked for, D model width, N blocks
(experts), t rows of a tile.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.cosines import (
    leaders,
    nearest,
    tiles,
    unit,
)
from saeworks.dictionary.experts import experts_of
from saeworks.measure import bootstrap
from saeworks.measure.engine import Measured, Study
from saeworks.measure.studies.reconstruction import SiteSums, Tally, per_document
from saeworks.results.figure import Figure, Trace
from saeworks.results.metric import Metric, Value
from saeworks.results.names import EXPERTS, GEOMETRY, BlockKind
from saeworks.results.records import plain
from saeworks.results.result import TABLE
from saeworks.results.series import Duplicates, Nearest, Similarity, Tsne

DUPLICATE = 0.9
"""Two latents are duplicates where the cosine of their decoder rows is above this."""
THRESHOLDS = (0.7, 0.75, 0.8, 0.85, DUPLICATE, 0.95, 0.99)
LARGEST_MATRIX = 64
"""Blocks up to which a matrix of them is put into the result."""
SAMPLED = 2**15
"""Live latents of which neighbours are looked for: all pairs of more would take longer than it
takes to encode the tokens."""
_EDGES = np.round(np.linspace(-0.2, 1.0, 49), 3)
_RANDOM = 2048
"""Random rows whose nearest neighbour is looked for."""
_PERPLEXITY = 50

LIVE, DISTINCT = "live", "distinct"

METRICS = {
    LIVE: Metric("Live", "Latents that fire on the held-out tokens.", "latents"),
    DISTINCT: Metric(
        "Live, distinct",
        "Live latents left when, going from the one that fires most often down, each that has a "
        f"cosine above {DUPLICATE} with one that was kept is left out (decoder rows).",
        "latents",
        "higher",
    ),
    "distinct_share": Metric(
        "Distinct share", "Distinct live latents / live latents.", better="higher"
    ),
    "duplicate_share": Metric(
        "Duplicates",
        "Share of live latents whose decoder row has a cosine above "
        f"{DUPLICATE} with another live one's.",
        better="lower",
    ),
    "nearest_cosine": Metric(
        "Nearest cosine",
        "Mean over live latents of the largest cosine of the decoder row with another live one's.",
    ),
    "nearest_cosine_random": Metric(
        "Nearest cosine, random",
        "The same of as many isotropic random directions as there are live latents.",
    ),
    "within_similarity": Metric(
        "Similarity within",
        "Mean over blocks i of S_ii, S_ij = mean over live latents a of block i of the largest "
        "cosine of a with a live latent b ≠ a of block j. Blocks are the experts, or where an SAE "
        "has none equal runs of its latents.",
    ),
    "between_similarity": Metric("Similarity between", "Mean over blocks i ≠ j of S_ij."),
    "between_similarity_control": Metric(
        "Similarity between, shuffled",
        "The same after the live latents were shuffled over blocks of the same sizes.",
    ),
    "explained_per_thousand": Metric(
        "Explained per 1000 distinct",
        "1000 · (1 − FVU) / distinct live latents: what a latent that is not a duplicate explains.",
        better="higher",
    ),
}


@dataclass(frozen=True)
class BlockCosines:
    """Cosines within and between N blocks of unit rows.

    Attributes:
        matrix: S_ij, NaN where i has no row or j none but the row itself.
        nearest: of each row that was looked at, its largest cosine with another, in the order
            given; −1 where it is alone.
    """

    matrix: Float[Tensor, "N N"]
    nearest: Float[Tensor, " S"]


def similarity(
    unit_LD: Float[Tensor, "L D"],
    block_L: Int[Tensor, " L"],
    blocks: int,
    sample_S: Int[Tensor, " S"] | None = None,
) -> BlockCosines:
    """S_ij = mean over a in i of max over b in j, b ≠ a, of cos(a, b), in one pass over tiles of
    all cosines (Mudide et al. 2025, Efficient Dictionary Learning with Switch Sparse Autoencoders,
    §4.4).

    Args:
        sample_S: the rows a; all by default. The rows b are all in any case.
    """
    order_L = block_L.argsort(stable=True)
    rows_LD, owner_L = unit_LD[order_L], block_L[order_L]
    size_N = torch.bincount(owner_L, minlength=blocks)
    ends = size_N.cumsum(0).tolist()
    place_S = order_L.argsort() if sample_S is None else order_L.argsort()[sample_S]
    at_S, given_S = place_S.sort()
    sums_NN = torch.zeros(blocks, blocks, dtype=torch.float64, device=unit_LD.device)
    sorted_S = unit_LD.new_full((len(at_S),), -1.0)
    for part in tiles(len(at_S), len(rows_LD)):
        at_t = at_S[part]
        cosine_tL = rows_LD[at_t] @ rows_LD.T
        cosine_tL.scatter_(1, at_t[:, None], -1.0)
        best_tN = cosine_tL.new_full((len(cosine_tL), blocks), -1.0)
        for block, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if start < end:
                best_tN[:, block] = cosine_tL[:, start:end].amax(1)
        best_tN.clamp_(-1.0, 1.0)
        sums_NN.index_add_(0, owner_L[at_t], best_tN.double())
        sorted_S[part] = best_tN.amax(1)
    matrix_NN = sums_NN / torch.bincount(owner_L[at_S], minlength=blocks)[:, None]
    matrix_NN[:, size_N == 0] = torch.nan
    matrix_NN.diagonal()[size_N < 2] = torch.nan
    nearest_S = torch.empty_like(sorted_S)
    nearest_S[given_S] = sorted_S
    return BlockCosines(matrix_NN, nearest_S)


def distinct_share(
    unit_LD: Float[Tensor, "L D"],
    fired_L: Int[Tensor, " L"],
    sample_S: Int[Tensor, " S"] | None = None,
) -> float:
    """Share of the rows that are left when duplicates of those that fire more are left out.

    Of all rows, one after another, a duplicate of a row that was kept. Of a sample, a duplicate of
    any row that fires more: the same, but for chains of rows whose ends are no duplicates.
    """
    most_first_L = fired_L.argsort(descending=True, stable=True)
    if sample_S is None:
        return len(set(leaders(unit_LD, most_first_L, DUPLICATE).tolist())) / max(len(unit_LD), 1)
    rows_LD = unit_LD[most_first_L]
    at_S = most_first_L.argsort()[sample_S].sort().values
    kept = 0
    for part in tiles(len(at_S), len(rows_LD)):
        at_t = at_S[part]
        before = int(at_t[-1])
        cosine_tL = rows_LD[at_t] @ rows_LD[:before].T
        later_tL = torch.arange(before, device=at_t.device) >= at_t[:, None]
        kept += int((cosine_tL.masked_fill_(later_tL, -1.0) <= DUPLICATE).all(1).sum())
    return kept / len(at_S)


def blocks_of(sae: SAE, blocks: int) -> tuple[BlockKind, Int[Tensor, " M"], int]:
    """What the blocks are, the block of each latent, and how many there are: the experts, or equal
    runs (the last may be shorter)."""
    experts = experts_of(sae)
    count = min(blocks, sae.width) if experts is None else experts.experts
    run = -(-sae.width // count)
    latent_M = torch.arange(sae.width, device=sae.w_dec.device)
    return "cut" if experts is None else EXPERTS, latent_M // run, count


OVER_LAYERS = ("duplicate_share", "between_similarity", "explained_per_thousand")
"""Metrics that are drawn over the layers."""


@final
class Geometry(Study):
    """Duplicates, nearest neighbours and similarity of blocks per site, from the weights and from
    which latents fire."""

    name = GEOMETRY
    title = "Duplicates, and how similar experts are"
    metrics: ClassVar = METRICS
    figures = tuple(
        Figure(key.replace("_", "-"), "line", (Trace(metric=key),), lines="suites")
        for key in OVER_LAYERS
    )
    sentences: ClassVar = {
        TABLE: "How alike live latents are",
        "similarity": "Mean within a block {within_similarity}, between blocks "
        "{between_similarity}; shuffled {between_similarity_control}.",
        "duplicates": "{duplicate_share%} of {live} live latents have a neighbour "
        f"beyond {DUPLICATE}.",
    }

    def __init__(self, config: EvalConfig, tally: Tally) -> None:
        self.config, self.tally = config, tally
        self.readings = (tally,)

    def results(self) -> dict[str, Measured]:
        held_out, config = self.tally.held_out, self.config
        out = {}
        for name, bank in self.tally.banks.items():
            by_site = {
                site: _site(sae, self.tally.tallies[name][site], config, zlib.crc32(site.encode()))
                for site, sae in bank.items()
            }
            values = {site: values for site, (values, _) in by_site.items()}
            series = {site: series for site, (_, series) in by_site.items()}
            result = self.result(
                config,
                held_out,
                values,
                series,
                about={"duplicate": DUPLICATE},
                findings=_sampled(values),
            )
            out[name] = Measured(result)
        return out


def _site(
    sae: SAE, sums: SiteSums, config: EvalConfig, salt: int
) -> tuple[dict[str, Value], dict[str, Any]]:
    kind, block_M, blocks = blocks_of(sae, config.blocks)
    live_L = (sums.fired > 0).nonzero().squeeze(1)
    rows_LD = unit(sae.w_dec[live_L])
    generator = torch.Generator().manual_seed((config.seed + salt) % 2**63)
    shuffled_L = torch.randperm(len(live_L), generator=generator).to(live_L.device)
    sample_S = shuffled_L[:SAMPLED] if len(live_L) > SAMPLED else None
    actual = similarity(rows_LD, block_M[live_L], blocks, sample_S)
    control = similarity(rows_LD, block_M[live_L][shuffled_L], blocks, sample_S)
    random_R = _random_nearest(len(live_L), sae.d, generator)
    distinct = round(len(live_L) * distinct_share(rows_LD, sums.fired[live_L], sample_S))
    near_L = actual.nearest.cpu().double().numpy()
    values = {
        LIVE: Value(float(len(live_L))),
        DISTINCT: Value(float(distinct)),
        "distinct_share": _value(np.array([distinct / max(len(live_L), 1)])[: len(live_L)]),
        "duplicate_share": _value(near_L > DUPLICATE),
        "nearest_cosine": _value(near_L),
        "nearest_cosine_random": _value(random_R),
        "within_similarity": _value(actual.matrix.diagonal().cpu().numpy()),
        "between_similarity": _value(_between(actual.matrix)),
        "between_similarity_control": _value(_between(control.matrix)),
        "explained_per_thousand": _explained(sums, distinct, config),
    }
    live_N = torch.bincount(block_M[live_L], minlength=blocks).tolist()
    series: dict[str, Any] = {
        "duplicates": Duplicates(
            list(THRESHOLDS),
            [_share(near_L, threshold) for threshold in THRESHOLDS],
            [_share(random_R, threshold) for threshold in THRESHOLDS],
        ),
        "nearest": Nearest(_EDGES.tolist(), _counts(near_L), _counts(random_R), len(random_R)),
        "similarity": Similarity(
            kind, blocks, live_N, matrix(actual.matrix), matrix(control.matrix)
        ),
    }
    if config.tsne and len(live_L) > 3:
        series["tsne"] = _maps(sae, live_L, block_M, config, generator)
    return values, {name: plain(record) for name, record in series.items()}


def _sampled(values: Mapping[str, Mapping[str, Value]]) -> list[str]:
    """What to know of sites with more live latents than are compared each with each."""
    live = {site: of_site[LIVE].value or 0 for site, of_site in values.items()}
    return [
        f"{site}: of {number:,.0f} live latents a random sample of {SAMPLED:,} was compared with "
        "all; shares and means are the sample's, and the number of distinct ones is estimated."
        for site, number in live.items()
        if number > SAMPLED
    ]


def _random_nearest(rows: int, d: int, generator: torch.Generator) -> Float[np.ndarray, " R"]:
    """Nearest-neighbour cosines of some of as many random directions."""
    random_LD = unit(torch.randn(rows, d, generator=generator))
    if rows <= _RANDOM:
        return nearest(random_LD, random_LD, same=True).double().numpy()
    near_R = nearest(random_LD[:_RANDOM], random_LD[_RANDOM:], same=False)
    among_R = nearest(random_LD[:_RANDOM], random_LD[:_RANDOM], same=True)
    return torch.maximum(near_R, among_R).double().numpy()


def _between(matrix_NN: Float[Tensor, "N N"]) -> Float[np.ndarray, " pairs"]:
    """The entries off the diagonal."""
    off = ~torch.eye(len(matrix_NN), dtype=torch.bool, device=matrix_NN.device)
    return matrix_NN[off].cpu().numpy()


def _value(numbers: np.ndarray) -> Value:
    """The mean of the values that are defined."""
    defined = np.asarray(numbers, np.float64)
    defined = defined[~np.isnan(defined)]
    return Value(float(defined.mean()) if len(defined) else None)


def _share(near_L: np.ndarray, threshold: float) -> float | None:
    return float((near_L > threshold).mean()) if len(near_L) else None


def _counts(near_L: np.ndarray) -> list[int]:
    counts, _ = np.histogram(near_L.clip(_EDGES[0], _EDGES[-1]), bins=_EDGES)
    return [int(count) for count in counts]


def matrix(matrix_NN: Float[Tensor, "N N"]) -> list[list[float | None]] | None:
    """A matrix for a result: undefined entries None; None where it would be too large."""
    if len(matrix_NN) > LARGEST_MATRIX:
        return None
    return [[None if x != x else round(x, 4) for x in row] for row in matrix_NN.tolist()]


def _explained(sums: SiteSums, distinct: int, config: EvalConfig) -> Value:
    if not distinct:
        return Value(None)
    per = per_document({"": sums})[""]
    explained = {
        "per": lambda s: 1000 * (1 - s["error"] / s["variance"]) / distinct,
    }
    return bootstrap.estimate(per, explained, config.bootstrap, config.seed)["per"]


def _maps(
    sae: SAE,
    live_L: Int[Tensor, " L"],
    block_M: Int[Tensor, " M"],
    config: EvalConfig,
    generator: torch.Generator,
) -> Tsne:
    """Two-dimensional maps of a sample of live latents, by decoder and by encoder rows (van der
    Maaten and Hinton 2008, Visualizing Data using t-SNE)."""
    sample = torch.randperm(len(live_L), generator=generator)[: config.tsne].sort().values
    chosen_n = live_L[sample.to(live_L.device)]
    perplexity = min(_PERPLEXITY, (len(chosen_n) - 1) / 3)
    return Tsne(
        perplexity,
        chosen_n.tolist(),
        block_M[chosen_n].tolist(),
        _map(sae.w_dec[chosen_n], perplexity, config.seed),
        _map(sae.w_enc[chosen_n], perplexity, config.seed),
    )


def _map(rows_nD: Tensor, perplexity: float, seed: int) -> list[list[float]]:
    from sklearn.manifold import TSNE

    place = TSNE(perplexity=perplexity, init="pca", random_state=seed % 2**32)
    points: list[list[float]] = place.fit_transform(unit(rows_nD).cpu().numpy()).round(2).tolist()
    return points
