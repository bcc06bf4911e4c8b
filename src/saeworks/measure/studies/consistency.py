"""Is a known concept coded by different latents in different experts? (The "Queen" question: is the
queen of a story the same direction as the queen of a chronicle, where another expert encodes it?)

A place is an expert with the tokens that it encodes, or, of an SAE without experts, a block of its
latents with all tokens. A concept is coded in a place if one of the place's latents tells, on the
place's tokens, those with the concept from those without: Matthews' correlation φ of "fires" and
"the concept stands here" is above a threshold. The latent is chosen on one half of the documents
and φ is measured on the other, so that having many latents to choose from gives no advantage.

Shapes: N tokens, C concepts, P places, U units (a latent in a place), Q pairs of a concept and a
place with the latent chosen for it, R documents, M latents, D model width; S rows as in
`bootstrap`: of all documents, with each left out, of each resample.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, groupby
from typing import Any, ClassVar, final

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.cosines import unit
from saeworks.dictionary.experts import experts_of
from saeworks.measure import bootstrap
from saeworks.measure.banks import Bank, firing, widest
from saeworks.measure.engine import Chunk, Measured, Reading, Study
from saeworks.measure.held_out import HeldOut
from saeworks.measure.known import Truth
from saeworks.measure.studies.geometry import blocks_of
from saeworks.measure.studies.overlap import visitors
from saeworks.measure.studies.reconstruction import Tally
from saeworks.results.figure import Figure, Trace
from saeworks.results.metric import Metric, Value
from saeworks.results.names import CONCEPTS, CONSISTENCY
from saeworks.results.records import plain
from saeworks.results.series import QUEEN, Coded, CodedConcept, CodedConcepts, Queen

CODED = 0.5
"""A latent codes a concept in a place where φ is above this."""
THRESHOLDS = (0.3, 0.4, CODED, 0.6, 0.7, 0.8, 0.9)
SAME = 0.9
"""Two latents are duplicates where the cosine of their decoder rows is above this."""
LEAST = 20
"""Tokens with the concept, and without it, that a place needs in each half to be asked."""
_WORTH = 0.2
"""φ on the first half below which a latent's φ on the second is not looked at."""

METRICS = {
    CONCEPTS: Metric(
        "Concepts",
        f"Known concepts that stand on {LEAST} tokens of two places or more, and not on {LEAST} "
        "others, in each half of the documents.",
        CONCEPTS,
    ),
    "coded": Metric(
        "Concepts coded",
        "Those of them that a latent codes in at least one place: on the place's tokens, φ of "
        f"firing and concept is above {CODED}. The latent is chosen on half of the documents, φ "
        "is measured on the other.",
        CONCEPTS,
    ),
    QUEEN: Metric(
        "Different latents",
        "Of the concepts coded, the share that different latents code in different places "
        "(experts, or the blocks that an SAE without them is cut into).",
        better="lower",
    ),
    CONSISTENCY: Metric(
        "Consistency",
        "Mean cosine of the decoder rows of the latents that code a concept in two places, over "
        "all such pairs of places; 1 where experts have learnt the same direction.",
        better="higher",
    ),
    "duplicate_pairs": Metric(
        "Duplicate pairs", f"Share of those pairs with a cosine above {SAME}."
    ),
    "places": Metric(
        "Places per concept", "Mean number of places in which a coded concept is coded.", "places"
    ),
}


@dataclass(frozen=True)
class Firing:
    """Which latents fire on which tokens, and where they are looked for.

    Attributes:
        fires: 0/1 [N, U].
        visits: 0/1 [N, P]: the tokens that a place is asked about.
        place_U: of each unit.
        latent_U: of each unit.
        kind: what the places are.
    """

    fires: csr_matrix
    visits: csr_matrix
    place_U: Int[np.ndarray, " U"]
    latent_U: Int[np.ndarray, " U"]
    kind: str


