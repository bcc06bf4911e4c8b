"""ReLU against a dense reference written from the paper's equations."""

import pytest
import torch
from torch.func import functional_call

from helpers import architectures
from helpers.architectures import both_ways, draw_weights, step
from saeworks import UserError, build_sae
from saeworks.dictionary import selection
from saeworks.dictionary.losses import annealed_lp, l1

D, WIDTH = 10, 37


def build(dtype=torch.float64, width=WIDTH, bias=0.0, **options):
    torch.manual_seed(0)
    sae = build_sae("relu", d=D, width=width, **options)
    draw_weights(sae)
    with torch.no_grad():
        sae.b_enc += bias
    return sae.to(dtype)


def rows(n, seed=0, dtype=torch.float64):
    return architectures.rows(n, D, seed, dtype)


def dense_code(sae, x):
    shifted = x - sae.b_dec if sae.config.subtract_b_dec else x
    return (shifted @ sae.w_enc.T + sae.b_enc).clamp(min=0)


def dense_losses(sae, x, coefficient, p=1.0):
    """‖e‖²/D and λ Σ_m f_m‖w_dec,m‖/√D; for p < 1 λ s Σ_m (f_m‖w_dec,m‖ + 0.01)^p/√D over active
    latents, with s such that the value is that of p = 1."""
    f = dense_code(sae, x)
    x_hat = f @ sae.w_dec + sae.b_dec
    shares = f * sae.w_dec.square().sum(1).sqrt()
    penalty = shares.sum() / len(x) / D**0.5
    if p != 1:
        annealed = ((shares[f > 0] + 0.01) ** p).sum() / len(x) / D**0.5
        penalty = annealed * (penalty / annealed).detach()
    return {
        "reconstruction": (x - x_hat).square().sum(1).mean() / D,
        "sparsity": coefficient * penalty,
    }


def check_losses_and_gradients(sae, x, ours, plain):
    assert ours.keys() == plain.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], plain[name])
        mine, theirs = (
            torch.autograd.grad(
                terms[name], [x, *sae.parameters()], retain_graph=True, materialize_grads=True
            )
            for terms in (ours, plain)
        )
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b)


@both_ways
@pytest.mark.parametrize("subtract_b_dec", [False, True])
@pytest.mark.parametrize("p_end", [1.0, 0.2])
@pytest.mark.parametrize("bias", [0.0, -2.0, -100.0, 100.0])  # from half to none and all active
def test_losses_and_gradients(way, bias, p_end, subtract_b_dec):
    options = {"p_end": p_end, "subtract_b_dec": subtract_b_dec, "sparsity_warmup": 0.2}
    sae, x = build(bias=bias, l1=0.7, **options), rows(31).requires_grad_()
    p = 1 + (p_end - 1) * (0.6 - 0.2) / (1 - 0.2)
    plain = dense_losses(sae, x, 0.7, p if bias > -100 else 1.0)  # 0/0 where nothing is active
    check_losses_and_gradients(sae, x, step(sae, x, 0.6).loss_terms, plain)
    torch.testing.assert_close(sae.encode(x), dense_code(sae, x))
    torch.testing.assert_close(sae(x), dense_code(sae, x) @ sae.w_dec + sae.b_dec)


@both_ways
def test_tiles_of_one_row(way, monkeypatch):
    monkeypatch.setitem(selection._TILE_BYTES, "cpu", 1)
    sae, x = build(l1=0.7), rows(13).requires_grad_()
    check_losses_and_gradients(sae, x, step(sae, x).loss_terms, dense_losses(sae, x, 0.7))


@both_ways
def test_gradcheck(way):
    sae, x = build(width=7), rows(4)
    names = [name for name, _ in sae.named_parameters()]

    class Losses(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.sae = sae

        def forward(self, x):
            return tuple(step(self.sae, x).loss_terms.values())

    def through(x, *leaves):
        named = {f"sae.{name}": leaf for name, leaf in zip(names, leaves, strict=True)}
        return functional_call(Losses(), named, (x,))

    leaves = [p.detach().clone().requires_grad_() for p in (x, *sae.parameters())]
    assert torch.autograd.gradcheck(through, leaves)


def test_the_penalty_cannot_be_lowered_by_rescaling():
    sae, x = build(), rows(9)
    before = step(sae, x).loss_terms
    with torch.no_grad():
        sae.w_enc /= 3
        sae.b_enc /= 3
        sae.w_dec *= 3
    after = step(sae, x).loss_terms
    for name in before:
        torch.testing.assert_close(before[name], after[name])
    assert sae.unit_norm == ()


@both_ways
def test_the_coefficient_warms_up(way):
    sae, x = build(l1=0.7, sparsity_warmup=0.2), rows(9)
    full = step(sae, x, 0.2).loss_terms["sparsity"]
    for progress, share in ((0.0, 0.0), (0.05, 0.25), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)):
        out = step(sae, x, progress)
        torch.testing.assert_close(out.loss_terms["sparsity"], full * share)
        torch.testing.assert_close(out.stats["sparsity"].item(), 0.7 * share)
    torch.testing.assert_close(
        step(build(l1=0.7, sparsity_warmup=0.0), x, 0.0).loss_terms["sparsity"], full
    )


