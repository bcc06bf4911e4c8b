"""Intervals over documents, by leaving documents out and by drawing them again.

Tokens of a document are not independent, so whole documents are left out or drawn, never tokens.
Every metric is a function of sums over documents: it is computed of all documents, then with each
of them left out, then of each resample. `experiments/intervals/coverage.py` simulates how often the
intervals hold the truth.

Shapes: N documents, L left out one after the other, R resamples, S sums; D = 1 + L + R rows of
sums, in that order.
"""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from saeworks.results.metric import Value


@runtime_checkable
class Sums(Protocol):
    """Name of a sum → its value for all the documents, with each left out, for each resample [D].

    No `Mapping`: what a statistic reads is counted, and a checker of annotations reads an entry of
    every mapping that it checks.
    """

    def __contains__(self, name: object, /) -> bool: ...

    def __getitem__(self, name: str, /) -> NDArray[np.float64]: ...


Key = TypeVar("Key", bound=Hashable)
Statistic = Callable[[Sums], NDArray[np.float64]]

FEWEST = 8
"""Below so many documents there is no interval: from here on they hold in the simulations."""
BLOCKS = 200
"""More documents than these are left out in so many blocks."""
UNDEFINED = 1 / 40
"""Where a larger share of the resamples has no value there is no interval: it could lie anywhere
beyond the ends."""
_CHUNK = 2**24
"""Elements of the count matrix in memory at once."""


