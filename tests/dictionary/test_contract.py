"""What every architecture promises (DESIGN §4), checked for each one in ARCHS."""

import copy

import pytest
import torch

from helpers.tiny_saes import TINY, D, build, context, loss, name, rows, training_code
from saeworks import ARCHS, build_sae
from saeworks.dictionary import preactivations
from saeworks.dictionary.base import Batch
from saeworks.dictionary.losses import reconstruction
from saeworks.errors import UserError
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

archs = pytest.mark.parametrize("arch", list(TINY))


def test_every_architecture_has_a_tiny_configuration():
    assert {name(arch) for arch in TINY} == set(ARCHS)


@archs
def test_names_and_declarations(arch):
    sae = build(arch)
    assert sae.arch == name(arch)
    assert sae.width == TINY[arch]["width"]
    names = dict(sae.named_parameters())
    assert {"w_enc", "w_dec", "b_dec"} <= set(names)
    assert set(sae.unit_norm) <= set(names)


@archs
def test_what_it_has_per_latent_and_per_site_is_declared(arch):
    sae = build(arch)
    before = {name: tensor.shape for name, tensor in sae.state_dict().items()}
    per_latent = {name for name, shape in before.items() if shape[:1] == (sae.width,)}
    assert per_latent == set(sae.per_latent)
    sae.share(3)
    assert {name: tensor.shape for name, tensor in sae.state_dict().items()} == {
        name: (3, *shape) if name in sae.per_site else shape for name, shape in before.items()
    }
    at_site = sae.for_site(2).state_dict()
    assert {name: tensor.shape for name, tensor in at_site.items()} == before


@archs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_pieces_compose(arch, dtype):
    sae, x = build(arch, dtype), rows(9, dtype=dtype)
    code = sae.encode_sparse(x)
    assert sae(x).dtype == dtype
    torch.testing.assert_close(sae.encode(x), code.dense())
    torch.testing.assert_close(sae(x), sae.decode(code))
    torch.testing.assert_close(sae(x), sae.decode(sae.encode(x)))
    assert (sae.encode(x) >= 0).all()


@archs
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3), (2, 0), (2, 1, 3)])
def test_any_leading_shape(arch, shape):
    sae = build(arch)
    x = rows(int(torch.tensor(shape).prod())).reshape(*shape, D)
    assert sae.encode(x).shape == (*shape, sae.width)
    assert sae(x).shape == x.shape
    flat = sae(x.reshape(-1, D))
    torch.testing.assert_close(sae(x).reshape(-1, D), flat)


@archs
def test_a_token_is_encoded_alone(arch):
    sae, x = build(arch, torch.float64), rows(50, dtype=torch.float64)
    whole = sae.encode(x)
    for i in (0, 17, 49):
        torch.testing.assert_close(sae.encode(x[i : i + 1])[0], whole[i])
    torch.testing.assert_close(sae.encode(x.flip(0)).flip(0), whole)


@archs
def test_initialisation_follows_its_generator(arch):
    sae, x = build(arch), rows(64)
    states = []
    for seed in (1, 1, 2):
        sae.initialise(x, torch.Generator().manual_seed(seed))
        states.append(copy.deepcopy(sae.state_dict()))
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not all(torch.equal(states[0][n], states[2][n]) for n in states[0])
    for parameter in sae.unit_norm:
        norms = states[0][parameter].norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))


def trained(sae, x):
    """x̂ of the code that a step trains, the plain way."""
    return sae.decode(training_code(sae, Batch(x, x)))


def gradients(sae, output):
    return torch.autograd.grad(output, list(sae.parameters()), materialize_grads=True)


@archs
def test_training_codes_select_within_a_site(arch):
    sae, x = build(arch, torch.float64), rows(24, dtype=torch.float64)
    site = torch.arange(24) % 3
    whole = training_code(sae, Batch(x, x, site)).dense()
    for i in range(3):
        x_i = x[site == i]
        torch.testing.assert_close(whole[site == i], training_code(sae, Batch(x_i, x_i)).dense())


