"""The terms of the loss against their equations."""

import torch

from saeforge.dictionary import losses


def test_reconstruction_is_squared_error_per_dimension():
    x, x_hat = torch.randn(5, 4), torch.randn(5, 4)
    expected = (x - x_hat).pow(2).sum(1).mean() / 4
    torch.testing.assert_close(losses.reconstruction(x, x_hat), expected)


def test_auxk_is_the_unexplained_share_of_the_error():
    e, e_hat = torch.randn(6, 3), torch.randn(6, 3)
    expected = (e - e_hat).pow(2).sum() / (e - e.mean(0)).pow(2).sum()
    torch.testing.assert_close(losses.auxk(e, e_hat), expected)
    torch.testing.assert_close(losses.auxk(e, e), torch.zeros(()))


def test_auxk_sends_no_gradient_to_the_error():
    e = torch.randn(6, 3, requires_grad=True)
    e_hat = torch.randn(6, 3, requires_grad=True)
    losses.auxk(e, e_hat).backward()
    assert e.grad is None
    assert e_hat.grad is not None


def test_auxk_of_an_error_that_does_not_vary_is_zero():
    for e in (torch.zeros(4, 3), torch.ones(1, 3), torch.zeros(0, 3)):
        assert losses.auxk(e, torch.randn_like(e)) == 0


def test_auxk_latents():
    assert losses.auxk_latents(8, 0) == (0, 0.0)
    assert losses.auxk_latents(8, 1) == (1, 0.25)
    assert losses.auxk_latents(8, 4) == (4, 1.0)
    assert losses.auxk_latents(8, 100) == (4, 1.0)
    assert losses.auxk_latents(1, 3) == (1, 1.0)


def test_empty_batch_has_finite_losses():
    empty = torch.zeros(0, 3)
    assert losses.reconstruction(empty, empty) == 0
    assert losses.total_variation(empty) == 0


def test_total_variation():
    x = torch.randn(50, 3) + 100
    expected = (x.double() - x.double().mean(0)).pow(2).sum().float()
    torch.testing.assert_close(losses.total_variation(x), expected)
