"""Gated SAEs against a dense reference written from the paper's equations."""

import pytest
import torch
from torch.func import functional_call

from helpers import architectures
from helpers.architectures import NONE_DEAD, both_ways, draw_weights, step
from saeworks import UserError, build_sae
from saeworks.dictionary import selection
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.initial import geometric_median

D, WIDTH = 10, 37


def build(dtype=torch.float64, width=WIDTH, bias=0.0, **options):
    torch.manual_seed(0)
    sae = build_sae("gated", d=D, width=width, **options)
    draw_weights(sae)
    with torch.no_grad():
        sae.b_gate += bias
    return sae.to(dtype)


def rows(n, seed=0, dtype=torch.float64):
    return architectures.rows(n, D, seed, dtype)


def dense_gate(sae, x):
    """π_gate = W_gate(x − b_dec) + b_gate."""
    return (x - sae.b_dec) @ sae.w_enc.T + sae.b_gate


def dense_code(sae, x):
    """1[π_gate > 0] ⊙ ReLU(W_mag(x − b_dec) + b_mag) with W_mag = exp(r_mag) W_gate by rows."""
    w_mag = sae.r_mag.exp()[:, None] * sae.w_enc
    magnitude = (x - sae.b_dec) @ w_mag.T + sae.b_mag
    return (dense_gate(sae, x) > 0) * magnitude.clamp(min=0)


def dense_losses(sae, x, coefficient):
    gate = dense_gate(sae, x).clamp(min=0)
    x_hat = dense_code(sae, x) @ sae.w_dec + sae.b_dec
    w_copy, b_copy = sae.w_dec.detach().clone(), sae.b_dec.detach().clone()
    return {
        "reconstruction": (x - x_hat).square().sum(1).mean() / D,
        "sparsity": coefficient * gate.sum(1).mean() / D**0.5,
        "auxiliary": (x - (gate @ w_copy + b_copy)).square().sum(1).mean() / D,
    }


def check_losses_and_gradients(sae, x, ours, plain):
    assert ours.keys() == plain.keys()
    leaves = {"x": x, **dict(sae.named_parameters())}
    for name in ours:
        torch.testing.assert_close(ours[name], plain[name])
        mine, theirs = (
            torch.autograd.grad(
                terms[name], list(leaves.values()), retain_graph=True, materialize_grads=True
            )
            for terms in (ours, plain)
        )
        for leaf, a, b in zip(leaves, mine, theirs, strict=True):
            torch.testing.assert_close(a, b, msg=f"{name} {leaf}")


def gradients(sae, term):
    names = [name for name, _ in sae.named_parameters()]
    grads = torch.autograd.grad(term, list(sae.parameters()), allow_unused=True, retain_graph=True)
    return dict(zip(names, grads, strict=True))


@both_ways
@pytest.mark.parametrize("bias", [0.0, -2.0, -100.0, 100.0])  # from half to no and every gate open
def test_losses_and_gradients(way, bias):
    sae, x = build(bias=bias, l1=0.7), rows(31).requires_grad_()
    check_losses_and_gradients(sae, x, step(sae, x).loss_terms, dense_losses(sae, x, 0.7))
    torch.testing.assert_close(sae.encode(x), dense_code(sae, x))
    torch.testing.assert_close(sae(x), dense_code(sae, x) @ sae.w_dec + sae.b_dec)


@both_ways
def test_tiles_of_one_row(way, monkeypatch):
    monkeypatch.setitem(selection._TILE_BYTES, "cpu", 1)
    sae, x = build(l1=0.7), rows(13).requires_grad_()
    check_losses_and_gradients(sae, x, step(sae, x).loss_terms, dense_losses(sae, x, 0.7))


@both_ways
def test_gradcheck(way):
    """Where the frozen copy is no variable: the terms but the auxiliary one in all parameters,
    that one in the encoder's."""
    sae, x = build(width=7), rows(4)

    class Losses(torch.nn.Module):
        def __init__(self, terms):
            super().__init__()
            self.sae, self.terms = sae, terms

        def forward(self, x):
            loss_terms = step(self.sae, x).loss_terms
            return tuple(loss_terms[term] for term in self.terms)

    every = [name for name, _ in sae.named_parameters()]
    for terms, names in (
        (("reconstruction", "sparsity"), every),
        (("auxiliary",), ["w_enc", "b_gate", "b_mag", "r_mag"]),
    ):

        def through(x, *leaves, terms=terms, names=names):
            named = {f"sae.{name}": leaf for name, leaf in zip(names, leaves, strict=True)}
            return functional_call(Losses(terms), named, (x,))

        inputs = [x, *(dict(sae.named_parameters())[name] for name in names)]
        leaves = [p.detach().clone().requires_grad_() for p in inputs]
        assert torch.autograd.gradcheck(through, leaves)


@both_ways
def test_the_auxiliary_reconstruction_leaves_the_decoder_alone(way):
    sae, x = build(), rows(31)
    grads = gradients(sae, step(sae, x).loss_terms["auxiliary"])
    assert grads["w_dec"] is None  # exactly zero: there is no path
    assert grads["b_mag"] is None or not grads["b_mag"].any()
    assert grads["r_mag"] is None or not grads["r_mag"].any()
    assert grads["w_enc"].any() and grads["b_gate"].any()
    # b_dec is a constant where it is added, not where it is subtracted from the input
    gate = dense_gate(sae, x).clamp(min=0)
    error = gate @ sae.w_dec + sae.b_dec - x
    expected = -((2 / x.numel() * error @ sae.w_dec.T * (gate > 0)) @ sae.w_enc).sum(0)
    torch.testing.assert_close(grads["b_dec"], expected.detach())