@archs
@pytest.mark.parametrize("way", ["sparse", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_step_equals_the_plain_path(arch, dtype, seed, way, monkeypatch):
    monkeypatch.setattr(preactivations, "DENSE_SHARE", {"sparse": 2.0, "dense": -1.0}[way])
    sae, x = build(arch, dtype), rows(33, seed, dtype)
    out = sae.step(Batch(x, x), context(sae))
    plain = trained(sae, x)
    torch.testing.assert_close(out.x_hat, plain)
    torch.testing.assert_close(out.loss_terms["reconstruction"], reconstruction(x, plain))
    weights = rows(33, seed + 10, dtype)
    for ours, theirs in (
        ((out.x_hat * weights).sum(), (plain * weights).sum()),
        (
            sae.step(Batch(x, x), context(sae)).loss_terms["reconstruction"],
            reconstruction(x, trained(sae, x)),
        ),
    ):
        for mine, expected in zip(gradients(sae, ours), gradients(sae, theirs), strict=True):
            torch.testing.assert_close(mine, expected)


@archs
def test_step_passes_gradients_to_the_input(arch):
    sae, x = build(arch, torch.float64), rows(7, dtype=torch.float64)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    sae.step(Batch(a, x), context(sae)).x_hat.square().sum().backward()
    trained(sae, b).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


@archs
def test_step_compares_with_the_target(arch):
    sae, x, target = build(arch), rows(9), rows(9, seed=5)
    out = sae.step(Batch(x, target), context(sae))
    expected = reconstruction(target, trained(sae, x))
    torch.testing.assert_close(out.loss_terms["reconstruction"], expected)


@archs
def test_step_reports_what_fired(arch):
    sae, x = build(arch), rows(9)
    out = sae.step(Batch(x, x), context(sae))
    f = training_code(sae, Batch(x, x)).dense()
    assert torch.equal(out.fired, (f > 0).any(0))
    torch.testing.assert_close(out.stats["l0"], (f > 0).sum(1).float().mean())
    fvu = (x - trained(sae, x)).square().sum() / (x - x.mean(0)).square().sum()
    torch.testing.assert_close(out.stats["fvu"], fvu)
    assert not any(value.requires_grad for value in out.stats.values())


@archs
def test_forward_and_step_change_no_state(arch):
    sae, x = build(arch), rows(9)
    before = copy.deepcopy(sae.state_dict())
    random = torch.get_rng_state()
    sae(x)
    loss(sae.step(Batch(x, x), context(sae, dead=3))).backward()
    assert all(torch.equal(before[name], value) for name, value in sae.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


@archs
def test_state_dict_round_trip(arch):
    sae, x = build(arch), rows(9)
    torch.manual_seed(9)
    other = build_sae(name(arch), d=D, **TINY[arch])
    assert not torch.equal(other(x), sae(x))
    other.load_state_dict(sae.state_dict())
    assert torch.equal(other(x), sae(x))


@archs
def test_folding_gives_the_same_code_on_raw_activations(arch):
    sae, x = build(arch), rows(40)
    mean, scale = 3 * torch.randn(D, generator=torch.Generator().manual_seed(3)), torch.tensor(2.5)
    raw = x * scale + mean
    before = copy.deepcopy(sae.state_dict())
    folded = sae.folded(mean, scale)
    torch.testing.assert_close(folded.encode(raw), sae.encode(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(folded(raw), sae(x) * scale + mean, atol=1e-4, rtol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in sae.state_dict().items())


@archs
def test_an_empty_batch_is_harmless(arch):
    sae, x = build(arch), rows(0)
    out = sae.step(Batch(x, x), context(sae, dead=3))
    loss(out).backward()
    assert not out.fired.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in sae.parameters())


FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@archs
@pytest.mark.parametrize("own", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", FLOATS)
def test_any_floating_type_is_encoded_in_the_precision_of_the_sae(arch, own, given):
    sae, x = build(arch, own), rows(9, dtype=given).reshape(3, 3, D).requires_grad_()
    code, exact = sae.encode_sparse(x), x.detach().to(own)
    assert code.values.dtype == sae.encode(x).dtype == sae.decode(code).dtype == own == sae.dtype
    assert torch.equal(sae.encode(x), sae.encode(exact))
    assert torch.equal(sae.decode(code), sae(exact))
    x_hat = sae(x)
    assert x_hat.dtype == given and torch.equal(x_hat, sae(exact).to(given))
    x_hat.sum().backward()
    assert x.grad is not None and x.grad.dtype == given and x.grad.abs().sum() > 0
    f = sae.encode(exact)
    assert torch.equal(sae.decode(f.to(given)), sae.decode(f.to(given).to(own)))


@archs
def test_autocast_does_not_reach_it(arch):
    sae, x = build(arch), rows(9)
    f, x_hat = sae.encode(x), sae(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sae.encode(x), f) and torch.equal(sae(x), x_hat)
        found = sae.decode(f)
    assert torch.equal(found, sae.decode(f))


@archs
def test_a_step_of_the_trainer_takes_any_floating_type(arch):
    x = rows(33)
    states = []
    for dtype in (torch.float32, torch.bfloat16):
        sae = build(arch)
        x_BD = x.bfloat16().to(dtype)
        optimiser = DictionaryAdam(sae, 1e-2)
        train_step(sae, optimiser, Batch(x_BD, x_BD, weight=x_BD[:, 0].abs()), context(sae), 1e-2)
        states.append(sae.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@archs
@pytest.mark.parametrize("how", ["to", "method", "inside"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_never_below_float32(arch, dtype, how):
    sae = build(arch)
    before = copy.deepcopy(sae.state_dict())
    if how == "to":
        sae.to("cpu", dtype)
    elif how == "inside":
        torch.nn.ModuleList([sae]).to(dtype)
    else:
        (sae.bfloat16 if dtype == torch.bfloat16 else sae.half)()
    after = sae.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert {t.dtype for t in after.values()} == {torch.float32}
    assert all(isinstance(p, torch.nn.Parameter) and p.requires_grad for p in sae.parameters())
    assert {t.dtype for t in sae.double().state_dict().values()} == {torch.float64}


@archs
def test_activations_of_another_width_are_refused(arch):
    for call in (build(arch), build(arch).encode, build(arch).encode_sparse):
        with pytest.raises(UserError, match=rf"\[{D}, 4\].*give .*\[..., {D}\]"):
            call(torch.zeros(D, 4))


BAD = {"nan": torch.nan, "inf": torch.inf, "minus inf": -torch.inf}


@archs
@pytest.mark.parametrize("bad", list(BAD))
@pytest.mark.parametrize("places", [(3,), tuple(range(D))], ids=["one", "all"])
def test_what_is_not_finite_stays_so_and_touches_no_other_row(arch, bad, places):
    sae, x = build(arch), rows(9)
    clean = sae.encode(x), sae(x)
    x[4, list(places)] = BAD[bad]
    f, x_hat = sae.encode(x), sae(x)
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    for found, expected in zip((f, x_hat), clean, strict=True):
        torch.testing.assert_close(found[others], expected[others], rtol=0, atol=1e-6)
    if bad == "nan":
        assert f[4].isnan().any() and x_hat[4].isnan().all()
    elif places == (3,):  # W x is infinite wherever it is defined
        assert not x_hat[4].isfinite().any()
    assert torch.equal(sae.decode(sae.encode_sparse(x)).isnan(), x_hat.isnan())
    assert torch.equal(sae.decode(f).isnan().any(1), x_hat.isnan().any(1))
    assert torch.equal(sae(x[4:5]).isnan(), x_hat[4:5].isnan())


@archs
@pytest.mark.parametrize("way", ["sparse", "dense"])
@pytest.mark.parametrize("bad", [[4], list(range(33))])
def test_nan_reaches_the_loss_and_the_gradient(arch, bad, way, monkeypatch):
    monkeypatch.setattr(preactivations, "DENSE_SHARE", {"sparse": 2.0, "dense": -1.0}[way])
    sae, x = build(arch), rows(33)
    x[bad] = torch.nan
    code = training_code(sae, Batch(x, x))
    assert code.dense().isnan().any()
    out = sae.step(Batch(x, x), context(sae, dead=3))
    total = loss(out)
    assert total.isnan() and out.loss_terms["reconstruction"].isnan()
    total.backward()
    assert sae.w_dec.grad is not None and not sae.w_dec.grad.isfinite().all()


@archs
def test_a_weight_that_is_nan_shows(arch):
    sae, x = build(arch), rows(9)
    with torch.no_grad():
        sae.w_enc[7] = torch.nan
    assert sae(x).isnan().any()
