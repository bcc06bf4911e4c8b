"""TopK against a dense reference written from the paper's equations."""

import pytest
import torch

from helpers import architectures
from helpers.architectures import draw_weights
from helpers.toys import auxk_by_angle
from saeworks import UserError, build_sae
from saeworks.dictionary import autograd, auxk, selection
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.initial import geometric_median

D, WIDTH, K = 10, 37, 4


def build(dtype=torch.float64, d=D, width=WIDTH, k=K, **options):
    torch.manual_seed(0)
    sae = build_sae("topk", d=d, width=width, k=k, **options)
    draw_weights(sae)
    return sae.to(dtype)


def rows(n, seed=0, dtype=torch.float64, d=D):
    return architectures.rows(n, d, seed, dtype)


def dense_code(sae, x, latents=None, k=None):
    """TopK_k(ReLU(W(x − b_dec) + b)), with a mask over all latents."""
    pre = (x - sae.b_dec) @ sae.w_enc.T + sae.b_enc
    if latents is not None:
        pre = pre.masked_fill(~latents, -torch.inf)
    mask = torch.zeros_like(pre).scatter(1, pre.topk(k or sae.config.k).indices, 1)
    return torch.where(mask.bool(), pre.relu(), 0)


def dense_losses(sae, x, dead):
    x_hat = dense_code(sae, x) @ sae.w_dec + sae.b_dec
    e = (x - x_hat).detach()
    half = sae.d // 2
    k_aux = min(half, int(dead.sum()))
    # b_dec is a constant to AuxK, and ê is decoded without it
    pre = (x - sae.b_dec.detach()) @ sae.w_enc.T + sae.b_enc
    kept = pre.masked_fill(~dead, -torch.inf).topk(k_aux).indices
    f = torch.zeros_like(pre).scatter(1, kept, pre.gather(1, kept).relu())
    auxk = auxk_by_angle(e, f @ sae.w_dec) / (e - e.mean(0)).square().sum()
    return {
        "reconstruction": (x - x_hat).square().sum(1).mean() / sae.d,
        "auxk": min(1, k_aux / half) / 32 * auxk,
    }


def dead_mask(count, width=WIDTH):
    mask = torch.zeros(width, dtype=torch.bool)
    mask[torch.randperm(width, generator=torch.Generator().manual_seed(3))[:count]] = True
    return mask


def context(mask):
    return Context(mask.nonzero().squeeze(1), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "width", "k"), [(1, 1, 1), (D, WIDTH, K), (7, 13, 13), (5, 200, 1)])
def test_code_and_reconstruction(d, width, k, dtype):
    sae, x = build(dtype, d, width, k), rows(19, dtype=dtype, d=d)
    expected = dense_code(sae, x)
    torch.testing.assert_close(sae.encode(x), expected)
    torch.testing.assert_close(sae(x), expected @ sae.w_dec + sae.b_dec)


@pytest.mark.parametrize("dead", [1, 3, 5, 12, WIDTH])  # around D/2 = 5
@pytest.mark.parametrize("tile", [1, 3, 1000])
def test_losses_and_gradients_with_dead_latents(monkeypatch, dead, tile):
    monkeypatch.setitem(selection._TILE_BYTES, "cpu", tile * WIDTH * 8)
    monkeypatch.setitem(auxk._TILE_BYTES, "cpu", tile * dead * 8)
    sae, x, mask = build(), rows(31), dead_mask(dead)
    ours = sae.step(Batch(x, x), context(mask)).loss_terms
    plain = dense_losses(sae, x, mask)
    assert ours.keys() == plain.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], plain[name])
        mine = torch.autograd.grad(
            ours[name], list(sae.parameters()), retain_graph=True, materialize_grads=True
        )
        theirs = torch.autograd.grad(
            plain[name], list(sae.parameters()), retain_graph=True, materialize_grads=True
        )
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a.to_dense(), b)


def test_picks_below_zero_get_no_gradient():
    sae, x = build(width=13, k=13), rows(9)
    assert (sae.encode(x) == 0).any()
    outputs = (
        sae.step(Batch(x, x), context(dead_mask(0, 13))).x_hat,
        sae(x),
        dense_code(sae, x) @ sae.w_dec + sae.b_dec,
    )
    step, plain, dense = (
        torch.autograd.grad(x_hat.pow(3).sum(), list(sae.parameters())) for x_hat in outputs
    )
    for mine, ours, expected in zip(step, plain, dense, strict=True):
        torch.testing.assert_close(mine, expected)
        torch.testing.assert_close(ours, expected)


