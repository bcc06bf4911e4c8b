"""Matryoshka against a dense reference written from the paper's equations."""

import pytest
import torch

from helpers import architectures
from helpers.architectures import draw_weights
from helpers.toys import auxk_by_angle
from saeworks import UserError, build_sae
from saeworks.dictionary.archs.matryoshka import MatryoshkaConfig
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.normaliser import Normaliser
from saeworks.suite import load_suite, write_suite
from saeworks.train.variants import build_members, expand_variants

D, WIDTH, K = 10, 37, 4
NO_DEAD = torch.empty(0, dtype=torch.int64)
PREFIXES = [(37,), (1, 37), (36, 37), (5, 9, 20, 37), tuple(range(1, 38))]


def build(arch="matryoshka", dtype=torch.float64, **options):
    torch.manual_seed(0)
    sae = build_sae(arch, d=D, width=WIDTH, k=K, **options)
    draw_weights(sae)
    return sae.to(dtype)


def rows(n, seed=0, dtype=torch.float64, d=D):
    return architectures.rows(n, d, seed, dtype)


def dense_code(sae, x):
    """The B·k largest of ReLU(W(x − b_dec) + b)."""
    z = ((x - sae.b_dec) @ sae.w_enc.T + sae.b_enc).relu()
    best = z.detach().flatten().topk(len(x) * K).indices
    return z * torch.zeros(z.numel(), dtype=z.dtype).index_fill(0, best, 1).view_as(z)


def dense_losses(sae, x, target, dead, sizes):
    f = dense_code(sae, x)
    each = []
    for size in sizes:
        x_hat = f[:, :size] @ sae.w_dec[:size] + sae.b_dec
        each.append((target - x_hat).square().sum(1).mean() / D)
    terms = {"reconstruction": each[-1]}
    if len(sizes) > 1:
        terms["nested"] = sum(each[:-1])
    if len(dead):
        e = (target - x_hat).detach()
        k_aux = min(D // 2, len(dead))
        f = ((x - sae.b_dec).detach() @ sae.w_enc[dead].T + sae.b_enc[dead]).relu()
        f = f * torch.zeros_like(f).scatter(1, f.topk(k_aux, dim=1).indices, 1)
        auxk = auxk_by_angle(e, f @ sae.w_dec[dead]) / (e - e.mean(0)).square().sum()
        terms["auxk"] = min(1, len(dead) / (D // 2)) / 32 * auxk
    return terms


@pytest.mark.parametrize("sizes", PREFIXES)
@pytest.mark.parametrize("dead", [0, 3, 12])
def test_losses_and_gradients(sizes, dead):
    sae, x, target = build(sizes=sizes), rows(31), rows(31, seed=4)
    dead = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(3))[:dead].sort().values
    out = sae.step(Batch(x, target), Context(dead, 0.0))
    plain = dense_losses(sae, x, target, dead, sizes)
    assert out.loss_terms.keys() == plain.keys()
    for name, ours in out.loss_terms.items():
        torch.testing.assert_close(ours, plain[name])
        mine, expected = (
            torch.autograd.grad(
                loss, list(sae.parameters()), retain_graph=True, materialize_grads=True
            )
            for loss in (ours, plain[name])
        )
        for a, b in zip(mine, expected, strict=True):
            torch.testing.assert_close(a.to_dense(), b)


def test_reconstruction_and_input_have_their_gradients():
    sae, x, weights = build(), rows(11).requires_grad_(), rows(11, seed=5)
    plain = dense_code(sae, x) @ sae.w_dec + sae.b_dec
    ours = sae.step(Batch(x, x.detach()), Context(NO_DEAD, 0.0)).x_hat
    torch.testing.assert_close(ours, plain)
    grads = (
        torch.autograd.grad((x_hat.pow(3) * weights).sum(), [x, *sae.parameters()])
        for x_hat in (ours, plain)
    )
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_each_prefix_sees_its_own_latents_only():
    """One latent in the first block, one in the last: x = 2 e₀ + 3 e₁, without biases."""
    sae = build_sae("matryoshka", d=2, width=4, k=2, sizes=(2, 4)).double()
    with torch.no_grad():
        sae.w_enc.zero_()
        sae.w_enc[0, 0] = sae.w_enc[3, 1] = 1
        sae.w_dec.copy_(sae.w_enc)
    x = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    terms = sae.step(Batch(x, x), Context(NO_DEAD, 0.0)).loss_terms
    assert terms["reconstruction"] == 0
    assert terms["nested"] == 9 / 2
    grad = torch.autograd.grad(terms["nested"], sae.w_dec)[0]
    assert grad[0].tolist() == [0, -6]  # f₀ · 2 (x̂₁ − x) / D
    assert not grad[1:].any()


def test_with_one_prefix_it_is_batchtopk():
    ours, theirs, x = build(sizes=(WIDTH,)), build("batchtopk"), rows(31)
    theirs.load_state_dict(ours.state_dict())
    a, b = (sae.step(Batch(x, x), Context(torch.arange(9), 0.0)) for sae in (ours, theirs))
    assert a.loss_terms.keys() == b.loss_terms.keys()
    for name in a.loss_terms:
        torch.testing.assert_close(a.loss_terms[name], b.loss_terms[name])


def test_inference_is_by_threshold():
    sae, x = build(), rows(9)
    out = sae.step(Batch(x, x), Context(NO_DEAD, 0.0))
    sae.after_step(out.state)
    z = ((x - sae.b_dec) @ sae.w_enc.T + sae.b_enc).relu()
    assert sae.threshold == out.stats["threshold"] > 0
    torch.testing.assert_close(sae.encode(x), z * (z > sae.threshold))


def test_blocks_without_an_active_latent():
    sae, x = build(sizes=(5, 9, 20, 37)), rows(9)
    with torch.no_grad():
        sae.b_enc.fill_(-100)
        sae.b_enc[10] = 100
    terms = sae.step(Batch(x, x), Context(NO_DEAD, 0.0)).loss_terms
    sum(terms.values()).backward()
    assert sae.w_dec.grad.abs().amax(1).nonzero().flatten().tolist() == [10]
    bias = (x - sae.b_dec).square().mean()
    torch.testing.assert_close(terms["nested"], 2 * bias + terms["reconstruction"])


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (24, (2, 3, 6, 12, 24)),
        (100, (6, 12, 25, 50, 100)),
        (4096, (256, 512, 1024, 2048, 4096)),
    ],
)
def test_sizes_unless_given(width, expected):
    assert MatryoshkaConfig(width, 1).prefixes == expected


