"""Rates at a cost against arithmetic by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from saeworks.measure.steering.curves import Effect, PushCurve, at_cost, point, points, share
from saeworks.results.metric import Value

PROMPTS, DOCUMENTS = 12, 5


def effect(rate: float, cost: float, task: float | None = None) -> Effect:
    """10 tokens of each prompt, of which a share are hits; 20 predictions of each document."""
    task_P = None if task is None else np.full(PROMPTS, task)
    hits_P = np.full(PROMPTS, 10 * rate)
    more_R = np.full(DOCUMENTS, 20 * cost)
    return Effect(more_R, hits_P, np.full(PROMPTS, 10.0), 1.0, task_P)


def curve(*effects: Effect) -> PushCurve:
    half = len(effects) // 2
    strengths = tuple(float(at - half) for at in range(len(effects)))
    return PushCurve("latents", strengths, effects, np.full(DOCUMENTS, 20.0))


KNOWN = curve(
    effect(0.0, 0.5), effect(0.2, 0.1), effect(0.5, 0.0), effect(0.6, 0.05), effect(0.9, 0.25)
)


def test_the_rate_at_a_cost_is_linear_between_strengths() -> None:
    assert np.allclose(KNOWN.costs, [0.5, 0.1, 0.0, 0.05, 0.25])
    at = at_cost(KNOWN, 0.15, 100, 0)
    assert at.up.value == pytest.approx(0.6 + 0.3 * 0.5)
    assert at.down.value == pytest.approx(0.2 - 0.2 * 0.125)
    assert at.span.value == pytest.approx(0.75 - 0.175)
    assert at.reached == [0.15, 0.15]
    assert at_cost(KNOWN, 0.0, 100, 0).up.value == pytest.approx(0.5)


def test_a_push_that_never_costs_so_much_counts_at_its_strongest() -> None:
    at = at_cost(KNOWN, 0.4, 100, 0)
    assert at.up.value == pytest.approx(0.9) and at.reached[0] == pytest.approx(0.25)
    assert at.down.value == pytest.approx(0.05) and at.reached[1] == 0.4


def test_equal_prompts_have_intervals_of_no_width_and_shares_end_at_0_and_1() -> None:
    at = at_cost(KNOWN, 0.15, 100, 0)
    assert at.up.low == pytest.approx(0.75) and at.up.high == pytest.approx(0.75)
    assert share(Value(0.9, 0.7, 1.2)) == Value(0.9, 0.7, 1.0)
    assert share(Value(0.1, -0.2, 0.3)) == Value(0.1, 0.0, 0.3)
    assert share(Value(None)) == Value(None)


def test_an_interval_is_over_prompts() -> None:
    rng = np.random.default_rng(0)

    def noisy(rate: float, cost: float) -> Effect:
        known = effect(rate, cost)
        hits_P: NDArray[np.float64] = rng.binomial(10, rate, PROMPTS).astype(np.float64)
        return Effect(known.more_R, hits_P, known.tokens_P, 1.0, None)

    at = at_cost(curve(noisy(0.2, 0.2), noisy(0.5, 0.0), noisy(0.8, 0.2)), 0.1, 400, 0)
    assert at.span.low is not None and at.span.high is not None and at.span.value is not None
    assert at.span.low < at.span.value < at.span.high
    assert 0.1 < at.span.high - at.span.low < 0.8


def test_pooled_pushes_are_the_mean_cost_and_the_rate_of_all_their_tokens() -> None:
    pooled = Effect.pooled([effect(0.2, 0.1, 1.0), effect(0.6, 0.3, 3.0)])
    record = point(0.5, pooled, np.full(DOCUMENTS, 20.0), 50, 0)
    assert record.rate.value == pytest.approx(0.4) and record.cost.value == pytest.approx(0.2)
    assert record.task is not None and record.task.value == pytest.approx(2.0)


def test_points_are_in_the_order_of_strengths() -> None:
    record = points(KNOWN, 50, 0)
    assert [at.strength for at in record.points] == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert [at.rate.value for at in record.points] == pytest.approx([0.0, 0.2, 0.5, 0.6, 0.9])
    assert record.points[0].task is None
