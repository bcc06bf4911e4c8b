"""AuxK on its own, against the dense equation."""

import pytest
import torch

from saeworks.dictionary import auxk as module
from saeworks.dictionary.auxk import auxk_of_dead
from saeworks.dictionary.losses import auxk

D, WIDTH, ROWS = 6, 17, 23


def inputs():
    generator = torch.Generator().manual_seed(0)
    shapes = ((ROWS, D), (ROWS, D), (WIDTH, D), (WIDTH,), (WIDTH, D))
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def dense(x, error, w_enc, b_enc, w_dec, dead, k):
    f = (x.detach() @ w_enc[dead].T + b_enc[dead]).relu()
    kept = torch.zeros_like(f).scatter(1, f.topk(k, dim=1).indices, 1)
    return auxk(error, (f * kept) @ w_dec[dead])


@pytest.mark.parametrize("tile", [1, 5, 1000])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 3), (8, 3), (WIDTH, 5)])
def test_value_and_gradients(monkeypatch, n, k, tile):
    monkeypatch.setattr(module, "_TILE_BYTES", tile * n * 8)
    arguments = inputs()
    dead = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(1))[:n].sort().values
    ours, plain = auxk_of_dead(*arguments, dead, k), dense(*arguments, dead, k)
    torch.testing.assert_close(ours, plain)
    weights = arguments[2:]
    mine = torch.autograd.grad(3 * ours, weights)
    expected = torch.autograd.grad(3 * plain, weights)
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b)
        alive = torch.ones(WIDTH, dtype=torch.bool)
        alive[dead] = False
        assert not a[alive].any()


def test_input_and_error_are_constants():
    arguments = inputs()
    loss = auxk_of_dead(*arguments, torch.arange(4), 2)
    grads = torch.autograd.grad(loss, arguments[:2], allow_unused=True)
    assert grads == (None, None)


def test_an_error_that_does_not_vary_asks_for_nothing():
    x, error, *weights = inputs()
    loss = auxk_of_dead(x, torch.ones_like(error), *weights, torch.arange(4), 2)
    assert loss == 0
    assert not any(grad.any() for grad in torch.autograd.grad(loss, weights))