def test_a_flat_list_of_sizes_is_one_variant_and_a_list_of_lists_several():
    options = {"arch": "matryoshka", "width": 8, "k": 2}
    one = expand_variants([{**options, "sizes": [2, 8]}], {"a": 4})
    two = expand_variants([{**options, "sizes": [[2, 8], [4, 8]]}], {"a": 4})
    assert [build_members([v], {"a": 4})[0].sae.config.sizes for v in one + two] == [
        (2, 8),
        (2, 8),
        (4, 8),
    ]
    assert len({v.name for v in two}) == 2


def test_sizes_and_threshold_are_in_the_suite(tmp_path):
    sae, x = build(dtype=torch.float32, sizes=(5, 37)), rows(9, dtype=torch.float32)
    sae.after_step({"threshold": torch.tensor(0.5)})
    write_suite(
        tmp_path,
        variant="m",
        groups={"layers.0": (sae, ("layers.0",))},
        normalisers={"layers.0": Normaliser.identity(D)},
        model={"name": "fake", "revision": None, "fingerprint": "f", "layers": 1},
        text={"source": "embedded"},
        config={"seed": 0},
        seed=0,
        tokens=100,
        steps=10,
        epochs=1,
    )
    read = load_suite(tmp_path).trained("layers.0")
    assert read.config.sizes == (5, 37)
    assert read.threshold == 0.5
    assert torch.equal(read.encode(x), sae.encode(x))


@pytest.mark.parametrize(
    "sizes", [[2, 4], [4, 2, 8], [2, 2, 8], [0, 8], [-1, 8], [2, 9], [8, 8], []]
)
def test_sizes_that_do_not_increase_to_the_width_are_refused(sizes):
    with pytest.raises(UserError) as error:
        build_sae("matryoshka", d=4, width=8, k=2, sizes=sizes)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in (f"sizes = {sizes}", "width = 8", "[2, 8]"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 9}, ["k = 9", "width = 8"]),
        ({"k": 2, "sizes": [2.5, 8]}, ["sizes", "2.5"]),
        ({"k": 2, "sizes": 8}, ["sizes", "8"]),
        ({"k": 2, "aux_coefficient": -1.0}, ["aux_coefficient", "-1.0"]),
        ({"k": 2, "l1": 0.1}, ["l1"]),
    ],
)
def test_impossible_options_are_refused_in_one_line(options, words):
    with pytest.raises(UserError) as error:
        build_sae("matryoshka", d=4, width=8, **options)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words)
