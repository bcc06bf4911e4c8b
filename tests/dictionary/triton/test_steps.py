"""Whole training steps on the path of a GPU: the plain path's values and gradients, no host."""

from typing import Any

import pytest
import torch

from helpers.host_reads import NoHostReads
from saeworks import build_sae
from saeworks.dictionary import auxk
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.triton import select
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

D, WIDTH, K, ROWS = 4, 16, 2, 8
ARCHS: dict[str, tuple[str, dict[str, Any]]] = {
    "topk": ("topk", {}),
    "switch": ("switch", {"experts": 4}),
    "two experts per token": ("switch", {"experts": 4, "router": "top-n", "active": 2}),
    "balanced by a bias": ("switch", {"experts": 4, "router": "bias"}),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Programs of few latents; AuxK is sparse as soon as there are more dead latents than D/2."""
    for name, size in {"_TOKENS": 16, "_LATENTS": 16, "_DEPTH": 16, "_MERGED": 32}.items():
        monkeypatch.setattr(select, name, size)
    monkeypatch.setattr(auxk, "_DENSE_UP_TO", {"cpu": 1, "cuda": 1})


def build(name, device):
    torch.manual_seed(0)
    arch, options = ARCHS[name]
    sae = build_sae(arch, d=D, width=WIDTH, k=K, **options)
    sae.initialise(torch.randn(64, D), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return sae.to(device)


def batch_on(device):
    x_BD = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(2)).to(device)
    return Batch(x_BD, x_BD)


def context_on(device, dead, precision="float32"):
    latents = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(3))
    return Context(latents[:dead].sort().values.to(device), 0.5, precision)


@pytest.mark.parametrize(
    ("name", "dead", "precision"),
    [
        ("topk", 0, "float32"),
        ("topk", 1, "bf16"),  # D/2 = 2
        ("topk", 9, "float32"),
        ("switch", 0, "bf16"),
        ("switch", 9, "float32"),
        ("two experts per token", 9, "float32"),
        ("balanced by a bias", 0, "float32"),
    ],
)
def test_values_and_gradients_are_the_plain_paths(name, dead, precision, device, through_triton):
    ours, plain = build(name, device), build(name, "cpu")
    expected = plain.step(batch_on("cpu"), context_on("cpu", dead))
    torch.stack(list(expected.loss_terms.values())).sum().backward()
    through_triton()
    out = ours.step(batch_on(device), context_on(device, dead, precision))
    torch.stack(list(out.loss_terms.values())).sum().backward()
    assert out.loss_terms.keys() == expected.loss_terms.keys()
    assert ("auxk" in out.loss_terms) == (dead > 0)
    for key, term in expected.loss_terms.items():
        torch.testing.assert_close(out.loss_terms[key].cpu(), term)
    torch.testing.assert_close(out.x_hat.cpu(), expected.x_hat, rtol=1e-4, atol=1e-5)
    assert torch.equal(out.fired.cpu(), expected.fired)
    for (key, p), q in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad.cpu(), q[1].grad, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize(("name", "dead"), [(name, 9) for name in ARCHS] + [("topk", 0)])
def test_a_step_never_waits_for_the_device(name, dead, device, through_triton):
    """On a GPU, CUDA itself refuses too."""
    sae, rows, told = build(name, device), batch_on(device), context_on(device, dead, "bf16")
    optimiser = DictionaryAdam(sae, 1e-3)
    through_triton()
    if device.type == "cpu":
        with NoHostReads():
            train_step(sae, optimiser, rows, told, 1e-3)
        return
    train_step(sae, optimiser, rows, told, 1e-3)  # kernels are compiled
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(sae, optimiser, rows, told, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
