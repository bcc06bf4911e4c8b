"""The sparse primitives in Triton: against the plain ones, closed forms, odd inputs, same bytes."""

import pytest
import torch

from helpers import eager_kernels as eager
from saeworks.dictionary import kernels

TYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 1, 1, 1), (3, 7, 11, 3), (2, 130, 9, 17), (2, 5, 12, 512)]
COUNTS = [[3, 0, 5, 1], [0, 0], [20, 0]]


@pytest.fixture(autouse=True)
def on_triton(through_triton):
    through_triton()


def random(generator, *shape, dtype=torch.float32, device="cpu"):
    return torch.randn(*shape, generator=generator).to(device, dtype)


def pairs_of(counts, width, generator, device):
    latents = torch.randint(width, (sum(counts),), generator=generator)
    return latents.to(device), torch.tensor([0, *counts]).cumsum(0).to(device)


def close(ours, plain):
    """Ours are summed in float32 and rounded once; the plain ones, from the same bfloat16 numbers,
    are computed in float32."""
    assert ours.shape == plain.shape
    tolerance = 1e-2 if ours.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(ours.float(), plain, rtol=tolerance, atol=tolerance)


def check(values, indices, offsets, table_MD, x_BD):
    pairs = kernels.sort_pairs(indices, table_MD.shape[0], offsets)
    for name, arguments in {
        "gather_sum": (values, indices, table_MD, offsets),
        "gather_dot": (x_BD, table_MD, indices, offsets),
        "segment_outer": (values, x_BD, pairs),
    }.items():
        ours = getattr(kernels, name)(*arguments)
        exact = [
            a.float() if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments
        ]
        assert ours.dtype == table_MD.dtype, name
        close(ours, getattr(eager, name)(*exact))
        if table_MD.is_cuda:  # the interpreter runs one program after the other
            assert torch.equal(ours, getattr(kernels, name)(*arguments)), f"{name}: other bytes"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "d", "width", "k"), SHAPES)
def test_fixed_rows_agree_with_plain(rows, d, width, k, dtype, device):
    generator = torch.Generator().manual_seed(rows)
    flat, _ = pairs_of([k] * rows, width, generator, device)
    kind = {"dtype": dtype, "device": device}
    table_MD, x_BD = random(generator, width, d, **kind), random(generator, rows, d, **kind)
    check(random(generator, rows, k, **kind), flat.view(rows, k), None, table_MD, x_BD)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("counts", COUNTS)
def test_ragged_rows_agree_with_plain(counts, dtype, device):
    generator = torch.Generator().manual_seed(1)
    indices, offsets = pairs_of(counts, 20, generator, device)
    kind = {"dtype": dtype, "device": device}
    table_MD, x_BD = random(generator, 20, 6, **kind), random(generator, len(counts), 6, **kind)
    check(random(generator, len(indices), **kind), indices, offsets, table_MD, x_BD)


def test_inputs_that_are_not_contiguous(device):
    generator = torch.Generator().manual_seed(2)
    flat, _ = pairs_of([8] * 4, 8, generator, device)
    indices = flat.view(4, 8)[:, ::2]
    values = random(generator, 4, 4, device=device).T
    tables = {
        "columns of a wider one": random(generator, 8, 9, device=device)[:, 2:8],
        "every second row": random(generator, 16, 6, device=device)[::2],
        "transposed": random(generator, 6, 8, device=device).T,
    }
    for table_MD in tables.values():
        check(values, indices, None, table_MD, table_MD[::2])


def test_closed_forms(device):
    values = torch.tensor([[2.0, 3.0], [5.0, 0.0]], device=device)
    indices = torch.tensor([[2, 0], [0, 1]], device=device)
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], device=device)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
    assert kernels.gather_sum(values, indices, table).tolist() == [[5.0, 2.0], [5.0, 0.0]]
    assert kernels.gather_dot(x, table, indices).tolist() == [[3.0, 1.0], [3.0, 4.0]]
    outer = kernels.segment_outer(values, x, kernels.sort_pairs(indices, 3))
    assert outer.tolist() == [[18.0, 26.0], [0.0, 0.0], [2.0, 4.0]]


def test_no_tokens(device):
    indices = torch.zeros(0, 2, dtype=torch.int64, device=device)
    values, x = torch.zeros(0, 2, device=device), torch.zeros(0, 4, device=device)
    table = torch.ones(9, 4, device=device)
    assert kernels.gather_sum(values, indices, table).shape == (0, 4)
    assert kernels.gather_dot(x, table, indices).shape == (0, 2)
    outer = kernels.segment_outer(values, x, kernels.sort_pairs(indices, 9))
    assert torch.equal(outer, torch.zeros(9, 4, device=device))


def test_a_latent_that_is_there_twice_counts_twice(device):
    indices = torch.tensor([[1, 1]], device=device)
    values, table = torch.tensor([[2.0, 3.0]], device=device), torch.ones(2, 3, device=device)
    assert kernels.gather_sum(values, indices, table).tolist() == [[5.0, 5.0, 5.0]]
    outer = kernels.segment_outer(values, table[:1], kernels.sort_pairs(indices, 2))
    assert outer.tolist() == [[0.0, 0.0, 0.0], [5.0, 5.0, 5.0]]


def test_float64_is_torchs():
    assert kernels.triton_runs(torch.zeros(1))
    assert not kernels.triton_runs(torch.zeros(1, dtype=torch.float64))
