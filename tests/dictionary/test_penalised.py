"""The warm-up and the controller of sparsity: on paper, on simulated plants, in training."""

import math

import pytest
import torch

from saeworks import build_sae
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.penalised import Steering, warmup_share
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

STEERED = ("relu", "gated", "jumprelu")
FULL = torch.ones(())


def state(l0, warmup=1.0):
    return {"l0": torch.tensor(float(l0)), "warmup": torch.tensor(warmup)}


def test_warm_up_is_linear():
    like = torch.zeros(3, dtype=torch.float64)
    shares = [warmup_share(p, 0.2, like) for p in (0.0, 0.05, 0.1, 0.2, 0.7, 1.0)]
    assert [s.item() for s in shares] == pytest.approx([0, 0.25, 0.5, 1, 1, 1])
    assert all(s.dtype == torch.float64 and s.shape == () for s in shares)
    assert warmup_share(0.0, 0.0, like) == 1


def test_without_a_target_the_coefficient_is_fixed():
    c, fixed = torch.tensor(0.3), Steering(0.3, None)
    assert fixed.coefficient(c, torch.tensor(1e9), FULL) == c
    assert fixed.coefficient(c, torch.tensor(1e9), FULL / 4) == c / 4
    assert fixed.adjusted(c, **state(1e9)) == c


def test_the_answering_part():
    multiplier, l0 = torch.tensor(2.0), torch.tensor(10.0, requires_grad=True)
    signed, norm = Steering(1.0, 10.0, signed=True), Steering(1.0, 10.0)
    for steering in (signed, norm):
        assert steering.coefficient(multiplier, l0, FULL).item() == pytest.approx(2.0)
        above = steering.coefficient(multiplier, 2 * l0, FULL).item()
        assert above == pytest.approx(2 + 5 * (1 + 2) * 0.5)
        assert steering.coefficient(multiplier, 2 * l0, FULL / 2).item() == above / 2
    assert signed.coefficient(multiplier, l0 / 2, FULL).item() == pytest.approx(2 - 7.5)
    assert signed.coefficient(multiplier, l0 * 0, FULL).item() == pytest.approx(2 - 15)
    assert norm.coefficient(multiplier, l0 / 2, FULL) == 0  # a norm is never rewarded
    assert not signed.coefficient(multiplier, l0, FULL).requires_grad  # no reward for moving L0


def test_the_multiplier():
    steering = Steering(1.0, 10.0)

    def change(ratio, warmup=1.0):
        return steering.adjusted(torch.tensor(2.0).double(), **state(10 * ratio, warmup)).item() - 2

    assert change(1) == 0
    assert change(2) == pytest.approx(0.015 * 7.5)
    assert change(0.5) == pytest.approx(-0.015 * 7.5)
    assert change(1e9) == pytest.approx(0.015 * 15)
    assert change(5, warmup=0.5) == 0
    assert steering.adjusted(torch.tensor(0.0), **state(0)) == 0  # never below


def follow(lag, gain, delay, needed, steps, target=32.0, noise=0.01):
    """L0/target by step, of an SAE whose log L0 approaches log target − gain · log(c/needed), as
    it was `delay` steps ago, with a time constant of `lag` steps; a coefficient of 0 and below
    counts as a tenth of what is needed."""
    generator = torch.Generator().manual_seed(0)
    noises = (noise * torch.randn(steps, generator=generator)).exp()
    steering, multiplier = Steering(1.0, target), torch.ones(())
    log_ratio = math.log(384 / target)
    pulls, ratios = [0.0] * (delay + 1), []
    for seen in noises:
        now = state(target * math.exp(log_ratio) * seen)
        pull = steering.coefficient(multiplier, now["l0"], now["warmup"]).item()
        pulls.append(-gain * math.log(max(pull, needed / 10) / needed))
        log_ratio += (pulls[-1 - delay] - log_ratio) / lag
        multiplier = steering.adjusted(multiplier, **now)
        ratios.append(math.exp(log_ratio))
    return torch.tensor(ratios)


