"""Everything that a training does on a CUDA device, against the same on the CPU.

Each test also runs on the CPU, so that its own logic is checked on every machine.
"""

import copy
import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from helpers import eager_kernels as eager
from helpers import fakes, toys
from helpers.host_reads import NoHostReads
from saeworks import build_sae
from saeworks.dictionary import kernels
from saeworks.dictionary.base import SAE, Batch, Context
from saeworks.lm.model import LanguageModel
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step
from saeworks.train.variants import build_members

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.cuda,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
ROWS, D, WIDTH, K = 96, 16, 70, 4
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def on(device: torch.device, *tensors: Tensor | None) -> Any:
    return [None if t is None else t.to(device) for t in tensors]


def build(device: torch.device) -> SAE:
    """The same weights on every device, none of them zero."""
    sae = build_sae("topk", d=D, width=WIDTH, k=K)
    generator = torch.Generator().manual_seed(1)
    sae.initialise(torch.randn(64, D, generator=generator), generator)
    with torch.no_grad():
        sae.b_enc.copy_(0.1 * torch.randn(WIDTH, generator=generator))
    return sae.to(device)


def batch(device: torch.device) -> Batch:
    x_BD = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(2)).to(device)
    return Batch(x_BD, x_BD)


def context(dead: int, device: torch.device) -> Context:
    latents = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(3))
    return Context(latents[:dead].sort().values.to(device), 0.5)