@dataclass(frozen=True)
class Found:
    """The latent chosen for each concept in each place, and how well it does on the other half.

    Attributes:
        concept_Q, place_Q, latent_Q: of each pair.
        phi_SQ: on the second half of the documents.
        documents: of the second half.
        cosine: of two latents' decoder rows.
        asked: places that were asked about each concept.
    """

    concept_Q: Int[np.ndarray, " Q"]
    place_Q: Int[np.ndarray, " Q"]
    latent_Q: Int[np.ndarray, " Q"]
    phi_SQ: Float[np.ndarray, "S Q"]
    rows_QD: Float[np.ndarray, "Q D"]
    asked: Int[np.ndarray, " C"]
    documents: int


def by_place(
    fires: csr_matrix, place_M: Int[np.ndarray, " M"], places: int, visits: csr_matrix, kind: str
) -> Firing:
    """Each latent in the one place that it belongs to."""
    assert visits.shape[1] == places
    return Firing(fires, visits, place_M, np.arange(fires.shape[1]), kind)


def by_tokens(fires: csr_matrix, visits: csr_matrix) -> Firing:
    """All latents of one dictionary in every place: what an SAE does on the tokens that another
    SAE's experts would encode."""
    places, width = visits.shape[1], fires.shape[1]
    pairs = visits.tocoo()
    count = np.diff(fires.indptr)[pairs.row]
    start = fires.indptr[pairs.row]
    at = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count) + np.repeat(start, count)
    unit_of = fires.indices[at] + np.repeat(pairs.col.astype(np.int64) * width, count)
    token = np.repeat(pairs.row, count)
    units = csr_matrix(
        (np.ones(len(unit_of), np.int32), (token, unit_of)), (fires.shape[0], places * width)
    )
    place_U = np.repeat(np.arange(places), width)
    return Firing(units, visits, place_U, np.tile(np.arange(width), places), "tokens")


def phi(
    both: Float[np.ndarray, "*any"],
    fires: Float[np.ndarray, "*any"],
    stands: Float[np.ndarray, "*any"],
    tokens: Float[np.ndarray, "*any"],
) -> Float[np.ndarray, "*any"]:
    """Matthews' correlation (n·n₁₁ − a·b) / √(a(n − a)·b(n − b)) of two events with counts a and b
    among n tokens, n₁₁ with both; 0 where either never or always happens."""
    spread = fires * (tokens - fires) * stands * (tokens - stands)
    over = tokens * both - fires * stands
    zeros = np.zeros(np.shape(over))
    return np.asarray(np.divide(over, np.sqrt(spread), out=zeros, where=spread > 0))


def find(
    firing: Firing,
    truth: csr_matrix,
    row_N: Int[np.ndarray, " N"],
    w_dec_MD: Float[np.ndarray, "M D"],
    resamples: int,
    seed: int,
) -> Found:
    """Choose on the documents of one random half, measure on the other, with resamples of it.

    Args:
        truth: 0/1 [N, C], which concepts stand on each token.
        row_N: document of each token.
        w_dec_MD: unit decoder rows.
    """
    half_N = first_half(row_N, seed)
    eligible_CP = _eligible(firing, truth, half_N) & _eligible(firing, truth, ~half_N)
    concept_Q, unit_Q = _choose(firing, truth, half_N, eligible_CP)
    phi_SQ = judge(firing, truth, row_N, ~half_N, concept_Q, unit_Q, resamples, seed)
    latent_Q = firing.latent_U[unit_Q]
    return Found(
        concept_Q,
        firing.place_U[unit_Q],
        latent_Q,
        phi_SQ,
        w_dec_MD[latent_Q],
        eligible_CP.sum(1),
        len(np.unique(row_N[~half_N])),
    )


