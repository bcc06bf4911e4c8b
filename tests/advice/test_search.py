"""The search over runs, by a law and a machine that are known."""

from dataclasses import replace

import numpy as np
import pytest

from advice.test_law import SITES, pilots, truth
from saeworks.advice.budget import Budget, Goal
from saeworks.advice.costs import Speeds
from saeworks.advice.law import FVULaw, fit
from saeworks.advice.search import Kind, Space
from saeworks.cost.estimate import Calibration, LMFacts, Part, PhaseSeconds, Workload

D, BATCH = 128, 256
SITE_NAMES = tuple(f"layers.{i}" for i in range(SITES))
FIXED, PER_FLOP, PER_PARAMETER = 1e-3, 1e-10, 2e-9


def part(width: int, experts: int = 1, k: int = 32) -> Part:
    more = {"experts": experts} if experts > 1 else {}
    options = {"width": width, "k": k, **more}
    return Part("timed", "switch" if more else "topk", options, D, SITE_NAMES[:1])


TIMED = (part(256), part(1024), part(256, k=64), part(1024, experts=4))


def seconds(one: Part, batch: int) -> float:
    return FIXED + PER_FLOP * batch * one.flops(batch) + PER_PARAMETER * one.parameters


@pytest.fixture(scope="module")
def speeds() -> Speeds:
    shapes = {p.shape: (PhaseSeconds(1.0, seconds(p, BATCH), None),) for p in TIMED}
    measured = Calibration(1, 1.0, 1e-6, 1e-4, shapes, 0.0, 0.0, 1.0, True, "")
    lm = LMFacts(D, SITES, 2e6, 3e6, 10**6)
    planes = dict.fromkeys(SITE_NAMES, D)
    work = Workload(TIMED, planes, 400, BATCH, 2**14, 1600, 0, 1024, 4, lm)
    return Speeds(measured, work)


@pytest.fixture(scope="module")
def law() -> FVULaw:
    random = np.random.default_rng(5)
    return fit(pilots(truth(random), random, 0.02)[0], SITES, draws=60)


@pytest.fixture(scope="module")
def space(law: FVULaw, speeds: Speeds) -> Space:
    return Space(law, speeds, speeds.work, (1, 2, SITES), (32,), 1e9, 50_000)


@pytest.mark.parametrize("batch", [128, 2048])
def test_steps_of_any_shape_follow_from_those_that_were_timed(speeds: Speeds, batch: int) -> None:
    for one in (part(4096), part(4096, experts=16), part(512, k=8)):
        (phase,) = speeds.steps.seconds(one, batch)
        assert phase.alone == pytest.approx(seconds(one, batch), rel=0.02)


def test_a_factor_is_on_all_seconds(speeds: Speeds) -> None:
    slower = replace(speeds, factor=3.0)
    assert slower.seconds(speeds.work) == pytest.approx(3 * speeds.seconds(speeds.work))


@pytest.mark.parametrize("budget", [Budget(seconds=600.0), Budget(flops=1e14)])
def test_the_whole_budget_is_used_and_no_more(space: Space, budget: Budget) -> None:
    best, other = space.best(budget)
    for option in (best, other):
        cost = option.cost
        assert cost.seconds is not None
        limit = budget.seconds or budget.flops
        used = cost.seconds.total if budget.seconds else sum(cost.flops.values())
        assert limit is not None
        assert 0.97 * limit < used <= 1.01 * limit
    assert best.mean("fvu")[2] <= 1.05 * other.mean("fvu")[2]
    assert (best.kind.groups, best.kind.experts > 1) != (other.kind.groups, other.kind.experts > 1)


def test_memory_bounds_the_width(space: Space) -> None:
    wide, narrow = Kind(SITES, 32, 1, 32), Kind(1, 2, 1, 32)
    memory = sum(space.cost(wide, 1e6).memory.values())
    assert space.affordable(wide, Budget(seconds=600.0, memory=memory - 1)) == 0
    assert space.affordable(narrow, Budget(seconds=600.0, memory=memory - 1)) > 0


def test_the_text_bounds_the_run(space: Space) -> None:
    short = replace(space, most_tokens=60_000.0)
    assert short.best(Budget(seconds=1e6))[0].tokens <= 60_000


def test_an_expert_has_two_latents_for_each_active_one(space: Space) -> None:
    for kind in space.kinds:
        assert kind.expansion * D / kind.experts >= 2 * kind.k


def test_a_target_is_reached_for_less(space: Space) -> None:
    budget = Budget(seconds=3600.0)
    best = space.best(budget)[0]
    target = Goal("fvu", 1.15 * best.mean("fvu")[2])
    cheapest = space.cheapest(budget, target)[0]
    assert cheapest.mean("fvu")[2] <= 1.05 * target.value
    assert cheapest.cost.seconds is not None and best.cost.seconds is not None
    assert cheapest.cost.seconds.total < best.cost.seconds.total
    assert space.cheapest(budget, Goal("fvu", 1e-9)) == []


def test_a_target_in_delta_ce(space: Space) -> None:
    budget = Budget(flops=1e14)
    best = space.best(budget)[0]
    target = Goal("delta_ce", 2 * best.mean("delta_ce")[2])
    assert space.cheapest(budget, target)[0].mean("delta_ce")[2] <= 1.05 * target.value


def test_nothing_fits(space: Space) -> None:
    assert space.best(Budget(seconds=0.01)) == []


def test_no_run_reaches_the_limit(space: Space) -> None:
    limit = space.limit().mean("fvu")[0]
    assert limit < space.best(Budget(seconds=3600.0))[0].mean("fvu")[0]