def close(ours: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(ours.detach().cpu(), plain.detach(), **TOLERANCE)


@pytest.mark.parametrize("counts", [None, [4, 0, 7, 1, 0]])
def test_kernels_agree_with_the_eager_ones_on_the_cpu(
    device: torch.device, counts: list[int] | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    per_row = [K] * ROWS if counts is None else counts
    rows = [torch.randperm(WIDTH, generator=generator)[:n] for n in per_row]
    indices = torch.stack(rows) if counts is None else torch.cat(rows)
    offsets = None if counts is None else torch.tensor([0, *counts]).cumsum(0)
    values = torch.randn(indices.shape, generator=generator)
    table_MD = torch.randn(WIDTH, D, generator=generator)
    x_BD = torch.randn(len(per_row), D, generator=generator)
    on_indices, on_offsets, on_values, on_x = on(device, indices, offsets, values, x_BD)
    pairs = kernels.sort_pairs(on_indices, WIDTH, on_offsets)
    ours = {
        "gather_sum": kernels.gather_sum(*on(device, values, indices, table_MD, offsets)),
        "gather_dot": kernels.gather_dot(*on(device, x_BD, table_MD, indices, offsets)),
        "segment_outer": kernels.segment_outer(on_values, on_x, pairs),
    }
    plain = {
        "gather_sum": eager.gather_sum(values, indices, table_MD, offsets),
        "gather_dot": eager.gather_dot(x_BD, table_MD, indices, offsets),
        "segment_outer": eager.segment_outer(
            values, x_BD, kernels.sort_pairs(indices, WIDTH, offsets)
        ),
    }
    for name, tensor in ours.items():
        assert tensor.device.type == device.type, name
        close(tensor, plain[name])


@pytest.mark.parametrize("dead", [0, 3, 8, 20])  # around D/2 = 8
def test_a_step_has_the_cpus_values_and_gradients(device: torch.device, dead: int) -> None:
    cpu = torch.device("cpu")
    ours, plain = build(device), build(cpu)
    out = ours.step(batch(device), context(dead, device))
    expected = plain.step(batch(cpu), context(dead, cpu))
    for losses in (out.loss_terms, expected.loss_terms):
        torch.stack(list(losses.values())).sum().backward()
    assert out.loss_terms.keys() == expected.loss_terms.keys()
    assert ("auxk" in out.loss_terms) == (dead > 0)
    for name, term in expected.loss_terms.items():
        close(out.loss_terms[name], term)
    for name, number in expected.stats.items():
        close(out.stats[name], number)
    close(out.x_hat, expected.x_hat)
    assert torch.equal(out.fired.cpu(), expected.fired)
    for (name, p), q in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None, name
        assert q.grad.abs().max() > 0, name
        close(p.grad, q.grad)


@pytest.mark.parametrize("size", [0.01, 100.0, float("nan")])
def test_the_optimiser_does_what_it_does_on_the_cpu(device: torch.device, size: float) -> None:
    ours, plain = build(device), build(torch.device("cpu"))
    first = copy.deepcopy(plain)
    pair = [(sae, DictionaryAdam(sae, 0.01, clip=1.0)) for sae in (ours, plain)]
    for seed in range(3):
        norms = []
        for sae, optimiser in pair:
            generator = torch.Generator().manual_seed(seed)
            for p in sae.parameters():
                p.grad = (size * torch.randn(p.shape, generator=generator)).to(p.device)
            norms.append(optimiser.step())
        torch.testing.assert_close(norms[0].cpu(), norms[1], equal_nan=True)
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        close(p, q)
    state, expected = (optimiser.state_dict() for _, optimiser in pair)
    for name, tensor in expected.items():
        close(state[name], tensor)
    moved = (plain.w_enc - first.w_enc).abs().max()
    assert (moved == 0) if math.isnan(size) else (moved > 0)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("dead", [0, 3, 20])
def test_a_step_never_waits_for_the_device(device: torch.device, dead: int) -> None:
    sae, rows, told = build(device), batch(device), context(dead, device)
    optimiser = DictionaryAdam(sae, 1e-3)
    train_step(sae, optimiser, rows, told, 1e-3)
    with NoHostReads():
        train_step(sae, optimiser, rows, told, 1e-3)
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            train_step(sae, optimiser, rows, told, 1e-3)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dead", [0, 3, 20])
def test_a_step_needs_no_tensor_of_another_device(dead: int) -> None:
    """`meta` takes every path of a GPU, has no values to wait for, and in most operators refuses
    tensors of another device. AuxK makes its gradients as it makes its value; what is left of them
    for the backward pass, to add sparse rows to dense ones, is no operator of `meta`."""
    meta = torch.device("meta")
    sae = build(meta)
    out = sae.step(batch(meta), context(dead, meta))
    tensors = [*out.loss_terms.values(), *out.stats.values(), out.fired]
    if not dead:
        stepped = train_step(sae, DictionaryAdam(sae, 1e-3), batch(meta), context(0, meta), 1e-3)
        tensors += [*stepped.losses.values(), *stepped.stats.values(), stepped.grad_norm]
    assert all(t.device == meta for t in tensors)


class DeviceLM(fakes.FakeLM):
    """The fake language model on a device; asks the run to stop after so many sequences."""

    def __init__(self, device: torch.device, stop_after: int | None = None) -> None:
        super().__init__()
        self.device, self.stop_after = device, stop_after
        self.tables = {site: table.to(device) for site, table in self.tables.items()}

    def run(self, tokens_BT: Tensor, hooks: Mapping[str, Callable[[Tensor], Any]]) -> None:
        with self.device:
            super().run(tokens_BT, hooks)
        if self.stop_after is not None and self.sequences_run > self.stop_after:
            self.stop_after = None
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_resumes_where_it_was_interrupted(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fakes, "build_members", lambda variants, widths: build_members(variants, widths, device)
    )

    def trainer(out: Path, stop_after: int | None = None) -> Any:
        return fakes.fake_trainer(out, source=fakes.fake_source(lm=DeviceLM(device, stop_after)))

    assert trainer(tmp_path / "whole").run() == "finished"
    first = trainer(tmp_path / "halves", stop_after=70)  # in the middle of the third fill
    assert first.run() == "interrupted"
    assert 0 < first.step < first.steps
    second = trainer(tmp_path / "halves")
    assert second.run() == "finished"
    assert all(learner.idle_M.device.type == device.type for learner in second._learners)
    whole, halves = fakes.weights(tmp_path / "whole"), fakes.weights(tmp_path / "halves")
    assert whole.keys() == halves.keys() and len(whole) == 4
    for file, data in whole.items():
        expected, resumed = load(data), load(halves[file])
        for name, tensor in expected.items():
            close(resumed[name], tensor)


def llama(device: torch.device) -> LanguageModel:
    lm = toys.tiny_llama()
    return LanguageModel.wrap(copy.deepcopy(lm.model), lm.tokenizer, name="tiny", device=device)


def test_capture_and_splice_give_what_they_give_on_the_cpu(device: torch.device) -> None:
    tokens_BT = toys.token_batch().tokens
    found: dict[str, dict[str, Tensor]] = {}
    for place, lm in {"device": llama(device), "cpu": llama(torch.device("cpu"))}.items():
        sites = lm.sites(["*@resid", "1@mlp"])
        captured = lm.capture(tokens_BT, sites)
        assert all(x.device.type == lm.device.type for x in captured.values())
        site = lm.sites(["1@resid"])[0]
        clean = lm.cross_entropy(tokens_BT)
        same = lm.cross_entropy(tokens_BT, {site: lambda x_BTD: x_BTD.clone()})
        halved = lm.cross_entropy(tokens_BT, {site: lambda x_BTD: 0.5 * x_BTD})
        from_cpu = lm.cross_entropy(tokens_BT, {site: lambda x_BTD: 0.5 * x_BTD.cpu()})
        torch.testing.assert_close(same, clean)
        torch.testing.assert_close(from_cpu, halved)
        assert (halved - clean).abs().max() > 1e-3
        found[place] = {**captured, "clean": clean, "halved": halved}
    for name, expected in found["cpu"].items():
        torch.testing.assert_close(found["device"][name].cpu(), expected, rtol=1e-3, atol=1e-4)