def first_half(row_N: Int[np.ndarray, " N"], seed: int) -> Bool[np.ndarray, " N"]:
    """Tokens of the random half of the documents on which latents are chosen."""
    documents = np.unique(row_N)
    first = np.random.default_rng(seed).permutation(documents)[: len(documents) // 2]
    return np.isin(row_N, first)


def judge(
    firing: Firing,
    truth: csr_matrix,
    row_N: Int[np.ndarray, " N"],
    half_N: Bool[np.ndarray, " N"],
    concept_Q: Int[np.ndarray, " Q"],
    unit_Q: Int[np.ndarray, " Q"],
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "S Q"]:
    """φ of units and concepts on some tokens: of all their documents, with each left out,
    of each resample."""
    sums = _sums(firing, truth, row_N, half_N, concept_Q, unit_Q)
    return phi(*(bootstrap.all_sums(of, resamples, seed) for of in sums))


def _counted(
    firing: Firing, truth: csr_matrix, half_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each place with each concept [C, P], and tokens of each place [P]."""
    visits = firing.visits[half_N]
    return (truth[half_N].T @ visits).toarray(), np.asarray(visits.sum(0)).ravel()


def _eligible(firing: Firing, truth: csr_matrix, half_N: np.ndarray) -> Bool[np.ndarray, "C P"]:
    stands_CP, tokens_P = _counted(firing, truth, half_N)
    eligible_CP: np.ndarray = (stands_CP >= LEAST) & (tokens_P - stands_CP >= LEAST)
    return eligible_CP


def _choose(
    firing: Firing, truth: csr_matrix, half_N: np.ndarray, eligible_CP: np.ndarray
) -> tuple[Int[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """The unit of largest φ for each eligible concept and place, where it is worth a look."""
    stands_CP, tokens_P = _counted(firing, truth, half_N)
    both = (truth[half_N].T @ firing.fires[half_N]).tocoo()
    fires_U = np.asarray(firing.fires[half_N].sum(0)).ravel()
    place = firing.place_U[both.col]
    phis = phi(
        both.data.astype(float),
        fires_U[both.col].astype(float),
        stands_CP[both.row, place].astype(float),
        tokens_P[place].astype(float),
    )
    kept = eligible_CP[both.row, place] & (phis > _WORTH)
    concept, unit_of, phis = both.row[kept], both.col[kept], phis[kept]
    slot = concept.astype(np.int64) * len(tokens_P) + place[kept]
    order = np.lexsort((unit_of, -phis, slot))
    _, at = np.unique(slot[order], return_index=True)
    best = order[at]
    return concept[best].astype(np.int64), unit_of[best].astype(np.int64)


def _sums(
    firing: Firing,
    truth: csr_matrix,
    row_N: np.ndarray,
    half_N: np.ndarray,
    concept_Q: np.ndarray,
    unit_Q: np.ndarray,
) -> list[Float[np.ndarray, "R Q"]]:
    """Of each document of a half: tokens on which the unit fires and the concept stands; fires;
    stands; all of the place."""
    documents, of_N = np.unique(row_N[half_N], return_inverse=True)
    tokens = len(of_N)
    shape = (len(documents), tokens)
    summed = csr_matrix((np.ones(tokens), (of_N, np.arange(tokens))), shape=shape)
    fires = firing.fires[half_N].tocsc()[:, unit_Q]
    visits = firing.visits[half_N].tocsc()[:, firing.place_U[unit_Q]]
    stands = truth[half_N].tocsc()[:, concept_Q].multiply(visits)
    return [
        (summed @ columns).toarray() for columns in (stands.multiply(fires), fires, stands, visits)
    ]


def summarise(found: Found, threshold: float = CODED) -> dict[str, Value]:
    """The metrics at a threshold of φ."""
    asked = found.asked[found.concept_Q] > 1
    coded_SQ = (found.phi_SQ > threshold) & asked
    concepts, concept_Q = np.unique(found.concept_Q, return_inverse=True)
    units, unit_Q = np.unique(np.stack([concept_Q, found.latent_Q]), axis=1, return_inverse=True)
    unit_Q = unit_Q.ravel()
    of_unit = csr_matrix(
        (np.ones(len(unit_Q)), (np.arange(len(unit_Q)), unit_Q)), (len(unit_Q), units.shape[1])
    )
    of_concept = csr_matrix(
        (np.ones(units.shape[1]), (np.arange(units.shape[1]), units[0])),
        (units.shape[1], len(concepts)),
    )
    fires_SU = (coded_SQ.astype(float) @ of_unit) > 0
    latents_SC = fires_SU.astype(float) @ of_concept
    any_S, many_S = (latents_SC > 0).sum(1), (latents_SC > 1).sum(1)
    same_S, near_S, pairs_S = _pairs(found, coded_SQ)

    def interval(values_S: Float[np.ndarray, " S"]) -> Value:
        return bootstrap.interval(values_S, found.documents)

    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            CONCEPTS: Value(float((found.asked > 1).sum())),
            "coded": interval(any_S.astype(float)),
            QUEEN: interval(many_S / any_S),
            CONSISTENCY: interval(same_S / pairs_S),
            "duplicate_pairs": interval(near_S / pairs_S),
            "places": interval(coded_SQ.sum(1) / any_S),
        }


def _pairs(
    found: Found, coded_SQ: Bool[np.ndarray, "S Q"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums over pairs of places that both code one concept: of the cosines of their latents'
    decoder rows, of those above SAME, and how many there are; of each resample."""
    chosen = range(len(found.concept_Q))  # in the order of concepts
    groups = groupby(chosen, key=lambda at: found.concept_Q[at])
    both = [pair for _, group in groups for pair in combinations(group, 2)]
    if not both:
        nothing = np.zeros(len(coded_SQ))
        return nothing, nothing, nothing
    a_X, b_X = np.array(both).T
    cosine = (found.rows_QD[a_X] * found.rows_QD[b_X]).sum(1).clip(-1, 1)
    weights = np.stack([cosine, (cosine > SAME).astype(float), np.ones(len(cosine))], axis=1)
    sums = np.stack([(row[a_X] & row[b_X]).astype(float) @ weights for row in coded_SQ])
    return sums[:, 0], sums[:, 1], sums[:, 2]


def series(found: Found, firing: Firing, truth: Truth) -> dict[str, Any]:
    """The headline at every threshold, and each concept with the latents that code it."""
    at = [summarise(_point(found), threshold) for threshold in THRESHOLDS]
    return {
        QUEEN: plain(
            Queen(
                list(THRESHOLDS),
                [values[QUEEN].value for values in at],
                [values["coded"].value for values in at],
            )
        ),
        "cells": {"kind": firing.kind, "blocks": firing.visits.shape[1]},
        CONCEPTS: plain(
            CodedConcepts(
                [
                    _concept(found, concept, *truth.concepts[concept])
                    for concept in np.flatnonzero(found.asked > 1).tolist()
                ]
            )
        ),
    }


def _point(found: Found) -> Found:
    """The same without the resamples."""
    return Found(**(found.__dict__ | {"phi_SQ": found.phi_SQ[:1]}))


def _concept(found: Found, concept: int, name: str, value: str) -> CodedConcept:
    coding = np.flatnonzero((found.concept_Q == concept) & (found.phi_SQ[0] > CODED))
    pairs = [float(found.rows_QD[a] @ found.rows_QD[b]) for a, b in combinations(coding, 2)]
    coded = [
        Coded(int(found.place_Q[at]), int(found.latent_Q[at]), round(float(found.phi_SQ[0, at]), 4))
        for at in coding
    ]
    cosine = round(float(np.mean(pairs)), 4) if pairs else None
    return CodedConcept(name, value, int(found.asked[concept]), coded, cosine)


@dataclass
class Watch:
    """The firings of one SAE, and which experts encode each token."""

    sae: SAE
    blocks: int
    fires: list[csr_matrix] = field(default_factory=list)
    visits: list[csr_matrix] = field(default_factory=list)

    def add(self, chunk: Chunk) -> None:
        """Take tokens in."""
        owner, latents, _ = firing(chunk.code(self.sae))
        rows = len(chunk.x_ND)
        self.fires.append(_matrix(owner, latents, (rows, self.sae.width)))
        experts = experts_of(self.sae)
        if experts is not None:
            routing = experts.route(chunk.x_ND)
            owner = visitors(routing, rows)
            shape = (rows, experts.experts)
            self.visits.append(_matrix(owner, routing.expert.flatten(), shape))

    def firing(self) -> Firing:
        """The firings by the SAE's experts, or by blocks of its latents."""
        kind, place_M, places = blocks_of(self.sae, self.blocks)
        fires = vstack(self.fires, format="csr")
        visits = (
            vstack(self.visits, format="csr")
            if self.visits
            else csr_matrix(np.ones((fires.shape[0], places), np.int32))
        )
        return by_place(fires, place_M.cpu().numpy(), places, visits, kind)


def _matrix(row: Tensor, column: Tensor, shape: tuple[int, int]) -> csr_matrix:
    ones = np.ones(len(row), np.int32)
    return csr_matrix((ones, (row.cpu().numpy(), column.cpu().numpy())), shape=shape)


@final
class PlaceFirings(Reading):
    """The firings of every SAE, by bank and site: 4 bytes for each latent that fires on a token."""

    title = CONSISTENCY

    def __init__(
        self,
        banks: Mapping[str, Bank],
        held_out: HeldOut,
        blocks: int,
        beside: Reading | None = None,
    ) -> None:
        self.held_out, self.beside = held_out, beside
        self.sites = {site for bank in banks.values() for site in bank}
        self.width = widest(banks)
        self.watches = {
            (name, site): Watch(sae, blocks)
            for name, bank in banks.items()
            for site, sae in bank.items()
        }

    def rows(self, site: str, chunk: Chunk) -> None:
        for (_, at), watch in self.watches.items():
            if at == site:
                watch.add(chunk)


OVER_LAYERS = (QUEEN,)
"""Metrics that are drawn over the layers."""


@final
class Consistency(Study):
    """How often a known concept has different latents in different experts, of every SAE; of those
    without experts, in different blocks of their latents."""

    name = CONSISTENCY
    title = "Known concepts in different experts"
    metrics: ClassVar = METRICS
    headline = (QUEEN,)
    figures = tuple(
        Figure(key.replace("_", "-"), "line", (Trace(metric=key),), lines="suites")
        for key in OVER_LAYERS
    )
    sentences: ClassVar = {
        QUEEN: "{queen%} of {coded} coded concepts have different latents in different experts; "
        "their decoder rows have cosine {consistency} on average.",
    }

    def __init__(self, config: EvalConfig, tally: Tally, truth: Truth) -> None:
        self.config, self.tally, self.truth = config, tally, truth
        self.firings = PlaceFirings(tally.banks, tally.held_out, config.blocks, beside=tally)
        self.readings = (self.firings,)

    def results(self) -> dict[str, Measured]:
        held_out, config = self.tally.held_out, self.config
        row_N = held_out.row_NT[held_out.keep_NT].cpu().numpy()
        judged = len(np.unique(row_N[~first_half(row_N, config.seed)]))
        out = {}
        for name, bank in self.tally.banks.items():
            values, lists = {}, {}
            for site, sae in bank.items():
                fires = self.firings.watches.pop((name, site)).firing()
                rows_MD = unit(sae.w_dec).cpu().numpy()
                coding = find(
                    fires, self.truth.stands, row_N, rows_MD, config.bootstrap, config.seed
                )
                values[site], lists[site] = summarise(coding), series(coding, fires, self.truth)
            intervals = bootstrap.describe(judged, config.bootstrap, config.seed)
            about = {"intervals": intervals, "coded": CODED, "least": LEAST, "same": SAME}
            out[name] = Measured(self.result(config, held_out, values, lists, about=about))
        return out