def resampled_sums(
    per_document_NS: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Sums [R, S] over `resamples` draws, with replacement, of N documents from the N rows.

    The same seed and N give the same draws, so that sites and suites evaluated on the same
    documents are compared on the same resamples.
    """
    documents = len(per_document_NS)
    rng = np.random.default_rng(seed)
    share = np.full(documents, 1.0 / max(documents, 1))
    step = max(1, _CHUNK // max(documents, 1))
    parts = [
        rng.multinomial(documents, share, size=min(step, resamples - start)) @ per_document_NS
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts) if parts else np.empty((0, per_document_NS.shape[1]))


def all_sums(
    per_document_NS: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Sums [D, S] of all N documents, with each left out, and of each resample.

    Only the first row where N is below `FEWEST` or no resamples are asked for.
    """
    total_1S: NDArray[np.float64] = per_document_NS.sum(axis=0, keepdims=True)
    count = left_out(len(per_document_NS))
    if not count or not resamples:
        return total_1S
    block_N = np.arange(len(per_document_NS)) % count
    without_LN = (block_N != np.arange(count)[:, None]).astype(np.float64)
    drawn_RS = resampled_sums(per_document_NS, resamples, seed)
    without_LS: NDArray[np.float64] = without_LN @ per_document_NS
    return np.concatenate((total_1S, without_LS, drawn_RS))


def left_out(documents: int) -> int:
    """How many leave-out groups (L) are used for so many documents."""
    return 0 if documents < FEWEST else min(documents, BLOCKS)


@dataclass(frozen=True)
class Draws(Generic[Key]):
    """The sums of the documents that were measured.

    Attributes:
        sums: each as `Sums` has them [D].
        documents: N.
    """

    sums: dict[Key, NDArray[np.float64]]
    documents: int

    def interval(self, values_D: NDArray[np.float64]) -> Value:
        """`interval` of a function of these sums."""
        return interval(values_D, self.documents)


def resampled(
    per_document: Mapping[Key, NDArray[np.float64]],
    measured_N: Bool[np.ndarray, " N"],
    resamples: int,
    seed: int,
) -> Draws[Key]:
    """Every sum over the documents that were measured; the same documents for all the sums."""
    rows_NS = np.stack([np.asarray(sum_N, np.float64) for sum_N in per_document.values()], axis=1)
    rows_NS = rows_NS[np.asarray(measured_N, bool)]
    sums_DS = all_sums(rows_NS, resamples, seed)
    return Draws(dict(zip(per_document, sums_DS.T, strict=True)), len(rows_NS))


def estimate(
    per_document: Mapping[str, NDArray[np.float64]],
    statistics: Mapping[str, Statistic],
    resamples: int,
    seed: int,
) -> dict[str, Value]:
    """Each statistic of the total sums, with its 95% interval over the documents measured for it.

    Those are the documents in which one of the sums that the statistic reads is not 0: the others
    change no ratio of these sums, and are no evidence for it.

    Args:
        per_document: name → [N], each document's share of a sum.
        statistics: functions of sums by name, elementwise, such as `lambda s: s["a"] / s["b"]`.
    """
    columns = {name: np.asarray(column, np.float64) for name, column in per_document.items()}
    drawn: dict[bytes, Draws[str]] = {}
    values = {}
    with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 is null in the result
        for name, statistic in statistics.items():
            measured_N = _measured(columns, statistic)
            key = measured_N.tobytes()
            if key not in drawn:
                drawn[key] = resampled(columns, measured_N, resamples, seed)
            values[name] = drawn[key].interval(statistic(drawn[key].sums))
    return values


class _Reads:
    """Sums that remember which of them were read."""

    def __init__(self, columns: Mapping[str, NDArray[np.float64]]) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {
            name: column.sum(keepdims=True) for name, column in columns.items()
        }
        self.read: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name in self._sums

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        self.read.add(name)
        return self._sums[name]


def _measured(
    columns: Mapping[str, NDArray[np.float64]], statistic: Statistic
) -> Bool[np.ndarray, " N"]:
    reads = _Reads(columns)
    statistic(reads)
    measured_N: Bool[np.ndarray, " N"] = np.any([columns[name] != 0 for name in reads.read], axis=0)
    return measured_N


def interval(values_D: Float[np.ndarray, " D"], documents: int | None = None) -> Value:
    """The first value with its 95% interval, from those with documents left out and of resamples.

    The hull of three intervals, since each alone is too narrow somewhere: Student's t on the
    jackknife's standard error, θ ± t·SE with SE² = (L − 1)/L Σ(θ₋ᵢ − θ̄)²; the same after Hall's
    (1992) cubic transformation by the skewness of the documents' influence, for heavy tails; and
    the percentiles Φ(±t √(L/(L − 1))) of the resamples (Hesterberg 2015), for statistics that are
    not smooth. All have t of L − 1 degrees of freedom.

    Args:
        values_D: of the rows of `all_sums`.
        documents: N, of which these are sums; None where nothing is left out, as in draws that are
            not of documents: the percentiles 2.5 and 97.5 alone.

    Returns:
        No value where the first is not finite; no ends where there are fewer than `FEWEST`
        documents or no resamples, where a value is undefined with a document left out, or more
        than `UNDEFINED` of those of the resamples are.
    """
    value = float(values_D[0])
    if not math.isfinite(value):
        return Value(None)
    without_L, drawn_R = np.split(values_D[1:], [left_out(documents or 0)])
    known_R = drawn_R[np.isfinite(drawn_R)]
    lost = len(drawn_R) - len(known_R)
    if not len(drawn_R) or lost > UNDEFINED * len(drawn_R) or not np.isfinite(without_L).all():
        return Value(value)
    if documents is None:
        low, high = np.percentile(known_R, [2.5, 97.5])
        return Value(value, float(low), float(high))
    t, tail = _student(len(without_L))
    half = t * _standard_error(without_L)
    below, above = _hall(without_L, t)
    low, high = np.percentile(known_R, [100 * tail, 100 * (1 - tail)])
    return Value(
        value,
        float(min(value - half, value - below, low)),
        float(max(value + half, value + above, high)),
    )


def _standard_error(without_L: NDArray[np.float64]) -> float:
    count = len(without_L)
    return math.sqrt((count - 1) / count * float(np.square(without_L - without_L.mean()).sum()))


def _hall(without_L: NDArray[np.float64], t: float) -> tuple[float, float]:
    """How far the ends lie from the value by g⁻¹(±t), g(T) = T + aT²/3 + a²T³/27 + a/6, with
    a = skewness/√L of the influences."""
    influence_L = without_L.mean() - without_L
    error, spread = _standard_error(without_L), float(np.square(influence_L).mean())
    if spread == 0:
        return 0.0, 0.0
    a = float((influence_L**3).mean()) / spread**1.5 / math.sqrt(len(without_L))
    if abs(a) < 1e-6:
        return t * error, t * error
    upper, lower = (3 / a * (np.cbrt(1 + a * (end - a / 6)) - 1) for end in (t, -t))
    return float(upper) * error, -float(lower) * error


@lru_cache
def _student(count: int) -> tuple[float, float]:
    """t₀.₉₇₅ of count − 1 degrees of freedom, and the share of resamples beyond each end."""
    from scipy.special import ndtr, stdtrit

    t = float(stdtrit(count - 1, 0.975))
    return t, float(ndtr(-t * math.sqrt(count / (count - 1))))


def describe(documents: int, resamples: int, seed: int) -> str:
    """One sentence on the intervals, for a result's config."""
    if documents < FEWEST:
        return f"none: too few documents ({documents}; intervals need at least {FEWEST})"
    if resamples == 0:
        return "none: no resamples were asked for"
    return (
        f"95%, over {documents} documents: Student's t on the jackknife, and percentiles of "
        f"{resamples} resamples, seed {seed}; none where fewer than {FEWEST} documents were "
        "measured"
    )
