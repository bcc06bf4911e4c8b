"""Intervals by bootstrap over documents (Efron 1979, percentile method).

Tokens of a document are not independent, so whole documents are resampled, never tokens. Every
metric is a function of sums over documents; the sums of a resample are counts @ sums, where counts
are multinomial. Shapes: N documents, R resamples, S sums.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from saeforge.eval.result import Value

Sums = Mapping[str, NDArray[np.float64]]
"""Name of a sum → its value for all the documents, then for each resample [1 + R]."""
Key = TypeVar("Key", bound=Hashable)
Statistic = Callable[[Sums], NDArray[np.float64]]

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


def estimate(
    per_document: Sums, statistics: Mapping[str, Statistic], resamples: int, seed: int
) -> dict[str, Value]:
    """Each statistic of the total sums, with the 2.5% and 97.5% percentiles of its resamples.

    Args:
        per_document: name → [N], each document's share of a sum; `n` counts its tokens, and
            documents without any are not resampled.
        statistics: functions of sums by name, elementwise, such as `lambda s: s["a"] / s["b"]`.

    With one document, or no resamples, the intervals are None.
    """
    sums = resampled(per_document, per_document["n"], resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 is null in the result
        return {name: interval(statistic(sums)) for name, statistic in statistics.items()}


def resampled(
    per_document: Mapping[Key, NDArray[np.float64]],
    n: NDArray[np.float64],
    resamples: int,
    seed: int,
) -> dict[Key, NDArray[np.float64]]:
    """Every sum of all the documents, then of each resample [1 + R]; one draw for all the sums.

    Args:
        n: each document's tokens; documents without any are not resampled.
    """
    rows_NS = np.stack([np.asarray(sum_N, np.float64) for sum_N in per_document.values()], axis=1)
    rows_NS = rows_NS[np.asarray(n) > 0]
    total_1S = rows_NS.sum(axis=0, keepdims=True)
    drawn_RS = resampled_sums(rows_NS, resamples if len(rows_NS) > 1 else 0, seed)
    return dict(zip(per_document, np.concatenate([total_1S, drawn_RS]).T, strict=True))


def interval(total_and_drawn: NDArray[np.float64]) -> Value:
    """The first element, with the 2.5% and 97.5% percentiles of the others [1 + R]."""
    value, drawn_R = float(total_and_drawn[0]), total_and_drawn[1:]
    if not np.isfinite(value):
        return Value(None)
    if not len(drawn_R) or not np.isfinite(drawn_R).all():
        return Value(value)
    low, high = np.percentile(drawn_R, [2.5, 97.5])
    return Value(value, float(low), float(high))


def describe(documents: int, resamples: int, seed: int) -> str:
    """One sentence on the intervals, for a result's config."""
    if documents < 2:
        return "none: the evaluated tokens come from one document"
    if resamples == 0:
        return "none: no resamples were asked for"
    return f"95%, percentile bootstrap over {documents} documents, {resamples} draws, seed {seed}"
