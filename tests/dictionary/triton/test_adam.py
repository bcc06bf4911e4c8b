"""The optimiser in Triton against the one on the CPU."""

from typing import Any

import pytest
import torch

from saeworks import build_sae
from saeworks.train.optimiser import DictionaryAdam, rounded

D, WIDTH = 5, 7


def build(device):
    torch.manual_seed(0)
    sae = build_sae("topk", d=D, width=WIDTH, k=3)
    sae.initialise(torch.randn(64, D), torch.Generator().manual_seed(1))
    return sae.to(device)


def run(sae, steps, size=1.0, **options):
    """The norms of some steps with the same gradients everywhere."""
    optimiser, norms = DictionaryAdam(sae, 0.01, (0.8, 0.99), 1e-6, **options), []
    for seed in range(steps):
        generator = torch.Generator().manual_seed(seed)
        for parameter in sae.parameters():
            drawn = size * torch.randn(parameter.shape, generator=generator)
            parameter.grad = drawn.to(parameter.device)
        norms.append(optimiser.step().cpu())
    return optimiser, torch.stack(norms)


@pytest.mark.parametrize("moments", ["float32", "bf16"])
@pytest.mark.parametrize("clip", [0.5, None])
def test_steps_are_the_cpus(clip, moments, device, through_triton):
    plain = build("cpu")
    expected, norms = run(plain, 3, clip=clip, moments=moments)
    ours = build(device)
    through_triton()
    optimiser, our_norms = run(ours, 3, clip=clip, moments=moments)
    torch.testing.assert_close(our_norms, norms)
    state = optimiser.state_dict()
    tolerance: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}
    if moments == "bf16":  # where float32 differs in its last bit, chance may fall otherwise
        tolerance = {"rtol": 2**-6, "atol": 1e-4}
    for name, tensor in expected.state_dict().items():
        assert state[name].dtype == tensor.dtype
        torch.testing.assert_close(state[name].cpu().float(), tensor.float(), **tolerance)
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.w_dec.detach().norm(dim=1).cpu(), torch.ones(WIDTH))


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, in the interpreter
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, device, through_triton):
    sae = build(device)
    through_triton()
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    optimiser, norms = run(sae, 1, size=bad)
    assert not norms.isfinite().any()
    assert optimiser.steps == 0
    assert all(torch.equal(before[name], now) for name, now in sae.state_dict().items())


def test_gradients_that_are_not_contiguous(device, through_triton):
    through_triton()
    ours, plain = build(device), build(device)
    grad = torch.randn(WIDTH, D).to(device)
    for sae, same in ((ours, grad.T.contiguous().T), (plain, grad)):
        sae.w_dec.grad = same
        DictionaryAdam(sae, 0.01).step()
    assert torch.equal(ours.w_dec, plain.w_dec)


def test_rounding_keeps_the_mean_and_moves_with_the_step(device):
    """A number between two of bfloat16 goes to each as often as it is near, over steps too."""
    low, high = 1.0, 1 + 2**-7
    x = torch.full((1,), 1 + 2**-9, device=device)
    hit = torch.stack([rounded(x, torch.tensor(float(t), device=device)) for t in range(2000)])
    assert set(hit.flatten().tolist()) == {low, high}
    assert abs(hit.float().mean().item() - x.item()) < 2**-7 * 4 * (0.25 * 0.75 / 2000) ** 0.5
    spread = 1 + torch.rand(20_000, generator=torch.Generator().manual_seed(0)).to(device)
    error = rounded(spread, torch.tensor(3.0, device=device)).float() - spread
    assert error.abs().max() <= 2**-7 and error.mean().abs() < 1e-4
