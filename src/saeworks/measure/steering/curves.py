"""What pushes do, as rates over prompts at every strength, and at the same cost.

Shapes: P prompts, R documents, D rows of resampled sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from saeworks.measure.bootstrap import Statistic, Sums, estimate
from saeworks.measure.steering.pushes import Written
from saeworks.results.metric import Value
from saeworks.results.series import AtCost, SteeredBy, SteeringCurve, SteeringPoint

Way = Literal["up", "down"]


@dataclass(frozen=True)
class Effect:
    """What a push of one strength does; several pushes of one kind are pooled.

    Attributes:
        more_R: nats lost more in each document.
        written: after the prompts; of several pushes, one behind the other, prompt by prompt.
        task_P: change of the task's logit difference on its prompts; None without a task.
    """

    more_R: NDArray[np.float64]
    hits_P: NDArray[np.float64]
    tokens_P: NDArray[np.float64]
    nats: float
    task_P: NDArray[np.float64] | None

    @classmethod
    def of(
        cls, more_R: NDArray[np.float64], written: Written, task_P: NDArray[np.float64] | None
    ) -> "Effect":
        """The effect of one push."""
        return cls(more_R, written.hits_P, written.tokens_P, written.nats, task_P)

    @classmethod
    def pooled(cls, each: Sequence["Effect"]) -> "Effect":
        """Several pushes of the same kind and strength: mean cost, rate over all their tokens."""
        tasks = [effect.task_P for effect in each if effect.task_P is not None]
        return cls(
            np.mean([effect.more_R for effect in each], axis=0),
            np.sum([effect.hits_P for effect in each], axis=0),
            np.sum([effect.tokens_P for effect in each], axis=0),
            float(np.mean([effect.nats for effect in each])),
            np.mean(tasks, axis=0) if tasks else None,
        )


@dataclass(frozen=True)
class PushCurve:
    """The effects of a kind of push.

    Attributes:
        strengths: ascending, 0 (the untouched model) among them.
        count_R: counted predictions of each document.
    """

    by: SteeredBy
    strengths: tuple[float, ...]
    effects: tuple[Effect, ...]
    count_R: NDArray[np.float64]

    @property
    def costs(self) -> list[float]:
        """ΔCE at each strength."""
        tokens = max(float(self.count_R.sum()), 1.0)
        return [float(effect.more_R.sum()) / tokens for effect in self.effects]

    def way(self, way: Way) -> list[int]:
        """Places of the strengths from 0 outwards."""
        zero = self.strengths.index(0.0)
        return list(range(zero, len(self.strengths))) if way == "up" else list(range(zero, -1, -1))

    def crossing(self, way: Way, cost: float) -> tuple[int, int, float, float]:
        """Two neighbouring places, the weight of the second, and the cost that is reached: where
        ΔCE first comes to `cost` on the way outwards, linear in between; the strongest push where
        it never does."""
        costs, places = self.costs, self.way(way)
        for here, further in pairwise(places):
            if costs[further] >= cost:
                rise = costs[further] - costs[here]
                weight = (cost - costs[here]) / rise if rise > 0 else 0.0
                return here, further, min(max(weight, 0.0), 1.0), cost
        last = places[-1]
        return last, last, 1.0, costs[last]

    def columns(self, prefix: str) -> dict[str, NDArray[np.float64]]:
        """Hits and tokens of each prompt at each strength, by name."""
        return {
            f"{prefix}{kind}{at}": column
            for at, effect in enumerate(self.effects)
            for kind, column in (("hits", effect.hits_P), ("tokens", effect.tokens_P))
        }

    def rate(self, way: Way, cost: float, prefix: str) -> Statistic:
        """The rate at a cost, as a function of the columns."""
        here, further, weight, _ = self.crossing(way, cost)

        def statistic(s: Sums) -> NDArray[np.float64]:
            rate_D = _rate(s, prefix, further)
            return (
                rate_D if weight == 1 else (1 - weight) * _rate(s, prefix, here) + weight * rate_D
            )

        return statistic

    def span(self, cost: float, prefix: str) -> Statistic:
        """The rate pushed up less that pushed down, at a cost."""
        up, down = self.rate("up", cost, prefix), self.rate("down", cost, prefix)
        return lambda s: up(s) - down(s)


def _rate(s: Sums, prefix: str, at: int) -> NDArray[np.float64]:
    return s[f"{prefix}hits{at}"] / s[f"{prefix}tokens{at}"]


def at_cost(curve: PushCurve, cost: float, resamples: int, seed: int) -> AtCost:
    """Rates both ways at a cost, with intervals over prompts; the cost is taken as it is."""
    statistics = {
        "up": curve.rate("up", cost, ""),
        "down": curve.rate("down", cost, ""),
        "span": curve.span(cost, ""),
    }
    values = estimate(curve.columns(""), statistics, resamples, seed)
    reached = [curve.crossing("up", cost)[3], curve.crossing("down", cost)[3]]
    up, down = share(values["up"]), share(values["down"])
    return AtCost(curve.by, up, down, values["span"], list(reached))


def points(curve: PushCurve, resamples: int, seed: int) -> SteeringCurve:
    """The record of a curve."""
    return SteeringCurve(
        curve.by,
        [
            point(strength, effect, curve.count_R, resamples, seed)
            for strength, effect in zip(curve.strengths, curve.effects, strict=True)
        ],
    )


def point(
    strength: float,
    effect: Effect,
    count_R: Float[np.ndarray, " R"],
    resamples: int,
    seed: int,
) -> SteeringPoint:
    """The record of an effect: its cost over documents, its rate and the task over prompts."""
    cost = _mean(effect.more_R, count_R, resamples, seed)
    rate = share(_mean(effect.hits_P, effect.tokens_P, resamples, seed))
    task = None
    if effect.task_P is not None:
        task = _mean(effect.task_P, np.ones_like(effect.task_P), resamples, seed)
    nats = effect.nats if np.isfinite(effect.nats) else None
    return SteeringPoint(strength, cost, rate, nats, task)


def _mean(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, seed: int
) -> Value:
    columns: Mapping[str, NDArray[np.float64]] = {"sum": sums, "n": counts}
    return estimate(columns, {"mean": lambda s: s["sum"] / s["n"]}, resamples, seed)["mean"]


def share(value: Value) -> Value:
    """A share, whose interval ends at 0 and 1."""
    ends = [None if end is None else min(max(end, 0.0), 1.0) for end in (value.low, value.high)]
    return Value(value.value, *ends)
