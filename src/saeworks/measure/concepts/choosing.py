"""Which latents might code a concept, found on the documents of the fitting half alone.

Shapes: N tokens, C concepts, M units (latents, neurons, directions), Q candidates.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csc_matrix, csr_matrix

CANDIDATES = 32
"""Units per concept whose thresholds are tried: those of largest correlation, and as many of
largest F1 at threshold 0."""


@dataclass(frozen=True)
class Units:
    """What units do on tokens: strictly positive activations.

    Attributes:
        a_NM: float32 [N, M], zeros left out.
    """

    a_NM: csr_matrix

    @cached_property
    def columns(self) -> csc_matrix:
        """By unit."""
        return self.a_NM.tocsc()

    @cached_property
    def falling(self) -> csc_matrix:
        """By unit, each with its largest activations first."""
        by_unit = self.a_NM.tocsc()
        unit = np.repeat(np.arange(by_unit.shape[1]), np.diff(by_unit.indptr))
        order = np.lexsort((-by_unit.data, unit))
        by_unit.indices, by_unit.data = by_unit.indices[order], by_unit.data[order]
        by_unit.has_sorted_indices = False
        return by_unit

    def column(
        self, unit: int, falling: bool = False
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """The tokens on which a unit is active, and its activations; the largest first, if asked
        for."""
        columns = self.falling if falling else self.columns
        of = slice(columns.indptr[unit], columns.indptr[unit + 1])
        return columns.indices[of], columns.data[of]

    def all_of(
        self, units: Int[np.ndarray, " n"], falling: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Token, activation and unit of every activation of some units, each unit's together."""
        parts = [self.column(unit, falling) for unit in units.tolist()]
        token, a = (np.concatenate(of) for of in zip(*parts, strict=True))
        return token, a, np.repeat(units, [len(of_unit) for of_unit, _ in parts])

    def some(self, tokens: np.ndarray) -> "Units":
        """The same units on some of the tokens."""
        return Units(self.a_NM[tokens])


@dataclass(frozen=True)
class ChosenUnits:
    """What was chosen for each concept.

    Attributes:
        unit_C: the best single unit.
        threshold_C: of its activation.
        fit_C: F1 on the tokens it was chosen on.
        ranked_CK: units by the mean difference of their activations, largest first.
    """

    unit_C: Int[np.ndarray, " C"]
    threshold_C: Float[np.ndarray, " C"]
    fit_C: Float[np.ndarray, " C"]
    ranked_CK: Int[np.ndarray, "C K"]


def choose(units: Units, stands: csr_matrix, ranked: int) -> ChosenUnits:
    """The best units for each concept.

    The best single unit is the one of largest F1 of "its activation is above t" over units and
    thresholds t. Thresholds are tried for `2·CANDIDATES` units of each concept at most. For sparse
    probes, units are ranked by |mean activation on tokens with the concept − on those without|, as
    in SAEBench (Karvonen et al. 2025).

    Args:
        stands: 0/1 [N, C].
        ranked: how many are ranked.
    """
    a_NM = units.a_NM
    tokens, width = a_NM.shape
    stands_C = np.asarray(stands.sum(0), float).ravel()
    by_concept = stands.T.tocsr().astype(np.float32)
    total_M = np.asarray(a_NM.sum(0, dtype=np.float64)).ravel()
    square_M = np.asarray(a_NM.multiply(a_NM).sum(0, dtype=np.float64)).ravel()
    fires_M = np.bincount(a_NM.indices, minlength=width)
    std_M = np.sqrt(np.maximum(square_M / tokens - np.square(total_M / tokens), 0))
    fires_NM = csr_matrix((np.ones_like(a_NM.data), a_NM.indices, a_NM.indptr), a_NM.shape)
    choices = []
    for concept in range(len(stands_C)):
        sum_M = _dense(by_concept[concept] @ a_NM)
        both_M = _dense(by_concept[concept] @ fires_NM)
        positive = stands_C[concept]
        mean_M = sum_M / positive
        difference_M = mean_M - (total_M - sum_M) / (tokens - positive)
        with np.errstate(divide="ignore", invalid="ignore"):
            correlation_M = np.where(std_M > 0, (mean_M - total_M / tokens) / std_M, 0)
        f1_M = 2 * both_M / (fires_M + positive)
        at = np.unique(np.append(_top(correlation_M, CANDIDATES), _top(f1_M, CANDIDATES)))
        y_N = np.zeros(tokens, bool)
        y_N[by_concept[concept].indices] = True
        choices.append((*_best(units, at, y_N), _top(np.abs(difference_M), ranked)))
    unit, threshold, f1, order = zip(*choices, strict=True)
    return ChosenUnits(np.array(unit), np.array(threshold), np.array(f1), np.stack(order))


def _dense(row: csr_matrix) -> Float[np.ndarray, " M"]:
    return np.asarray(row.toarray()).ravel().astype(np.float64)


def _top(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest, in their order; the first of equals first."""
    count = min(count, len(values))
    at = np.sort(np.argpartition(-values, count - 1)[:count])
    return at[np.argsort(-values[at], kind="stable")]


def _best(units: Units, at: np.ndarray, y_N: np.ndarray) -> tuple[int, float, float]:
    """The candidate of largest F1, its threshold, that F1; all thresholds of all at once."""
    token, a, unit = units.all_of(at, falling=True)
    positive = int(y_N.sum())
    if not len(token):
        return int(at[0]), 0.0, 0.0
    hits = y_N[token].cumsum(dtype=np.int64)
    first = np.flatnonzero(np.append(True, unit[1:] != unit[:-1]))
    counts = np.diff(np.append(first, len(unit)))
    before = np.repeat(hits[first] - y_N[token[first]], counts)
    rank = np.arange(1, len(token) + 1) - np.repeat(first, counts)
    f1 = 2 * (hits - before) / (rank + positive)
    following = np.append(a[1:], 0)
    ends = np.append(unit[1:] != unit[:-1], True)
    following[ends] = 0
    f1[a == following] = -1  # a threshold does not lie between equals
    best = int(f1.argmax())
    return int(unit[best]), float((a[best] + following[best]) / 2), float(f1[best])