def test_p_falls_after_the_warm_up():
    sae = build(p_end=0.2, sparsity_warmup=0.1)
    for progress, p in ((0.0, 1.0), (0.1, 1.0), (0.55, 0.6), (1.0, 0.2)):
        assert sae._p(progress) == pytest.approx(p)
    assert build(p_end=1.0)._p(0.7) == 1.0
    assert build(p_end=0.2, sparsity_warmup=1.0)._p(1.0) == 1.0


@pytest.mark.parametrize("p", [1.0, 0.7, 0.2])
def test_an_annealed_penalty_has_the_strength_of_l1(p):
    norms = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e-3
    a, b = (norms.clone().requires_grad_() for _ in range(2))
    annealed, plain = annealed_lp(a, 10, D, p), l1(b, 10, D)
    torch.testing.assert_close(annealed, plain)
    torch.testing.assert_close(plain.item(), norms.sum().item() / 10 / D**0.5)
    annealed.backward()
    plain.backward()
    assert a.grad is not None and b.grad is not None
    if p == 1:
        torch.testing.assert_close(a.grad, b.grad, rtol=0.03, atol=0)
        assert torch.equal(a.grad, a.grad[0].expand_as(a.grad))
    else:  # small activations are pushed down more than by L1, large ones less
        order = norms.argsort()
        assert (a.grad[order].diff() < 0).all()
        assert a.grad[order[0]] > b.grad[0] > a.grad[order[-1]]


def test_an_annealed_penalty_on_nothing_is_zero():
    nothing = torch.zeros(0, requires_grad=True)
    annealed_lp(nothing, 4, D, 0.5).backward()
    assert annealed_lp(nothing, 4, D, 0.5) == 0
    tiny = torch.full((3,), 1e-30, requires_grad=True)
    annealed_lp(tiny, 4, D, 0.1).backward()
    assert tiny.grad is not None and tiny.grad.isfinite().all()


def test_initialisation():
    sae, x = build(torch.float32), rows(200, dtype=torch.float32) + 3
    sae.coefficient.fill_(9.0)
    sae.initialise(x, torch.Generator().manual_seed(0))
    assert torch.equal(sae.w_enc, sae.w_dec)
    assert sae.w_enc.data_ptr() != sae.w_dec.data_ptr()
    torch.testing.assert_close(sae.w_dec.norm(dim=1), torch.full((WIDTH,), 0.1))
    assert not sae.b_enc.any() and not sae.b_dec.any()
    assert sae.coefficient == torch.tensor(sae.config.l1)
    assert sae.lr_scales == {"b_enc": D**0.5}


def test_a_fresh_sae_has_an_encoder_and_a_decoder_of_its_own():
    sae = build_sae("relu", d=D, width=WIDTH)
    assert sae.w_enc.data_ptr() != sae.w_dec.data_ptr()


def test_the_controller_moves_the_coefficient_and_nothing_else_does():
    x = rows(50)
    free, steered = build(l1=0.5), build(l1=0.5, target_l0=2.0)
    for sae in (free, steered):
        sae.after_step(step(sae, x).state)
    assert free.coefficient == 0.5
    assert steered.coefficient > 0.5  # about half of the latents are active
    steered.after_step({**step(steered, x).state, "l0": torch.tensor(0.1)})
    assert steered.coefficient == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, ["width = 0"]),
        ({"l1": -0.1}, ["l1 = -0.1"]),
        ({"l1": float("nan")}, ["l1 = nan"]),
        ({"l1": float("inf")}, ["l1 = inf"]),
        ({"target_l0": 8}, ["target_l0 = 8", "width = 8"]),
        ({"target_l0": 0}, ["target_l0 = 0"]),
        ({"target_l0": -3.0}, ["target_l0 = -3"]),
        ({"target_l0": float("nan")}, ["target_l0 = nan"]),
        ({"target_l0": 2, "l1": 0}, ["l1 = 0", "target_l0"]),
        ({"sparsity_warmup": 1.5}, ["sparsity_warmup = 1.5"]),
        ({"sparsity_warmup": float("nan")}, ["sparsity_warmup = nan"]),
        ({"p_end": 0}, ["p_end = 0"]),
        ({"p_end": 1.1}, ["p_end = 1.1"]),
        ({"p_end": float("nan")}, ["p_end = nan"]),
        ({"k": 3}, ["'k'", "relu"]),
        ({"l0_coefficient": 1.0}, ["l0_coefficient", "relu"]),
        ({"l1": "much"}, ["'l1'", "much"]),
    ],
)
def test_impossible_options_are_refused_in_one_line(options, words):
    with pytest.raises(UserError) as error:
        build_sae("relu", d=4, **{"width": 8, **options})
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
