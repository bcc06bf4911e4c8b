"""BatchTopK against a dense reference written from the paper's equations."""

import pytest
import torch

from helpers import architectures
from helpers.architectures import draw_weights
from helpers.synthetic import SyntheticSource
from helpers.toys import auxk_by_angle
from saeworks import UserError, build_sae
from saeworks.dictionary import batch_selection, selection
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.initial import geometric_median
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

D, WIDTH, K = 10, 37, 4
NO_DEAD = torch.empty(0, dtype=torch.int64)


def build(dtype=torch.float64, d=D, width=WIDTH, k=K, **options):
    torch.manual_seed(0)
    sae = build_sae("batchtopk", d=d, width=width, k=k, **options)
    draw_weights(sae)
    return sae.to(dtype)


def rows(n, seed=0, dtype=torch.float64, d=D):
    return architectures.rows(n, d, seed, dtype)


def dense_code(sae, x, site=None):
    """The n·k largest of the ReLU(W(x − b_dec) + b) of each site's n rows, first come first."""
    z = ((x - sae.b_dec) @ sae.w_enc.T + sae.b_enc).relu()
    site = torch.zeros(len(x), dtype=torch.int64) if site is None else site
    keep = torch.zeros_like(z)
    for s in set(site.tolist()):
        z_s = z.detach()[site == s]
        order = z_s.flatten().argsort(descending=True, stable=True)[: len(z_s) * sae.config.k]
        keep[site == s] = (
            torch.zeros(z_s.numel(), dtype=z.dtype).index_fill(0, order, 1).view_as(z_s)
        )
    return z * keep


def dense_losses(sae, x, target, dead):
    x_hat = dense_code(sae, x) @ sae.w_dec + sae.b_dec
    terms = {"reconstruction": (target - x_hat).square().sum(1).mean() / sae.d}
    half = sae.d // 2
    k_aux = min(half, len(dead))
    if k_aux:
        e = (target - x_hat).detach()
        # b_dec is a constant to AuxK, and ê is decoded without it
        f = ((x - sae.b_dec).detach() @ sae.w_enc[dead].T + sae.b_enc[dead]).relu()
        f = f * torch.zeros_like(f).scatter(1, f.topk(k_aux, dim=1).indices, 1)
        auxk = auxk_by_angle(e, f @ sae.w_dec[dead]) / (e - e.mean(0)).square().sum()
        terms["auxk"] = min(1, len(dead) / half) / 32 * auxk
    return terms


def small_tiles(monkeypatch, tile, width=WIDTH):
    monkeypatch.setitem(selection._TILE_BYTES, "cpu", tile * width * 8)


def training_code(sae, x, site=None):
    return sae.training_code(Batch(x, x, site))


@pytest.mark.parametrize("tile", [1, 3, 1000])
@pytest.mark.parametrize(
    ("n", "d", "width", "k"),
    [(19, D, WIDTH, K), (1, D, WIDTH, K), (150, 7, 13, 13), (200, 5, 64, 1), (3, 1, 1, 1)],
)
def test_the_selection_is_the_largest_of_the_batch(monkeypatch, n, d, width, k, tile):
    small_tiles(monkeypatch, tile, width)
    sae, x = build(d=d, width=width, k=k), rows(n, d=d)
    code = training_code(sae, x)
    torch.testing.assert_close(code.dense(), dense_code(sae, x))
    assert (code.values > 0).all()
    assert code.offsets.diff().sum() == len(code.values) <= n * k


@pytest.mark.parametrize("site", [[0] * 24, [0, 1, 2] * 8, [5] * 20 + [2] * 3 + [9], range(24)])
def test_the_selection_is_stratified_by_site(site):
    sae, x, site = build(), rows(24), torch.tensor(site)
    x[site == 2] *= 10  # would take every place of a common selection
    code = training_code(sae, x, site)
    torch.testing.assert_close(code.dense(), dense_code(sae, x, site))
    smallest = sae.step(Batch(x, x, site), Context(NO_DEAD, 0.0)).stats["threshold"]
    each = [training_code(sae, x[site == s]).values.min() for s in site.unique()]
    torch.testing.assert_close(smallest, torch.stack(each).mean())


def scaled(sae, scale):
    """Rows whose pre-activations, up to biases, are as large as told."""
    with torch.no_grad():
        sae.b_enc.zero_()
    return rows(len(scale)) * scale.unsqueeze(1) + sae.b_dec.detach()


