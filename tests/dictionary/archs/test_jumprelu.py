"""JumpReLU and its straight-through gradients against closed forms from the paper."""

import pytest
import torch

from helpers import architectures
from helpers.architectures import NONE_DEAD, both_ways, draw_weights, step
from saeworks import UserError, build_sae
from saeworks.dictionary import selection
from saeworks.dictionary.base import Batch, Context

D, WIDTH = 9, 31
BANDWIDTH = 0.15
EPSILON = BANDWIDTH * D**0.5


def build(dtype=torch.float64, bias=0.0, **options):
    torch.manual_seed(0)
    sae = build_sae("jumprelu", d=D, width=WIDTH, **{"bandwidth": BANDWIDTH, **options})
    draw_weights(sae)
    with torch.no_grad():
        sae.threshold.abs_()
        sae.b_enc += bias
    return sae.to(dtype)


def rows(n, seed=0, dtype=torch.float64):
    return architectures.rows(n, D, seed, dtype)


@torch.no_grad()
def closed_form(sae, x, coefficient):
    """Losses and gradients of each, by hand: {term: (value, {parameter: gradient})}."""
    w_enc, w_dec, theta, epsilon = sae.w_enc, sae.w_dec, sae.threshold, EPSILON
    subtract = sae.config.subtract_b_dec
    shifted = x - sae.b_dec if subtract else x
    z = shifted @ w_enc.T + sae.b_enc
    on = (z > theta).double()
    near = ((z - theta).abs() / epsilon < 0.5).double()
    assert near.any() or on.mean() in (0, 1)
    f = z * on
    e = f @ w_dec + sae.b_dec - x
    grad_x_hat = 2 * e / (len(x) * D)
    grad_f = grad_x_hat @ w_dec.T
    grad_z = grad_f * on
    reconstruction = {
        "x": -grad_x_hat + grad_z @ w_enc,  # x is the target as well
        "w_enc": grad_z.T @ shifted,
        "b_enc": grad_z.sum(0),
        "threshold": (grad_f * near * -theta / epsilon).sum(0),
        "w_dec": f.T @ grad_x_hat,
        "b_dec": grad_x_hat.sum(0) - subtract * (grad_z @ w_enc).sum(0),
    }
    share = coefficient / D
    sparsity = {name: torch.zeros_like(gradient) for name, gradient in reconstruction.items()}
    sparsity["threshold"] = -share * near.mean(0) / epsilon
    return {
        "reconstruction": (e.square().sum(1).mean() / D, reconstruction),
        "sparsity": (share * on.sum(1).mean(), sparsity),
    }


def check(sae, x, terms, expected):
    leaves = {"x": x, **dict(sae.named_parameters())}
    assert terms.keys() == expected.keys()
    for name, (value, gradients) in expected.items():
        torch.testing.assert_close(terms[name], value)
        mine = torch.autograd.grad(
            terms[name], list(leaves.values()), retain_graph=True, materialize_grads=True
        )
        for leaf, gradient in zip(leaves, mine, strict=True):
            torch.testing.assert_close(gradient, gradients[leaf], msg=f"{name} {leaf}")


@both_ways
@pytest.mark.parametrize("subtract_b_dec", [False, True])
@pytest.mark.parametrize("bias", [0.0, -2.0, -100.0, 100.0])  # from half to none and all active
def test_losses_and_gradients(way, bias, subtract_b_dec):
    sae = build(bias=bias, l0_coefficient=3.0, subtract_b_dec=subtract_b_dec)
    x = rows(31).requires_grad_()
    check(sae, x, step(sae, x).loss_terms, closed_form(sae, x, 3.0))


@both_ways
def test_tiles_of_one_row(way, monkeypatch):
    monkeypatch.setitem(selection._TILE_BYTES, "cpu", 1)
    sae, x = build(l0_coefficient=3.0), rows(13).requires_grad_()
    check(sae, x, step(sae, x).loss_terms, closed_form(sae, x, 3.0))


@both_ways
def test_gradients_of_the_threshold_by_hand(way):
    """One dimension, ε = 0.2, λ = 3, one latent: θ = 0.5; tokens far below, just below, just above
    and far above it."""
    sae = build_sae("jumprelu", d=1, width=1, bandwidth=0.2, l0_coefficient=3.0).double()
    with torch.no_grad():
        for name, value in (("w_enc", 1), ("b_enc", 0), ("threshold", 0.5), ("w_dec", 2)):
            getattr(sae, name).fill_(value)
    x = torch.tensor([[0.1], [0.45], [0.55], [0.9]], dtype=torch.float64)
    out = sae.step(Batch(x, x), Context(NONE_DEAD, 1.0))
    # x̂ = 0, 0, 1.1, 1.8
    assert out.x_hat.flatten().tolist() == pytest.approx([0, 0, 1.1, 1.8])
    squares = 0.1**2 + 0.45**2 + 0.55**2 + 0.9**2
    assert out.loss_terms["reconstruction"].item() == pytest.approx(squares / 4)
    assert out.loss_terms["sparsity"].item() == pytest.approx(3 * 2 / 4)
    assert out.stats["l0"] == 0.5
    # ∂L/∂f = 2(x̂ − x)·2/4 = −0.45 and 0.55 at the two within ε/2; ∂f/∂θ = −0.5/0.2 = −2.5 each
    (grad,) = torch.autograd.grad(
        out.loss_terms["reconstruction"], [sae.threshold], retain_graph=True
    )
    assert grad.item() == pytest.approx(-2.5 * (-0.45 + 0.55))
    # ∂H/∂θ = −1/0.2 = −5 each
    (grad,) = torch.autograd.grad(out.loss_terms["sparsity"], [sae.threshold])
    assert grad.item() == pytest.approx(3 * 2 * -5 / 4)


