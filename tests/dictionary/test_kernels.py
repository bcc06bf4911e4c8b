"""The sparse primitives: fast against plain, and what they allocate."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers import eager_kernels as eager
from saeworks import build_sae
from saeworks.dictionary import kernels, selection
from saeworks.dictionary.base import Batch, Context

SHAPES = [(1, 1, 1, 1), (7, 5, 11, 3), (33, 24, 130, 8), (6, 4, 9, 9), (0, 4, 9, 2)]


def fixed(rows, width, k, generator):
    indices = torch.stack([torch.randperm(width, generator=generator)[:k] for _ in range(rows)])
    return indices if rows else indices.new_zeros(0, k)


def ragged(counts, width, generator):
    rows = [torch.randperm(width, generator=generator)[:count] for count in counts]
    return torch.cat(rows), torch.tensor([0, *counts]).cumsum(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "d", "width", "k"), [s for s in SHAPES if s[0]])
def test_fixed_rows_agree_with_plain(rows, d, width, k, dtype):
    generator = torch.Generator().manual_seed(rows)
    indices = fixed(rows, width, k, generator)
    check(indices, None, rows, d, width, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counts", [[3, 0, 5, 1], [0, 0], [0, 4], [11]])
def test_variable_rows_agree_with_plain(counts, dtype):
    indices, offsets = ragged(counts, 11, torch.Generator().manual_seed(1))
    check(indices, offsets, len(counts), 6, 11, dtype)


def check(indices, offsets, rows, d, width, dtype):
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(indices.shape, generator=generator, dtype=dtype)
    table = torch.randn(width, d, generator=generator, dtype=dtype)
    x = torch.randn(rows, d, generator=generator, dtype=dtype)
    pairs = kernels.sort_pairs(indices, width, offsets)
    for name, arguments in {
        "gather_sum": (values, indices, table, offsets),
        "gather_dot": (x, table, indices, offsets),
        "segment_outer": (values, x, pairs),
    }.items():
        fast, plain = getattr(kernels, name)(*arguments), getattr(eager, name)(*arguments)
        assert fast.shape == plain.shape, name
        torch.testing.assert_close(fast, plain)


def test_primitives_mean_what_their_equations_say():
    values = torch.tensor([[2.0, 3.0], [5.0, 0.0]])
    indices = torch.tensor([[2, 0], [0, 1]])
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert kernels.gather_sum(values, indices, table).tolist() == [[5.0, 2.0], [5.0, 0.0]]
    assert kernels.gather_dot(x, table, indices).tolist() == [[3.0, 1.0], [3.0, 4.0]]
    outer = kernels.segment_outer(values, x, kernels.sort_pairs(indices, 3))
    assert outer.tolist() == [[18.0, 26.0], [0.0, 0.0], [2.0, 4.0]]


def test_no_rows():
    indices = torch.zeros(0, 2, dtype=torch.int64)
    values, table, x = torch.zeros(0, 2), torch.ones(9, 4), torch.zeros(0, 4)
    assert kernels.gather_sum(values, indices, table).shape == (0, 4)
    assert kernels.gather_dot(x, table, indices).shape == (0, 2)
    outer = kernels.segment_outer(values, x, kernels.sort_pairs(indices, 9))
    assert torch.equal(outer, torch.zeros(9, 4))


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operator returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return out


@pytest.mark.parametrize("dead", [0, 24])
def test_a_step_allocates_no_gathered_rows_and_no_dense_codes(monkeypatch, dead):
    rows, d, width, k = 512, 32, 2048, 16
    monkeypatch.setitem(selection._TILE_BYTES, "cpu", 32 * width * 4)
    x, sae = torch.randn(rows, d), build_sae("topk", d, width=width, k=k)
    with Largest() as largest:
        out = sae.step(Batch(x, x), Context(torch.arange(dead), 0.0))
        torch.stack(list(out.loss_terms.values())).sum().backward()
    assert largest.numel == max(width * d, 32 * width)  # a weight, or a tile of pre-activations
    assert largest.numel < rows * k * d
    assert largest.numel < rows * width
