"""The terms of the loss against their equations."""

import torch

from saeworks.dictionary import losses


def test_reconstruction_is_squared_error_per_dimension():
    x, x_hat = torch.randn(5, 4), torch.randn(5, 4)
    expected = (x - x_hat).pow(2).sum(1).mean() / 4
    torch.testing.assert_close(losses.reconstruction(x, x_hat), expected)


def test_empty_batch_has_finite_losses():
    empty = torch.zeros(0, 3)
    assert losses.reconstruction(empty, empty) == 0
    assert losses.total_variation(empty) == 0


def test_total_variation():
    x = torch.randn(50, 3) + 100
    expected = (x.double() - x.double().mean(0)).pow(2).sum().float()
    torch.testing.assert_close(losses.total_variation(x), expected)