@pytest.mark.parametrize("tile", [1, 7, 1000])
@pytest.mark.parametrize("probed", ["too large", "too small"])
def test_an_unlucky_floor_costs_time_only(monkeypatch, probed, tile):
    """The rows that the floor is read off are not like the rest."""
    small_tiles(monkeypatch, tile)
    monkeypatch.setattr(batch_selection, "PROBE_ROWS", 4)
    scale = torch.full((80,), 1e-3 if probed == "too large" else 1e3, dtype=torch.float64)
    scale[::20] = 1
    sae = build()
    x = scaled(sae, scale)
    passes, pools = [], []
    select, cut = batch_selection._largest_above, batch_selection._cut

    def counted(*args):
        passes.append(args[-2].item())
        return select(*args)

    def weighed(tiles, n):
        pools.append(sum(len(t.z) for t in tiles))
        return cut(tiles, n)

    monkeypatch.setattr(batch_selection, "_largest_above", counted)
    monkeypatch.setattr(batch_selection, "_cut", weighed)
    torch.testing.assert_close(training_code(sae, x).dense(), dense_code(sae, x))
    assert passes[0] > 0
    assert passes[1:] == ([0.0] if probed == "too large" else [])
    # never more than the pool and a tile at a time
    assert max(pools) <= (batch_selection._POOL * K * 80) + min(tile, 80) * WIDTH
    if probed == "too small" and tile == 1:
        assert len(pools) > 1


@pytest.mark.parametrize("tile", [1, 2, 1000])
def test_of_equal_values_the_first_stay(monkeypatch, tile):
    small_tiles(monkeypatch, tile)
    sae, x = build(), rows(9)
    with torch.no_grad():
        sae.w_enc.zero_()
        sae.b_enc.fill_(0.5)
        sae.b_enc[7] = 2
    f = training_code(sae, x).dense()
    assert (f[:, 7] == 2).all()
    others = torch.cat([f[:, :7], f[:, 8:]], 1).flatten()
    assert (others[: 9 * (K - 1)] == 0.5).all()
    assert not others[9 * (K - 1) :].any()


@pytest.mark.parametrize("bias", [-100.0, 0.0])
def test_what_is_not_positive_is_not_selected(bias):
    sae, x = build(), rows(9)
    with torch.no_grad():
        sae.b_enc.fill_(bias)
        x = torch.where(torch.tensor(bias == 0), sae.b_dec.expand_as(x), x).clone()
        sae.threshold.fill_(0.25)
    out = sae.step(Batch(x, x), Context(NO_DEAD, 0.0))
    assert len(training_code(sae, x).values) == 0
    assert out.stats["threshold"] == out.stats["l0"] == 0
    assert not out.fired.any()
    out.loss_terms["reconstruction"].backward()
    assert not sae.w_enc.grad.any()
    sae.after_step(out.state)
    assert sae.threshold == 0.25


def test_fewer_positive_values_than_places():
    sae, x = build(), rows(9)
    with torch.no_grad():
        sae.w_enc.zero_()
        sae.b_enc.fill_(-1)
        sae.b_enc[3] = 1
    code = training_code(sae, x)
    assert code.indices.tolist() == [3] * 9
    assert code.offsets.tolist() == list(range(10))


@pytest.mark.parametrize("dead", [0, 1, 5, 12, WIDTH])  # around D/2 = 5
@pytest.mark.parametrize("tile", [3, 1000])
def test_losses_and_gradients(monkeypatch, dead, tile):
    small_tiles(monkeypatch, tile)
    sae, x, target = build(), rows(31), rows(31, seed=4)
    dead = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(3))[:dead].sort().values
    ours = sae.step(Batch(x, target), Context(dead, 0.0)).loss_terms
    plain = dense_losses(sae, x, target, dead)
    assert ours.keys() == plain.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], plain[name])
        mine, expected = (
            torch.autograd.grad(
                terms[name], list(sae.parameters()), retain_graph=True, materialize_grads=True
            )
            for terms in (ours, plain)
        )
        for a, b in zip(mine, expected, strict=True):
            torch.testing.assert_close(a.to_dense(), b)