@pytest.mark.parametrize(
    ("lag", "gain", "delay"), [(30, 1.0, 0), (100, 1.0, 5), (500, 1.0, 20), (1000, 3.0, 0)]
)
@pytest.mark.parametrize("needed", [0.5, 1.0, 10.0])
def test_settles_on_slow_and_fast_plants(lag, gain, delay, needed):
    ratios = follow(lag, gain, delay, needed, 3000)
    assert ((ratios[2000:] - 1).abs() < 0.05).all()
    assert ratios.min() > 0.4


D, WIDTH, FEATURES = 16, 32, 24


def sparse_rows(n, seed):
    """Tokens that are sums of some 4 of 24 directions, normalised."""
    generator = torch.Generator().manual_seed(100)
    w_GD = torch.nn.functional.normalize(torch.randn(FEATURES, D, generator=generator))
    generator.manual_seed(seed)
    active = torch.rand(n, FEATURES, generator=generator) < 4 / FEATURES
    strengths = (1 + 0.3 * torch.randn(n, FEATURES, generator=generator)).abs()
    x = (active * strengths) @ w_GD - 4 / FEATURES * w_GD.sum(0)
    return x / 0.5


@pytest.fixture(scope="module", params=STEERED)
def trained(request):
    """An SAE steered to L0 = 4, and the training's numbers by step."""
    steps, batch, lr = 600, 256, 5e-3
    torch.manual_seed(0)
    sae = build_sae(request.param, d=D, width=WIDTH, target_l0=4.0)
    x = sparse_rows(steps * batch, 0)
    sae.initialise(x[:2000], torch.Generator().manual_seed(0))
    optimiser, history = DictionaryAdam(sae, lr, clip=1.0), []
    dead = torch.empty(0, dtype=torch.int64)
    for i, rows in enumerate(x.split(batch)):
        decay = min(1.0, (1 - i / steps) / 0.2)
        out = train_step(sae, optimiser, Batch(rows, rows), Context(dead, i / steps), lr * decay)
        history.append({name: value.item() for name, value in out.stats.items()})
    return sae, history


@torch.no_grad()
def test_training_reaches_the_target_on_held_out_rows(trained):
    sae, history = trained
    x = sparse_rows(8000, 1)
    l0 = (sae.encode(x) > 0).sum(1).double().mean()
    assert abs(l0 / 4 - 1) < 0.05
    assert sum(s["l0"] for s in history[-60:]) / 60 == pytest.approx(4, rel=0.05)


def test_training_settles(trained):
    """The coefficient starts at 0, and both ends of the last quarter agree on L0."""
    _, history = trained
    assert history[0]["sparsity"] == 0
    early, late = (
        sum(s["l0"] for s in history[a:b]) / (b - a) for a, b in ((450, 510), (540, 600))
    )
    assert late == pytest.approx(early, rel=0.05)


@pytest.mark.parametrize("arch", STEERED)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_batch_leaves_a_coefficient_to_go_on_with(arch, bad):
    sae = build_sae(arch, d=D, width=WIDTH, target_l0=4.0)
    before = sae.coefficient.clone()
    x = sparse_rows(8, 0)
    x[3] = bad
    sae.after_step(sae.step(Batch(x, x), Context(torch.empty(0, dtype=torch.int64), 0.5)).state)
    assert sae.coefficient.isfinite() and abs(sae.coefficient / before - 1) < 0.2


@pytest.mark.parametrize("arch", STEERED)
def test_the_coefficient_goes_on_after_a_reload(arch):
    sae = build_sae(arch, d=D, width=WIDTH, target_l0=4.0)
    sae.after_step(state(8.0))
    other = build_sae(arch, d=D, width=WIDTH, target_l0=4.0)
    other.load_state_dict(sae.state_dict())
    assert other.coefficient == sae.coefficient != build_sae(arch, d=D, width=WIDTH).coefficient
