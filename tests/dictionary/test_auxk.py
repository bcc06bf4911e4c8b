"""AuxK on its own, against the dense equation."""

import pytest
import torch
from torch import Tensor

from helpers.toys import auxk_by_angle
from saeworks.dictionary import auxk as module
from saeworks.dictionary.auxk import auxk_latents, auxk_of_dead

D, WIDTH, ROWS = 6, 17, 23


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((ROWS, D), (ROWS, D), (WIDTH, D), (WIDTH,), (WIDTH, D))
    x, error, w_enc, b_enc, w_dec = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    )
    return x, error, w_enc, b_enc, w_dec


def dense(x, error, w_enc, b_enc, w_dec, dead, k):
    f = (x.detach() @ w_enc[dead].T + b_enc[dead]).relu()
    kept = torch.zeros_like(f).scatter(1, f.topk(k, dim=1).indices, 1)
    error = error.detach()
    variation = (error - error.mean(0)).square().sum()
    return auxk_by_angle(error, (f * kept) @ w_dec[dead]) / variation


@pytest.mark.parametrize("tile", [1, 5, 1000, "sparse"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 3), (8, 3), (WIDTH, 5)])
def test_value_and_gradients(monkeypatch, n, k, tile):
    if tile == "sparse":
        monkeypatch.setitem(module._DENSE_UP_TO, "cpu", 0)
    else:
        monkeypatch.setitem(module._TILE_BYTES, "cpu", tile * n * 8)
    arguments = inputs()
    dead = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(1))[:n].sort().values
    ours, plain = auxk_of_dead(*arguments, dead, k), dense(*arguments, dead, k)
    torch.testing.assert_close(ours, plain)
    weights = arguments[2:]
    mine = torch.autograd.grad(3 * ours, weights)
    expected = torch.autograd.grad(3 * plain, weights)
    for a, b in zip((grad.to_dense() for grad in mine), expected, strict=True):
        torch.testing.assert_close(a, b)
        alive = torch.ones(WIDTH, dtype=torch.bool)
        alive[dead] = False
        assert not a[alive].any()


def test_input_and_error_are_constants():
    arguments = inputs()
    loss = auxk_of_dead(*arguments, torch.arange(4), 2)
    grads = torch.autograd.grad(loss, arguments[:2], allow_unused=True)
    assert list(grads) == [None, None]


def test_it_never_asks_the_dead_latents_for_less():
    """Its gradient is at right angles to what they reconstruct, whose size does not matter."""
    x, error, w_enc, b_enc, w_dec = inputs()
    dead = torch.arange(4)
    loss = auxk_of_dead(x, error, w_enc, b_enc, w_dec, dead, 2)
    torch.testing.assert_close(auxk_of_dead(x, error, w_enc, b_enc, 7 * w_dec, dead, 2), loss)
    (grad,) = torch.autograd.grad(loss, w_dec)
    assert (grad.to_dense() * w_dec).sum().abs() < 1e-12 < grad.to_dense().abs().max()


def test_without_a_reconstruction_the_whole_error_is_left():
    x, error, w_enc, b_enc, w_dec = inputs()
    weights = (w_enc, b_enc - 100, w_dec)
    loss = auxk_of_dead(x, error, *weights, torch.arange(4), 2)
    torch.testing.assert_close(loss, error.square().sum() / (error - error.mean(0)).square().sum())
    assert not any(
        grad.to_dense().any() for grad in torch.autograd.grad(loss, [w_enc, b_enc, w_dec])
    )


@pytest.mark.parametrize("rows", [0, 1, ROWS])
def test_an_error_that_does_not_vary_asks_for_nothing(rows):
    x, error, w_enc, b_enc, w_dec = inputs()
    loss = auxk_of_dead(
        x[:rows], torch.ones_like(error[:rows]), w_enc, b_enc, w_dec, torch.arange(4), 2
    )
    assert loss == 0
    assert not any(
        grad.to_dense().any() for grad in torch.autograd.grad(loss, [w_enc, b_enc, w_dec])
    )


def test_how_many_latents_and_how_strongly():
    assert auxk_latents(8, 0) == (0, 0.0)
    assert auxk_latents(8, 1) == (1, 0.25)
    assert auxk_latents(8, 4) == (4, 1.0)
    assert auxk_latents(8, 100) == (4, 1.0)
    assert auxk_latents(1, 3) == (1, 1.0)
