from dataclasses import replace
from typing import Any

import pytest

from saeworks.config import TrainConfig
from saeworks.errors import UserError
from saeworks.train import schedule

CONFIG = TrainConfig(tokens=100_000, batch=1000, warmup=0.1, decay=0.2)


def test_the_learning_rate_follows_the_root_law_unless_it_is_given():
    long = replace(CONFIG, tokens=100_000_000)
    assert schedule.base_lr(long, 2**14) == pytest.approx(2e-4)
    assert schedule.base_lr(long, 2**10) == pytest.approx(8e-4)
    assert schedule.base_lr(replace(long, tokens=10**9), 2**14) == pytest.approx(2e-4)
    assert schedule.base_lr(replace(long, tokens=25_000_000), 2**14) == pytest.approx(4e-4)
    assert schedule.base_lr(CONFIG, 2**14) == pytest.approx(16e-4)  # never more than eight times
    assert schedule.base_lr(replace(CONFIG, lr=3e-3), 2**10) == 3e-3


def test_it_rises_stays_and_falls_linearly_and_is_never_zero():
    factors = [schedule.lr_factor(CONFIG, step) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10:80] == [1.0] * 70
    assert factors[80:] == pytest.approx([(100 - i) / 20 for i in range(80, 100)])
    assert min(factors) > 0


def test_without_warmup_and_decay_it_is_constant():
    config = replace(CONFIG, warmup=0.0, decay=0.0)
    assert {schedule.lr_factor(config, step) for step in range(100)} == {1.0}


def test_steps_and_dead_threshold():
    assert schedule.steps(CONFIG) == 100
    assert schedule.steps(replace(CONFIG, tokens=100_001)) == 101
    assert schedule.dead_threshold(CONFIG) == 100_000 // 30
    assert schedule.dead_threshold(replace(CONFIG, tokens=10**9)) == 10_000_000
    assert schedule.dead_threshold(replace(CONFIG, dead_tokens=7)) == 7


def test_no_clipping_and_no_evaluation_are_allowed():
    assert replace(CONFIG, clip=None, eval_every=0, eval_tokens=0).clip is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens", 0),
        ("batch", -1),
        ("log_every", 0),
        ("eval_every", -1),
        ("checkpoint_every", -5),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("clip", -1.0),
        ("clip", float("inf")),
        ("eps", float("inf")),
        ("eval_tokens", 0),
        ("dead_tokens", 0),
        ("warmup", -0.1),
        ("decay", 0.95),
        ("betas", (0.9, 1.0)),
    ],
)
def test_values_that_make_no_run_are_refused_by_name(key: str, value: Any):
    with pytest.raises(UserError, match=f"train.{key}"):
        replace(CONFIG, **{key: value})
