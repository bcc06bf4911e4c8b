"""DictionaryAdam against torch's Adam with its extras written out."""

import copy

import pytest
import torch

from saeworks import UserError, build_sae
from saeworks.dictionary.base import Batch, Context
from saeworks.train import optimiser as module
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

D, WIDTH = 6, 20


def build(seed=0):
    torch.manual_seed(seed)
    sae = build_sae("topk", d=D, width=WIDTH, k=3)
    sae.initialise(torch.randn(64, D), torch.Generator().manual_seed(seed))
    return sae


def set_gradients(sae, seed, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        parameter.grad = size * torch.randn(parameter.shape, generator=generator)


def reference_step(sae, adam, clip):
    w, g = sae.w_dec.data, sae.w_dec.grad
    g -= (g * w).sum(1, keepdim=True) * w
    norm = torch.nn.utils.get_total_norm([p.grad for p in sae.parameters()])
    for p in sae.parameters():
        p.grad *= min(1.0, clip / norm.item())
    adam.step()
    w /= w.norm(dim=1, keepdim=True)
    return norm


@pytest.mark.parametrize("clip", [0.5, 1e9])
@pytest.mark.parametrize("chunk", [1, 3 * D * 4, 2**20])
def test_equals_adam_with_projection_clip_and_renormalisation(monkeypatch, clip, chunk):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk)
    ours, plain = build(), build()
    adam = torch.optim.Adam(plain.parameters(), lr=0.01, betas=(0.8, 0.99), eps=1e-6)
    mine = DictionaryAdam(ours, 0.01, betas=(0.8, 0.99), eps=1e-6, clip=clip)
    for seed in range(5):
        set_gradients(ours, seed)
        set_gradients(plain, seed)
        norm = mine.step(0.01)
        torch.testing.assert_close(norm, reference_step(plain, adam, clip))
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.w_dec.norm(dim=1), torch.ones(WIDTH))


def test_learning_rate_of_the_call_counts():
    sae = build()
    before = copy.deepcopy(sae.state_dict())
    set_gradients(sae, 0)
    DictionaryAdam(sae, 0.1).step(0.0)
    assert torch.equal(before["w_enc"], sae.w_enc)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    sae = build()
    mine = DictionaryAdam(sae, 0.01)
    set_gradients(sae, 0)
    mine.step()
    before = copy.deepcopy(sae.state_dict()), copy.deepcopy(mine.state_dict())
    set_gradients(sae, 1)
    sae.w_enc.grad[3, 2] = bad
    assert not mine.step().isfinite()
    for now, then in zip((sae.state_dict(), mine.state_dict()), before, strict=True):
        for name in then:
            if name != "w_dec":
                assert torch.equal(now[name], then[name]), name
    torch.testing.assert_close(sae.w_dec.detach(), before[0]["w_dec"], rtol=0, atol=1e-7)


def test_resuming_gives_the_same_bytes():
    straight, resumed = build(), build()
    one = DictionaryAdam(straight, 0.01)
    two = DictionaryAdam(resumed, 0.01)
    for seed in range(6):
        if seed == 3:
            state = {name: tensor.clone() for name, tensor in two.state_dict().items()}
            two = DictionaryAdam(resumed, 0.01)
            two.load_state_dict(state)
        for sae, adam in ((straight, one), (resumed, two)):
            set_gradients(sae, seed)
            adam.step()
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_of_another_sae_is_refused():
    mine = DictionaryAdam(build(), 0.01)
    state = mine.state_dict()
    with pytest.raises(UserError, match=r"exp_avg\.b_dec"):
        mine.load_state_dict({n: t for n, t in state.items() if n != "exp_avg.b_dec"})
    with pytest.raises(UserError, match=r"exp_avg\.w_enc is \[1\]"):
        mine.load_state_dict({**state, "exp_avg.w_enc": torch.zeros(1)})


def test_train_step_learns_and_leaves_no_graph():
    sae = build()
    adam = DictionaryAdam(sae, 0.01)
    x = torch.randn(256, D, generator=torch.Generator().manual_seed(0))
    dead = torch.arange(2)
    losses = []
    for step in range(30):
        done = train_step(sae, adam, Batch(x, x), Context(dead, step / 30), 0.01)
        losses.append(done.losses["reconstruction"].item())
        assert all(p.grad is None for p in sae.parameters())
        assert not any(t.requires_grad for t in (*done.losses.values(), done.grad_norm))
    assert losses[-1] < 0.8 * losses[0]
    assert set(done.losses) == {"reconstruction", "auxk"}
    torch.testing.assert_close(sae.w_dec.norm(dim=1), torch.ones(WIDTH))


def test_same_seed_same_bytes():
    ends = []
    for _ in range(2):
        sae = build()
        adam = DictionaryAdam(sae, 0.01)
        x = torch.randn(512, D, generator=torch.Generator().manual_seed(0))
        dead = torch.arange(0)
        for _ in range(5):
            train_step(sae, adam, Batch(x, x), Context(dead, 0.0), 0.01)
        ends.append(sae.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_moments_in_bf16_are_half_as_large_and_continue_to_the_bit(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 3 * D * 4)

    def run(steps):
        sae = build()
        adam = DictionaryAdam(sae, 0.01, moments="bf16")
        for seed in range(steps):
            set_gradients(sae, seed)
            adam.step()
        return sae, adam

    sae, adam = run(3)
    again, resumed = run(0)
    again.load_state_dict(sae.state_dict())
    resumed.load_state_dict(copy.deepcopy(adam.state_dict()))
    for each, optimiser in ((sae, adam), (again, resumed)):
        set_gradients(each, 7)
        optimiser.step()
    for name, tensor in adam.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])
        assert name == "steps" or tensor.dtype == torch.bfloat16
    assert torch.equal(sae.w_enc, again.w_enc)


def test_moments_in_bf16_decay_where_there_is_no_gradient():
    """Rounded to the nearest, a second moment of which 0.999 are left would stay as it is."""
    sae = build()
    adam = DictionaryAdam(sae, 0.0, moments="bf16")
    set_gradients(sae, 0)
    adam.step()
    before = adam.exp_avg_sq["w_enc"].float().sum()
    for parameter in sae.parameters():
        parameter.grad.zero_()
    for _ in range(500):
        adam.step()
    left = adam.exp_avg_sq["w_enc"].float().sum() / before
    assert abs(left - 0.999**500) < 0.05