@pytest.mark.parametrize("path", ["step", "training", "inference"])
def test_every_output_has_its_gradient(path):
    sae, x = build(), rows(11).requires_grad_()
    with torch.no_grad():
        sae.threshold.fill_(0.7)
    weights, f_weights = rows(11, seed=5), rows(11, seed=6, d=WIDTH)
    z = ((x - sae.b_dec) @ sae.w_enc.T + sae.b_enc).relu()
    f = z * (z > 0.7) if path == "inference" else dense_code(sae, x)
    dense = [((f @ sae.w_dec + sae.b_dec).pow(3) * weights).sum(), (f.pow(2) * f_weights).sum()]
    if path == "step":
        x_hat = sae.step(Batch(x, x.detach()), Context(NO_DEAD, 0.0)).x_hat
        ours = [(x_hat.pow(3) * weights).sum()]
    else:
        code = sae.encode_sparse(x) if path == "inference" else training_code(sae, x)
        torch.testing.assert_close(code.dense(), f)
        x_hat = sae.decode(code)
        ours = [(x_hat.pow(3) * weights).sum(), (code.dense().pow(2) * f_weights).sum()]
    for mine, expected in zip(ours, dense, strict=False):
        grads = (
            torch.autograd.grad(
                y, [x, *sae.parameters()], retain_graph=True, materialize_grads=True
            )
            for y in (mine, expected)
        )
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b)


def test_no_auxk_where_it_is_not_wanted():
    sae, x = build(aux_coefficient=0.0), rows(9)
    terms = sae.step(Batch(x, x), Context(torch.arange(3), 0.0)).loss_terms
    assert set(terms) == {"reconstruction"}


def test_before_training_every_positive_value_is_active():
    sae, x = build(), rows(9)
    assert sae.threshold == 0
    torch.testing.assert_close(sae.encode(x), ((x - sae.b_dec) @ sae.w_enc.T + sae.b_enc).relu())
    with torch.no_grad():
        sae.threshold.fill_(-3)  # as a file from elsewhere may say
    assert (sae.encode(x) >= 0).all()


def test_the_threshold_is_the_running_mean_of_the_smallest():
    sae, x = build(), rows(9)
    smallest = training_code(sae, x).values.min()
    out = sae.step(Batch(x, x), Context(NO_DEAD, 0.0))
    assert out.stats["threshold"] == smallest
    sae.after_step(out.state)
    torch.testing.assert_close(sae.threshold, smallest.detach())
    for value in (3.0, 5.0):
        sae.after_step({"threshold": torch.tensor(value, dtype=torch.float64)})
    expected = 0.95 * (0.95 * smallest + 0.05 * 3) + 0.05 * 5
    torch.testing.assert_close(sae.threshold, expected.detach())
    assert "threshold" in sae.state_dict()


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_held_out_l0_is_k(noise):
    """At a k below what is there, so that the threshold cuts where there is mass."""
    source = SyntheticSource(512, d=32, features=64, active=8, exponential=True, noise=noise)
    torch.manual_seed(0)
    sae = build_sae("batchtopk", d=32, width=128, k=6)
    sae.initialise(next(source).x["synthetic"], torch.Generator().manual_seed(0))
    optimiser, steps = DictionaryAdam(sae, 3e-3), 300
    for step in range(steps):
        x = next(source).x["synthetic"]
        lr = 3e-3 * min(1, (steps - step) / 60)
        train_step(sae, optimiser, Batch(x, x), Context(NO_DEAD, step / steps), lr)
    x = torch.cat([next(source).x["synthetic"] for _ in range(8)])
    assert (sae.encode(x) > 0).sum(1).float().mean().item() == pytest.approx(6, rel=0.05)


def test_initialisation():
    sae, x = build(torch.float32), rows(200, dtype=torch.float32) + 3
    with torch.no_grad():
        sae.threshold.fill_(3)
    sae.initialise(x, torch.Generator().manual_seed(0))
    assert torch.equal(sae.w_enc, sae.w_dec)
    assert not sae.b_enc.any()
    assert sae.threshold == 0
    torch.testing.assert_close(sae.b_dec.detach(), geometric_median(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 8, "k": 9}, ["k = 9", "width = 8"]),
        ({"width": 8, "k": 0}, ["k = 0"]),
        ({"width": 0, "k": 1}, ["width = 0"]),
        ({"width": 8, "k": 2, "aux_coefficient": -1.0}, ["aux_coefficient", "-1.0"]),
        ({"width": 8, "k": 2, "aux_coefficient": float("nan")}, ["aux_coefficient", "nan"]),
        ({"width": 8, "k": 2, "target_l0": 3.0}, ["target_l0"]),
        ({"width": 8}, ["'k'"]),
    ],
)
def test_impossible_options_are_refused_in_one_line(options, words):
    with pytest.raises(UserError) as error:
        build_sae("batchtopk", d=4, **options)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words)
