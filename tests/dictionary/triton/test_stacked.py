"""SAEs stepped as one against the same SAEs stepped alone on the CPU."""

import copy
from typing import Any

import pytest
import torch

from helpers.host_reads import NoHostReads
from saeworks import build_sae
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.triton import select
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.stack import StackedTraining, alike
from saeworks.train.step import train_step

D, WIDTH, ROWS = 4, 16, 8
KS = (2, 3)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, size in {"_TOKENS": 16, "_LATENTS": 16, "_DEPTH": 16, "_MERGED": 32}.items():
        monkeypatch.setattr(select, name, size)


def members(device, **options):
    torch.manual_seed(0)
    saes = [build_sae("topk", d=D, width=WIDTH, k=k, **options) for k in KS]
    for sae in saes:
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
        sae.to(device)
    return saes, [DictionaryAdam(sae, 1e-2, clip=0.1) for sae in saes]


def inputs(device, dead, weighted) -> tuple[list[Batch], list[Context]]:
    generator = torch.Generator().manual_seed(1)
    batches, contexts = [], []
    for count in dead:
        x_BD, target_BD = torch.randn(2, ROWS, D, generator=generator).to(device)
        weight_B = torch.rand(ROWS, generator=generator).to(device) if weighted else None
        batches.append(Batch(x_BD, target_BD, weight=weight_B))
        latents = torch.randperm(WIDTH, generator=generator)[:count].sort().values
        contexts.append(Context(latents.to(device), 0.5))
    return batches, contexts


@pytest.mark.parametrize(("dead", "weighted"), [((0, 0), False), ((9, 0), True), ((1, 5), False)])
def test_steps_are_those_of_each_alone(dead, weighted, device, through_triton):
    saes, optimisers = members("cpu")
    expected = []
    for _ in range(2):
        expected = [
            train_step(sae, adam, batch, context, 1e-2)
            for sae, adam, batch, context in zip(
                saes, optimisers, *inputs("cpu", dead, weighted), strict=True
            )
        ]
    our_saes, our_optimisers = members(device)
    through_triton()
    assert alike(our_saes, our_optimisers) == [[0, 1]]
    stack = StackedTraining(our_saes, our_optimisers)
    for _ in range(2):
        ours = stack.step(*inputs(device, dead, weighted), lr=1e-2)
    close: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4}
    for mine, plain in zip(ours, expected, strict=True):
        assert mine.losses.keys() == plain.losses.keys() and mine.stats.keys() == plain.stats.keys()
        for name, term in (plain.losses | plain.stats).items():
            torch.testing.assert_close((mine.losses | mine.stats)[name].cpu(), term, **close)
        assert torch.equal(mine.fired.cpu(), plain.fired)
        torch.testing.assert_close(mine.grad_norm.cpu(), plain.grad_norm, **close)
    for mine, plain in zip([*our_saes, *our_optimisers], [*saes, *optimisers], strict=True):
        state = plain.state_dict()
        for name, tensor in mine.state_dict().items():
            torch.testing.assert_close(tensor.cpu(), state[name], **close, msg=name)


def test_a_state_that_is_loaded_is_what_is_trained(device, through_triton):
    saes, optimisers = members(device)
    through_triton()
    stack = StackedTraining(saes, optimisers)
    before = copy.deepcopy([each.state_dict() for each in (*saes, *optimisers)])
    told = inputs(device, (0, 0), False)
    first = stack.step(*told, lr=1e-2)
    for each, state in zip((*saes, *optimisers), before, strict=True):
        each.load_state_dict(state)
    again = stack.step(*told, lr=1e-2)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.grad_norm, other.grad_norm)


def test_nothing_waits_for_the_device(device, through_triton):
    saes, optimisers = members(device)
    through_triton()
    stack, told = StackedTraining(saes, optimisers), inputs(device, (9, 3), False)
    with NoHostReads():
        stack.step(*told, lr=1e-2)


def test_what_differs_is_not_stacked(device, through_triton):
    saes, optimisers = members(device)
    assert alike(saes, optimisers) == ([[0, 1]] if device.type == "cuda" else [[0], [1]])
    through_triton()
    frozen, of_frozen = members(device, frozen="decoder")
    relu = build_sae("relu", d=D, width=WIDTH).to(device)
    other_rate = DictionaryAdam(saes[1], 1e-3)
    saes = [*saes, *frozen, relu, saes[1]]
    optimisers = [*optimisers, *of_frozen, DictionaryAdam(relu, 1e-2), other_rate]
    assert alike(saes, optimisers) == [[0, 1], [2], [3], [4], [5]]
