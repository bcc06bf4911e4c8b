"""From m of circuits to faithfulness, completeness, their areas, and how many nodes are enough.

Shapes: P pairs of prompts, N sizes of circuits, D rows of resampled sums (`measure/bootstrap.py`).
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from saeworks.measure.bootstrap import Draws, resampled
from saeworks.measure.circuits.ablation import NOTHING, Circuit
from saeworks.measure.circuits.faithful import Differences
from saeworks.results.metric import Value

ENOUGH = 0.8
"""The faithfulness for which nodes are counted."""
LEAST = 0.05
"""A difference m(M) − m(∅) that is a smaller share of m(M) is near zero: nothing is divided by
it."""

Key = Circuit | str
MODEL = "model"
"""The key of m of the untouched model."""


class Curves:
    """What a bank's circuits keep of the task, at one site or at all of them.

    Args:
        m: of every circuit.
        clean_P: m(M), of the untouched model.
        nodes: sizes of the circuits on the curves.
    """

    def __init__(
        self, m: Differences, clean_P: Tensor, nodes: Sequence[int], resamples: int, seed: int
    ) -> None:
        self.nodes = tuple(nodes)
        columns: dict[Key, NDArray[np.float64]] = {
            circuit: m_P.cpu().numpy() for circuit, m_P in m.items()
        }
        columns[MODEL] = clean_P.double().cpu().numpy()
        prompts = len(clean_P)
        measured_P = np.ones(prompts, dtype=bool)
        self._draws: Draws[Key] = resampled(columns, measured_P, resamples, seed)
        self.difference = self.interval((self._m(MODEL) - self._m(NOTHING)) / prompts)
        self.clean = self.interval(self._m(MODEL) / prompts)
        self.ablated = self.interval(self._m(NOTHING) / prompts)

    @property
    def near_zero(self) -> bool:
        """Whether m(M) − m(∅) is too small to divide by."""
        value, low, clean = self.difference.value, self.difference.low, self.clean.value
        assert value is not None and clean is not None
        return (value if low is None else low) <= 0 or value < LEAST * abs(clean)

    def interval(self, values_D: Float[np.ndarray, " D"]) -> Value:
        """The value with its interval over prompts."""
        return self._draws.interval(values_D)

    def kept(self, circuit: Circuit, whole: Key = MODEL) -> Float[np.ndarray, " D"]:
        """(m(C) − m(∅)) / (m(whole) − m(∅)); NaN where the denominator is near zero."""
        below_D = self._m(whole) - self._m(NOTHING)
        if self.near_zero or below_D[0] <= 0:
            return np.full(len(below_D), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self._m(circuit) - self._m(NOTHING)) / below_D

    def curve(
        self, error: bool, rest: bool = False, whole: Key = MODEL
    ) -> Float[np.ndarray, "D N"]:
        """Faithfulness of the circuits, or (`rest`) of what is left without them: completeness."""
        return np.stack([self.kept(Circuit(n, error, rest), whole) for n in self.nodes], axis=1)

    def area(self, error: bool, rest: bool = False, whole: Key = MODEL) -> Float[np.ndarray, " D"]:
        """The mean of a curve over log N, by trapezoids."""
        return area(self.curve(error, rest, whole), self.nodes)

    def enough(self, error: bool) -> Float[np.ndarray, " D"]:
        """The N at which the curve first reaches `ENOUGH`, between two sizes by the straight line
        over log N; NaN where it does not."""
        return first_reaching(self.curve(error), self.nodes, ENOUGH)

    def drawn(self, error: bool, rest: bool = False) -> tuple[list[float | None], ...]:
        """The curve's values and the ends of their intervals, for a figure."""
        values = [self.interval(column_D) for column_D in self.curve(error, rest).T]
        return (
            [value.value for value in values],
            [value.low for value in values],
            [value.high for value in values],
        )

    def _m(self, key: Key) -> NDArray[np.float64]:
        return self._draws.sums[key]


def area(curve_DN: Float[np.ndarray, "D N"], nodes: Iterable[int]) -> Float[np.ndarray, " D"]:
    """The mean of curves over log N."""
    at_N = np.log2(np.array(tuple(nodes), dtype=np.float64))
    under_D: NDArray[np.float64] = np.trapezoid(curve_DN, at_N, axis=1) / (at_N[-1] - at_N[0])
    return under_D


def first_reaching(
    curve_DN: Float[np.ndarray, "D N"], nodes: Sequence[int], level: float
) -> Float[np.ndarray, " D"]:
    """The N at which each curve first reaches a level; NaN where it does not."""
    at_N = np.log2(np.array(nodes, dtype=np.float64))
    with np.errstate(invalid="ignore"):
        reached_DN = curve_DN >= level
    end_D = reached_DN.argmax(axis=1)
    begin_D = np.maximum(end_D - 1, 0)
    row_D = np.arange(len(curve_DN))
    low_D, high_D = curve_DN[row_D, begin_D], curve_DN[row_D, end_D]
    with np.errstate(divide="ignore", invalid="ignore"):
        share_D = np.where(end_D == begin_D, 0.0, (level - low_D) / (high_D - low_D))
    found_D = 2 ** (at_N[begin_D] + share_D * (at_N[end_D] - at_N[begin_D]))
    return np.where(reached_DN.any(axis=1), found_D, np.nan)