def test_auxk_revives_dead_latents_and_touches_nothing_else():
    sae, x, mask = build(), rows(300), dead_mask(12)
    auxk = sae.step(Batch(x, x), context(mask)).loss_terms["auxk"]
    names = [name for name, _ in sae.named_parameters()]
    each = torch.autograd.grad(auxk, list(sae.parameters()), materialize_grads=True)
    grads = dict(zip(names, (grad.to_dense() for grad in each), strict=True))
    assert grads["b_dec"].abs().max() == 0
    for name in ("w_enc", "b_enc", "w_dec"):
        moved = grads[name].reshape(WIDTH, -1).abs().amax(1) > 0
        assert moved[mask].float().mean() > 0.5
        assert not moved[~mask].any()


@pytest.mark.parametrize("rows_are_given", [False, True])
def test_every_output_has_its_gradient(rows_are_given):
    sae, x = build(), rows(6)
    arguments = [i.detach().clone().requires_grad_() for i in (x, *sae.parameters())]

    def through(x, w_enc, b_enc, w_dec, b_dec):
        values, indices = autograd.encode_topk(x, w_enc, b_enc, b_dec, K)
        if not rows_are_given:
            return values, autograd.decode_sparse(values, indices, w_dec, b_dec)
        offsets = torch.arange(0, values.numel() + 1, K)
        return values, autograd.decode_sparse(
            values.reshape(-1), indices.reshape(-1), w_dec, b_dec, offsets
        )

    assert torch.autograd.gradcheck(through, arguments)


def test_no_dead_latents_no_auxk():
    sae, x = build(), rows(9)
    assert set(sae.step(Batch(x, x), context(dead_mask(0))).loss_terms) == {"reconstruction"}
    off = build(aux_coefficient=0.0)
    assert "auxk" not in off.step(Batch(x, x), context(dead_mask(3))).loss_terms


def test_auxk_of_a_perfect_reconstruction_is_zero():
    sae, x = build(), rows(9)
    with torch.no_grad():
        sae.w_enc.zero_()
        sae.b_enc.fill_(-1)
        x = sae.b_dec.expand(9, D).clone()
    terms = sae.step(Batch(x, x), context(dead_mask(3))).loss_terms
    assert terms["reconstruction"] == 0
    assert terms["auxk"] == 0


def test_zero_picks_have_not_fired():
    sae, x = build(), rows(9)
    with torch.no_grad():
        sae.b_enc.fill_(-100)
        sae.b_enc[7] = 100
    out = sae.step(Batch(x, x), context(dead_mask(0)))
    assert out.fired.nonzero().flatten().tolist() == [7]
    assert out.stats["l0"] == 1


@pytest.mark.parametrize("width", [37, 4096])
def test_ties_are_broken_the_same_way_every_time(width):
    sae, x = build(torch.float32, width=width), rows(8, dtype=torch.float32)
    with torch.no_grad():
        sae.w_enc[1:] = sae.w_enc[0].clone()
        sae.b_enc.fill_(50)
    first = sae.encode_sparse(x)
    again = sae.encode_sparse(x)
    assert torch.equal(first.indices, again.indices)
    assert all(len(set(row)) == K for row in first.indices.tolist())


def test_initialisation():
    sae, x = build(torch.float32), rows(200, dtype=torch.float32) + 3
    sae.initialise(x, torch.Generator().manual_seed(0))
    assert torch.equal(sae.w_enc, sae.w_dec)
    assert sae.w_enc.data_ptr() != sae.w_dec.data_ptr()
    assert not sae.b_enc.any()
    torch.testing.assert_close(sae.b_dec.detach(), geometric_median(x))


def test_geometric_median_shrugs_off_outliers():
    x = torch.cat(
        [
            torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) + 5,
            torch.full((40, 3), 1e4),
        ]
    )
    assert (geometric_median(x) - 5).abs().max() < 0.3
    assert torch.equal(geometric_median(torch.zeros(0, 3)), torch.zeros(3))
    assert torch.equal(geometric_median(torch.ones(4, 3)), torch.ones(3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 8, "k": 9}, ["k = 9", "width = 8"]),
        ({"width": 8, "k": 0}, ["k = 0"]),
        ({"width": 0, "k": 1}, ["width = 0"]),
        ({"width": 8, "k": 2, "aux_coefficient": -1.0}, ["aux_coefficient", "-1.0"]),
        ({"width": 8, "k": "two"}, ["'k'", "two"]),
        ({"width": 8, "k": 2, "kk": 3}, ["kk"]),
        ({"width": 8}, ["'k'"]),
    ],
)
def test_impossible_options_are_refused_in_one_line(options, words):
    with pytest.raises(UserError) as error:
        build_sae("topk", d=4, **options)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words)