def test_a_latent_on_its_threshold_is_off():
    sae = build_sae("jumprelu", d=1, width=1)
    with torch.no_grad():
        sae.w_enc.fill_(1)
        sae.threshold.fill_(0.5)
    assert sae.encode(torch.tensor([[0.5], [0.75]])).flatten().tolist() == [0, 0.75]


@both_ways
def test_code_and_reconstruction(way):
    sae, x = build(), rows(19)
    z = x @ sae.w_enc.T + sae.b_enc
    expected = torch.where(z > sae.threshold, z, 0)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            torch.testing.assert_close(sae.encode(x), expected)
            torch.testing.assert_close(sae(x), expected @ sae.w_dec + sae.b_dec)
    torch.testing.assert_close(step(sae, x).x_hat, sae(x))


def test_inference_keeps_active_pairs_alone():
    sae, x = build(), rows(19)
    with torch.no_grad():
        assert (sae.encode_sparse(x).values > 0).all()
    assert (sae.encode_sparse(x).values == 0).any()


@both_ways
def test_the_coefficient_warms_up(way):
    sae, x = build(l0_coefficient=3.0, sparsity_warmup=0.2), rows(9)
    full = step(sae, x, 0.2).loss_terms["sparsity"]
    for progress, share in ((0.0, 0.0), (0.05, 0.25), (0.1, 0.5), (0.9, 1.0)):
        out = step(sae, x, progress)
        torch.testing.assert_close(out.loss_terms["sparsity"], full * share)
        assert out.stats["sparsity"].item() == pytest.approx(3 * share)


@pytest.mark.parametrize("target_l0", [None, 4.0])
def test_thresholds_are_not_negative_after_a_step(target_l0):
    sae, x = build(target_l0=target_l0), rows(9)
    with torch.no_grad():
        sae.threshold[:5] = -1.0
    before = sae.threshold.detach().clone()
    sae.after_step(step(sae, x).state)
    assert torch.equal(sae.threshold, before.clamp(min=0))


def test_the_controller_moves_the_coefficient_and_nothing_else_does():
    x = rows(50)
    free, steered = build(l0_coefficient=0.5), build(l0_coefficient=0.5, target_l0=2.0)
    for sae in (free, steered):
        sae.after_step(step(sae, x).state)
    assert free.coefficient == 0.5
    assert steered.coefficient > 0.5  # about half of the latents are active


def test_initialisation():
    sae, x = build(torch.float32, threshold=0.02), rows(200, dtype=torch.float32) + 3
    sae.coefficient.fill_(9.0)
    sae.initialise(x, torch.Generator().manual_seed(0))
    assert torch.equal(sae.w_enc, sae.w_dec)
    assert sae.w_enc.data_ptr() != sae.w_dec.data_ptr()
    assert not sae.b_enc.any() and not sae.b_dec.any()
    torch.testing.assert_close(sae.threshold.detach(), torch.full((WIDTH,), 0.02 * D**0.5))
    assert sae.coefficient == 1.0
    assert sae.betas == (0.0, 0.999)
    assert sae.lr_scales == {"threshold": D**0.5}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, ["width = 0"]),
        ({"l0_coefficient": -0.1}, ["l0_coefficient = -0.1"]),
        ({"l0_coefficient": float("nan")}, ["l0_coefficient = nan"]),
        ({"target_l0": 8}, ["target_l0 = 8", "width = 8"]),
        ({"target_l0": 0}, ["target_l0 = 0"]),
        ({"target_l0": -3.0}, ["target_l0 = -3"]),
        ({"target_l0": float("nan")}, ["target_l0 = nan"]),
        ({"target_l0": 2, "l0_coefficient": 0}, ["l0_coefficient = 0", "target_l0"]),
        ({"sparsity_warmup": -0.5}, ["sparsity_warmup = -0.5"]),
        ({"bandwidth": 0}, ["bandwidth = 0"]),
        ({"bandwidth": float("nan")}, ["bandwidth = nan"]),
        ({"threshold": -1.0}, ["threshold = -1"]),
        ({"k": 3}, ["'k'", "jumprelu"]),
        ({"l1": 1.0}, ["'l1'", "jumprelu"]),
    ],
)
def test_impossible_options_are_refused_in_one_line(options, words):
    with pytest.raises(UserError) as error:
        build_sae("jumprelu", d=4, **{"width": 8, **options})
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
