"""Pre-activations at pairs and at all latents, against the dense matrix."""

import pytest
import torch

from saeworks.dictionary import autograd, kernels, preactivations, selection
from saeworks.dictionary.preactivations import (
    AtAll,
    AtPairs,
    at_pairs,
    preactivations_above,
)
from saeworks.dictionary.selection import select_above

D, WIDTH = 6, 17
FLOORS = {"none": 1e6, "some": 0.7, "half": 0.0, "all": -1e6}


def rows(n, seed=0, dtype=torch.float64):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)).to(dtype)


def parameters(dtype=torch.float64):
    """w_enc, b_enc, b_dec, w_dec."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((WIDTH, D), (WIDTH,), (D,), (WIDTH, D))
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def dense(x, w_enc, b_enc, b_dec):
    return (x if b_dec is None else x - b_dec) @ w_enc.T + b_enc


def spread(z, values):
    """The values of either kind as a matrix [B, M], zero at the places that it leaves out."""
    return values if isinstance(z, AtAll) else z.code(values).dense()


@pytest.mark.parametrize("tile", [1, 3, 1000])
@pytest.mark.parametrize("floor", list(FLOORS))
@pytest.mark.parametrize("shifted", [True, False])
def test_selects_every_pair_above_the_floor(monkeypatch, tile, floor, shifted):
    monkeypatch.setitem(selection._TILE_BYTES, "cpu", tile * WIDTH * 8)
    x, (w_enc, b_enc, b_dec, _) = rows(11), parameters()
    b_dec = b_dec if shifted else None
    limit = torch.tensor(FLOORS[floor], dtype=torch.float64)
    with torch.no_grad():
        values, latents, offsets = select_above(x, w_enc, b_enc, limit, b_dec)
        z = dense(x, w_enc, b_enc, b_dec)
    row, expected = (z > limit).nonzero(as_tuple=True)
    assert torch.equal(latents, expected)
    torch.testing.assert_close(values, z[row, expected])
    assert torch.equal(offsets.diff(), (z > limit).sum(1))
    assert offsets[0] == 0 and offsets[-1] == len(values)


def test_the_floor_may_differ_between_latents():
    x, (w_enc, b_enc, _, _) = rows(11), parameters()
    floor = torch.linspace(-3, 3, WIDTH, dtype=torch.float64)
    z = preactivations_above(x, w_enc, b_enc, floor)
    expected = dense(x, w_enc, b_enc, None)
    torch.testing.assert_close(spread(z, z.z), torch.where(expected > floor, expected, 0))


@pytest.mark.parametrize("way", ["sparse", "dense"])
@pytest.mark.parametrize("floor", ["none", "some", "half", "all"])
def test_both_ways_give_the_same_numbers_and_gradients(monkeypatch, way, floor):
    monkeypatch.setattr(preactivations, "DENSE_SHARE", {"sparse": 2.0, "dense": -1.0}[way])
    x, leaves = rows(9).requires_grad_(), parameters()
    w_enc, b_enc, b_dec, w_dec = leaves
    limit = torch.tensor(FLOORS[floor], dtype=torch.float64)
    scale = torch.linspace(0.5, 2, WIDTH, dtype=torch.float64).requires_grad_()
    z = preactivations.preactivations(x, w_enc, b_enc, limit, b_dec)
    assert isinstance(z, AtPairs if way == "sparse" else AtAll)
    reference = dense(x, w_enc, b_enc, b_dec)
    mask = reference > limit
    values = torch.where(z.z > limit, z.z * z.at(scale), 0)
    expected = torch.where(mask, reference * scale, 0)
    torch.testing.assert_close(spread(z, values), expected)
    torch.testing.assert_close(z.mean_sum(values), expected.sum(1).mean())
    torch.testing.assert_close(
        z.l0(values), (expected > 0).sum(1).double().mean(), check_dtype=False
    )
    assert torch.equal(z.fired(values.relu()), (expected > 0).any(0))
    mine, theirs = z.decode(values, w_dec, b_dec), expected @ w_dec + b_dec
    torch.testing.assert_close(mine, theirs)
    inputs = [x, *leaves, scale]
    pairs = [
        torch.autograd.grad(out.pow(2).sum(), inputs, materialize_grads=True)
        for out in (mine, theirs)
    ]
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b)


def test_gradcheck():
    x, leaves = rows(4).requires_grad_(), parameters()

    def through(x, w_enc, b_enc, b_dec, w_dec):
        z = preactivations_above(x, w_enc, b_enc, torch.zeros((), dtype=torch.float64), b_dec)
        return z.z, z.decode(z.z.square(), w_dec, b_dec)

    assert torch.autograd.gradcheck(through, [x, *leaves])


def test_the_share_of_active_latents_decides():
    x, (w_enc, b_enc, _, _) = rows(100), parameters()
    z = dense(x, w_enc, b_enc, None).detach()
    head = z[: selection.PROBE_ROWS]
    for quantile, kind in ((0.95, AtPairs), (0.5, AtAll)):
        floor = head.flatten().quantile(quantile)
        assert isinstance(preactivations.preactivations(x, w_enc, b_enc, floor), kind)


def test_the_share_is_that_of_the_shifted_rows():
    x, (w_enc, b_enc, _, _) = rows(20), parameters()
    shift = 1e3 * torch.ones(D, dtype=torch.float64)
    with torch.no_grad():
        w_enc.copy_(w_enc.abs())
    floor = torch.zeros((), dtype=torch.float64)
    assert isinstance(preactivations.preactivations(x, w_enc, b_enc, floor, shift), AtPairs)
    assert isinstance(preactivations.preactivations(x, w_enc, b_enc, floor, -shift), AtAll)


def test_no_rows_are_pairs():
    w_enc, b_enc, b_dec, w_dec = parameters()
    z = preactivations.preactivations(rows(0), w_enc, b_enc, torch.zeros(()).double(), b_dec)
    assert isinstance(z, AtPairs)
    assert z.mean_sum(z.z) == 0 and z.l0(z.z) == 0 and not z.fired(z.z).any()
    z.decode(z.z, w_dec, b_dec).sum().backward()
    assert all(not leaf.grad.any() for leaf in (w_enc, b_enc, b_dec, w_dec))


def test_given_pairs_enter_the_graph():
    x, (w_enc, b_enc, b_dec, _) = rows(3), parameters()
    indices, offsets = torch.tensor([2, 5, 5, 0]), torch.tensor([0, 2, 2, 4])
    owner = torch.tensor([0, 0, 2, 2])
    reference = dense(x, w_enc, b_enc, b_dec)[owner, indices]
    z = at_pairs(x, w_enc, b_enc, b_dec, reference.detach(), indices, offsets)
    assert z.code(z.z).dense().shape == (3, WIDTH)
    grads = [
        torch.autograd.grad(values.pow(3).sum(), [w_enc, b_enc, b_dec])
        for values in (z.z, reference)
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_pairs_are_sorted_once(monkeypatch):
    calls = []

    def sort(*args):
        calls.append(args)
        return kernels.sort_pairs(*args)

    monkeypatch.setattr(autograd, "sort_pairs", sort)
    x, (w_enc, b_enc, b_dec, w_dec) = rows(9), parameters()
    z = preactivations_above(x, w_enc, b_enc, torch.zeros(()).double(), b_dec)
    (z.decode(z.z, w_dec, b_dec) + z.decode(z.z.square(), w_dec, b_dec)).sum().backward()
    assert len(calls) == 1
