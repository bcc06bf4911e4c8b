"""The terms of the loss against their equations."""

import torch

from saeworks.dictionary import losses


def test_reconstruction_is_squared_error_per_dimension():
    x, x_hat = torch.randn(5, 4), torch.randn(5, 4)
    expected = (x - x_hat).pow(2).sum(1).mean() / 4
    torch.testing.assert_close(losses.reconstruction(x, x_hat), expected)


def test_auxk_is_what_no_positive_multiple_of_the_reconstruction_explains():
    e, e_hat = torch.randn(6, 3).double(), torch.randn(6, 3).double()
    e_hat[0] = -e[0]  # no positive multiple helps: all of it is left
    cosine = torch.nn.functional.cosine_similarity(e, e_hat).clamp_min(0)
    left = (e.pow(2).sum(1) * (1 - cosine.pow(2))).sum()
    expected = left / (e - e.mean(0)).pow(2).sum()
    torch.testing.assert_close(losses.auxk(e, e_hat), expected)
    torch.testing.assert_close(losses.auxk(e, 7 * e), torch.zeros(()).double())


def test_auxk_never_asks_the_dead_latents_for_less():
    """Its gradient is at right angles to ê: the size of ê does not matter."""
    e, e_hat = torch.randn(6, 3), torch.randn(6, 3, requires_grad=True)
    losses.auxk(e, e_hat).backward()
    along = (e_hat.grad * e_hat).sum(1)
    torch.testing.assert_close(along, torch.zeros(6), atol=1e-6, rtol=0)


def test_auxk_gradient_is_that_of_the_minimum():
    e = torch.randn(6, 3).double()
    e_hat = torch.randn(6, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda one: losses.auxk(e, one), e_hat)


def test_auxk_without_a_reconstruction_is_the_whole_error():
    e, e_hat = torch.randn(6, 3), torch.zeros(6, 3, requires_grad=True)
    loss = losses.auxk(e, e_hat)
    torch.testing.assert_close(loss, e.pow(2).sum() / (e - e.mean(0)).pow(2).sum())
    loss.backward()
    assert not e_hat.grad.any()


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
