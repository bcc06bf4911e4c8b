"""The warm-up and the controller of sparsity: on paper, on simulated plants, in training."""

import math

import pytest
import torch

from saeforge import build_sae
from saeforge.dictionary.base import Batch, Context
from saeforge.dictionary.sparsity import adjusted, present, warmup_share
from saeforge.train.optimiser import DictionaryAdam
from saeforge.train.step import train_step

STEERED = ("relu", "gated", "jumprelu")
FULL = torch.ones(())


def stats(l0, warmup=1.0):
    return {"l0": torch.tensor(float(l0)), "warmup": torch.tensor(warmup)}


def test_warm_up_is_linear():
    like = torch.zeros(3, dtype=torch.float64)
    shares = [warmup_share(p, 0.2, like) for p in (0.0, 0.05, 0.1, 0.2, 0.7, 1.0)]
    assert [s.item() for s in shares] == pytest.approx([0, 0.25, 0.5, 1, 1, 1])
    assert all(s.dtype == torch.float64 and s.shape == () for s in shares)
    assert warmup_share(0.0, 0.0, like) == 1


def test_without_a_target_the_coefficient_is_fixed():
    c = torch.tensor(0.3)
    assert present(c, torch.tensor(1e9), None, FULL) == c
    assert present(c, torch.tensor(1e9), None, FULL / 4) == c / 4
    assert adjusted(c, stats(1e9), None) == c


def test_the_proportional_part():
    c, l0 = torch.tensor(2.0), torch.tensor(10.0, requires_grad=True)
    assert present(c, l0, 10.0, FULL).item() == pytest.approx(2.0)
    assert present(c, l0 * 1.1, 10.0, FULL).item() == pytest.approx(2 * 1.1**4)
    assert present(c, l0 * 0.9, 10.0, FULL / 2).item() == pytest.approx(0.9**4)
    assert present(c, l0 * 100, 10.0, FULL).item() == pytest.approx(2 * math.exp(3))
    assert present(c, l0 * 0, 10.0, FULL).item() == pytest.approx(2 * math.exp(-3))
    assert not present(c, l0, 10.0, FULL).requires_grad  # no reward for moving L0 itself


def test_the_integral_part():
    def rate(ratio, warmup=1.0):
        return math.log(adjusted(torch.ones(()).double(), stats(10 * ratio, warmup), 10.0))

    assert rate(1) == 0
    assert rate(math.exp(0.01)) == pytest.approx(0.04 * 0.01, rel=1e-3)
    assert rate(math.exp(-0.01)) == pytest.approx(-0.04 * 0.01, rel=1e-3)
    assert rate(math.exp(0.5)) == pytest.approx(0.01, rel=1e-5)  # the most
    assert 0 < rate(math.exp(1)) < rate(math.exp(0.5))
    assert rate(math.exp(1)) == pytest.approx(rate(1e4), rel=1e-5)
    assert rate(0) == pytest.approx(-rate(1e4), rel=1e-5)  # nothing active: down, and finite
    assert rate(5, warmup=0.5) == 0


def follow(lag, gain, delay, needed, steps, target=32.0, noise=0.01):
    """L0/target by step, of an SAE whose log L0 approaches log target − gain · log(c/needed), as
    it was `delay` steps ago, with a time constant of `lag` steps."""
    generator = torch.Generator().manual_seed(0)
    noises = (noise * torch.randn(steps, generator=generator)).exp()
    coefficient, log_ratio = torch.ones(()), math.log(384 / target)
    pulls, ratios = [0.0] * (delay + 1), []
    for seen in noises:
        now = stats(target * math.exp(log_ratio) * seen)
        pull = present(coefficient, now["l0"], target, now["warmup"]).item()
        pulls.append(-gain * math.log(pull / needed))
        log_ratio += (pulls[-1 - delay] - log_ratio) / lag
        coefficient = adjusted(coefficient, now, target)
        ratios.append(math.exp(log_ratio))
    return torch.tensor(ratios)


@pytest.mark.parametrize(
    ("lag", "gain", "delay", "within"),
    [
        (5, 1.0, 0, 700),
        (100, 1.0, 10, 700),
        (500, 1.0, 20, 1000),
        (500, 0.4, 0, 1800),
        (1000, 3.0, 0, 1000),  # all but an integrator
    ],
)
@pytest.mark.parametrize("needed", [0.03, 30.0])
def test_settles_on_slow_and_fast_plants(lag, gain, delay, within, needed):
    ratios = follow(lag, gain, delay, needed, within + 300)
    assert ((ratios[within:] - 1).abs() < 0.05).all()
    # no ringing: having arrived, it goes below once at most, and comes back for good
    lowest = int(ratios.argmin())
    assert ratios[lowest] > 0.4
    assert ratios[lowest:].max() < 1.08


def test_reaches_a_coefficient_a_thousand_times_the_first():
    assert ((follow(100, 1.0, 10, 1e3, 1600)[1400:] - 1).abs() < 0.05).all()


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
    """The coefficient starts at 0, and both ends of the last quarter agree on it and on L0."""
    _, history = trained
    assert history[0]["sparsity"] == 0
    assert all(s["sparsity"] > 0 for s in history[1:])
    for name, within in (("l0", 0.1), ("sparsity", 0.5)):
        early, late = (
            sum(s[name] for s in history[a:b]) / (b - a) for a, b in ((450, 510), (540, 600))
        )
        assert late == pytest.approx(early, rel=within)


@pytest.mark.parametrize("arch", STEERED)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_batch_leaves_a_coefficient_to_go_on_with(arch, bad):
    sae = build_sae(arch, d=D, width=WIDTH, target_l0=4.0)
    before = sae.coefficient.clone()
    x = sparse_rows(8, 0)
    x[3] = bad
    sae.after_step(sae.step(Batch(x, x), Context(torch.empty(0, dtype=torch.int64), 0.5)).stats)
    assert sae.coefficient.isfinite() and abs(sae.coefficient / before - 1) < 0.03


@pytest.mark.parametrize("arch", STEERED)
def test_the_coefficient_goes_on_after_a_reload(arch):
    sae = build_sae(arch, d=D, width=WIDTH, target_l0=4.0)
    sae.after_step(stats(8.0))
    other = build_sae(arch, d=D, width=WIDTH, target_l0=4.0)
    other.load_state_dict(sae.state_dict())
    assert other.coefficient == sae.coefficient != build_sae(arch, d=D, width=WIDTH).coefficient