@both_ways
def test_the_gate_learns_from_the_penalty_and_the_auxiliary_term_alone(way):
    sae, x = build(), rows(31)
    terms = step(sae, x).loss_terms
    by_term = {name: gradients(sae, term) for name, term in terms.items()}
    scale = by_term["reconstruction"]["b_mag"].abs().max()
    assert by_term["reconstruction"]["b_gate"].abs().max() < 1e-12 * scale
    for name in ("b_mag", "r_mag", "w_dec"):
        assert by_term["reconstruction"][name].any()
        assert by_term["sparsity"][name] is None or not by_term["sparsity"][name].any()


def test_an_open_gate_with_a_negative_magnitude_is_a_zero():
    sae = build_sae("gated", d=1, width=2)
    with torch.no_grad():
        sae.w_enc.copy_(torch.tensor([[1.0], [1.0]]))
        sae.b_gate.copy_(torch.tensor([0.5, -2.0]))
        sae.b_mag.copy_(torch.tensor([-1.5, 1.0]))
        sae.r_mag.copy_(torch.tensor([2.0, 3.0]).log())
        sae.b_dec.fill_(1.0)
    x = torch.tensor([[1.25], [2.0], [4.0], [0.0]])
    # gates 0.75, 1.5, 3.5, −0.5 and −1.75, −1, 1, −3; magnitudes −1, 0.5, 4.5, · and ·, ·, 10, ·
    torch.testing.assert_close(
        sae.encode(x), torch.tensor([[0.0, 0.0], [0.5, 0.0], [4.5, 10.0], [0.0, 0.0]])
    )
    code = sae.encode_sparse(x)
    assert code.offsets.tolist() == [0, 1, 2, 4, 4]
    out = sae.step(Batch(x, x), Context(NONE_DEAD, 1.0))
    assert out.stats["l0"] == 0.75
    only_first = sae.step(Batch(x[:1], x[:1]), Context(NONE_DEAD, 1.0))
    assert not only_first.fired.any()


@both_ways
def test_the_coefficient_warms_up(way):
    sae, x = build(l1=0.7, sparsity_warmup=0.2), rows(9)
    full = step(sae, x, 0.2).loss_terms
    for progress, share in ((0.0, 0.0), (0.05, 0.25), (0.1, 0.5), (0.9, 1.0)):
        out = step(sae, x, progress)
        torch.testing.assert_close(out.loss_terms["sparsity"], full["sparsity"] * share)
        torch.testing.assert_close(out.loss_terms["auxiliary"], full["auxiliary"])
        assert out.stats["sparsity"].item() == pytest.approx(0.7 * share)


def test_the_controller_moves_the_coefficient_and_nothing_else_does():
    x = rows(50)
    free, steered = build(l1=0.5), build(l1=0.5, target_l0=2.0)
    for sae in (free, steered):
        sae.after_step(step(sae, x).state)
    assert free.coefficient == 0.5
    assert steered.coefficient > 0.5  # about half of the gates are open


def test_initialisation():
    sae, x = build(torch.float32), rows(200, dtype=torch.float32) + 3
    sae.coefficient.fill_(9.0)
    sae.initialise(x, torch.Generator().manual_seed(0))
    assert torch.equal(sae.w_enc, sae.w_dec)
    assert sae.w_enc.data_ptr() != sae.w_dec.data_ptr()
    assert not any(p.any() for p in (sae.b_gate, sae.b_mag, sae.r_mag))
    torch.testing.assert_close(sae.b_dec.detach(), geometric_median(x))
    assert sae.coefficient == torch.tensor(sae.config.l1)
    assert sae.betas == (0.0, 0.999)
    assert sae.lr_scales == {"b_gate": D**0.5, "b_mag": D**0.5}
    assert sae.unit_norm == ("w_dec",)
    # gate and magnitude agree: the SAE starts as a ReLU one
    relu = ((x - sae.b_dec) @ sae.w_enc.T).clamp(min=0)
    torch.testing.assert_close(sae.encode(x), relu)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, ["width = 0"]),
        ({"l1": -0.1}, ["l1 = -0.1"]),
        ({"l1": float("nan")}, ["l1 = nan"]),
        ({"target_l0": 8}, ["target_l0 = 8", "width = 8"]),
        ({"target_l0": 0}, ["target_l0 = 0"]),
        ({"target_l0": -3.0}, ["target_l0 = -3"]),
        ({"target_l0": float("nan")}, ["target_l0 = nan"]),
        ({"target_l0": 2, "l1": 0}, ["l1 = 0", "target_l0"]),
        ({"sparsity_warmup": 1.5}, ["sparsity_warmup = 1.5"]),
        ({"k": 3}, ["'k'", "gated"]),
        ({"p_end": 0.5}, ["p_end", "gated"]),
    ],
)
def test_impossible_options_are_refused_in_one_line(options, words):
    with pytest.raises(UserError) as error:
        build_sae("gated", d=4, **{"width": 8, **options})
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
