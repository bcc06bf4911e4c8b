"""Switch SAEs against a dense reference that computes every expert and masks, from the papers'
equations."""

import dataclasses
import math

import pytest
import torch

from helpers.architectures import draw_weights
from helpers.toys import auxk_by_angle
from saeworks import UserError, build_sae
from saeworks.dictionary import dispatch
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.initial import geometric_median

D, WIDTH, K, N, LABELS = 10, 36, 4, 6, 3
ROUTERS = {
    "switch": {},
    "heaviside": {},
    "shared": {},
    "top-n": {"active": 3},
    "expert-choice": {"active": 2},
    "bias": {},
    "layer": {},
    "supervised": {"labels": LABELS},
}
routers = pytest.mark.parametrize("router", list(ROUTERS))


def build(router="switch", dtype=torch.float64, d=D, width=WIDTH, k=K, experts=N, **options):
    torch.manual_seed(0)
    options = {**ROUTERS[router], **options}
    sae = build_sae("switch", d=d, width=width, k=k, experts=experts, router=router, **options)
    if router == "layer":
        sae.share(2)
    draw_weights(sae)
    with torch.no_grad():
        if router == "bias":
            sae.router.bias.copy_(torch.linspace(-0.1, 0.1, experts))
        if router == "expert-choice":
            sae.router.threshold.copy_(torch.linspace(0.2, 0.4, experts))
    return sae.to(dtype)


def batch(n, seed=0, dtype=torch.float64, d=D):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator).to(dtype)
    label = torch.randint(-1, LABELS, (n,), generator=generator)
    return Batch(x, x, torch.arange(n) % 2, label=label)


def context(dead=()):
    return Context(torch.tensor(dead, dtype=torch.int64), 0.5)


# the reference: all experts, masks, autograd -------------------------------------------------


def probabilities(sae, x, site=None):
    logits = (x - sae.b_router) @ sae.w_router.T
    if sae.config.router == "layer":
        own = sae.router.site_logits
        logits = logits + (own.mean(0) if site is None else own[site])
    if sae.config.router == "shared":
        logits = logits[:, 1:]
    return torch.exp(logits - torch.logsumexp(logits, 1, keepdim=True))


def gates(sae, b, training):
    """p, and [B, N] weights with 0 where a token does not visit an expert, and the mask."""
    router, config, site = sae.config.router, sae.config, b.site if training else None
    p = probabilities(sae, b.x, site)
    best = torch.nn.functional.one_hot(p.argmax(1), p.shape[1]).bool()
    if router == "shared":
        always = torch.ones(len(p), 1, dtype=torch.bool)
        weight = torch.cat([torch.ones(len(p), 1, dtype=p.dtype), p], 1)
        return p, weight, torch.cat([always, best], 1)
    if router == "heaviside":
        return p, torch.ones_like(p), best
    if router == "top-n":
        return p, p, p >= p.topk(config.active, 1).values[:, -1:]
    if router == "bias":
        choice = (p + sae.router.bias).argmax(1)
        return p, p, torch.nn.functional.one_hot(choice, p.shape[1]).bool()
    if router == "expert-choice":
        taken = p > sae.router.threshold
        if training:
            taken = torch.zeros_like(taken)
            for s in b.site.unique():
                of_site = (b.site == s).nonzero()[:, 0]
                capacity = math.ceil(config.active * len(of_site) / config.experts)
                for e in range(config.experts):
                    ranked = p[of_site, e].argsort(descending=True)[:capacity]
                    taken[of_site[ranked], e] = True
        return p, p, taken | (best & ~taken.any(1, keepdim=True))
    return p, p, best


def dense_code(sae, b, training=True):
    p, weight, visited = gates(sae, b, training)
    spread = expert_width(sae)
    z = ((b.x - sae.b_dec) @ sae.w_enc.T).relu()
    f = z * weight.repeat_interleave(spread, 1)
    allowed = visited.repeat_interleave(spread, 1)
    top = f.masked_fill(~allowed, -torch.inf).topk(sae.config.k, 1).indices
    mask = torch.zeros_like(f).scatter(1, top, 1).bool()
    return torch.where(mask, f, 0), p, weight, visited


def expert_width(sae):
    return sae.config.width // sae.config.experts


def dense_losses(sae, b, dead):
    f, p, _, visited = dense_code(sae, b)
    x_hat = f @ sae.w_dec + sae.b_dec
    terms = {"reconstruction": (b.target - x_hat).square().sum(1).mean() / sae.d}
    router, config = sae.config.router, sae.config
    if router not in ("expert-choice", "bias"):
        routed = visited[:, -p.shape[1] :]
        share = routed.double().sum(0) / routed.sum()
        terms["balance"] = config.balance * p.shape[1] * (share * p.mean(0)).sum()
    if router == "supervised":
        known = b.label >= 0
        owner = torch.arange(config.experts) * LABELS // config.experts
        mine = owner == b.label[known][:, None]
        terms["supervision"] = (
            -config.supervision * (p[known] * mine).sum(1).log().sum() / known.sum()
        )
    if dead:
        terms["auxk"] = config.aux_coefficient * dense_auxk(sae, b, x_hat, visited, dead)
    return terms


def dense_auxk(sae, b, x_hat, visited, dead):
    e = (b.target - x_hat).detach()
    total, half, spread = 0.0, sae.d // 2, expert_width(sae)
    x = b.x - sae.b_dec.detach()
    for expert in range(sae.config.experts):
        own = [m for m in dead if m // spread == expert]
        sent = visited[:, expert]
        if not own or not sent.any():
            continue
        f = (x[sent] @ sae.w_enc[own].T).relu()
        keep = f.topk(min(half, len(own)), 1).indices
        f = torch.zeros_like(f).scatter(1, keep, f.gather(1, keep))
        total = total + min(1, len(own) / half) * auxk_by_angle(e[sent], f @ sae.w_dec[own])
    return total / (e - e.mean(0)).square().sum() * len(b.x) / visited.sum()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# tests ---------------------------------------------------------------------------------------


@routers
@pytest.mark.parametrize("dead", [(), (0,), (3, 4, 5, 11, 12, 13, 14, 15, 16, 17, 30, 35)])
@pytest.mark.parametrize("tile", [1, 200, 2**20])
@pytest.mark.parametrize("rows", [3, 41])
def test_every_loss_and_gradient_against_the_dense_reference(monkeypatch, router, dead, tile, rows):
    monkeypatch.setitem(dispatch._TILE_BYTES, "cpu", tile)
    sae, b = build(router), batch(rows)
    ours = sae.step(b, context(dead))
    plain = dense_losses(sae, b, dead)
    f = dense_code(sae, b)[0]
    close(ours.x_hat, f @ sae.w_dec + sae.b_dec)
    close(sae.training_code(b).dense(), f)
    assert torch.equal(ours.fired, (f > 0).any(0))
    assert ours.loss_terms.keys() - plain.keys() <= {"auxk"}  # none of the dead had a token
    for name, expected in plain.items():
        close(ours.loss_terms[name], torch.as_tensor(expected, dtype=torch.float64))
        if not torch.is_tensor(expected):
            continue
        mine, theirs = (
            torch.autograd.grad(
                loss, list(sae.parameters()), retain_graph=True, materialize_grads=True
            )
            for loss in (ours.loss_terms[name], expected)
        )
        for a, e in zip(mine, theirs, strict=True):
            close(a.to_dense() if a.is_sparse else a, e)


@routers
def test_inference_against_the_dense_reference(router):
    sae, b = build(router), batch(33)
    f = dense_code(sae, b, training=False)[0]
    close(sae.encode(b.x), f)
    weights = batch(33, seed=3).x
    x = b.x.clone().requires_grad_()
    inputs = [x, *sae.parameters()]
    plain = Batch(x, x)
    ours = torch.autograd.grad((sae(x) * weights).sum(), inputs, materialize_grads=True)
    code = dense_code(sae, plain, training=False)[0] @ sae.w_dec + sae.b_dec
    theirs = torch.autograd.grad((code * weights).sum(), inputs, materialize_grads=True)
    for a, e in zip(ours, theirs, strict=True):
        close(a, e)


@routers
def test_inference_of_a_token_is_its_own(router):
    sae, b = build(router), batch(64)
    whole = sae.encode(b.x)
    for i in range(0, 64, 7):
        close(sae.encode(b.x[i : i + 1])[0], whole[i])


def test_experts_without_a_token_get_no_gradient():
    sae, b = build(), batch(2)
    sae.step(b, context()).loss_terms["reconstruction"].backward()
    norms = sae.w_enc.grad.view(N, -1).norm(dim=1)
    assert (norms > 0).sum() <= 2
    assert sae.w_enc.grad.isfinite().all()


@routers
def test_all_tokens_at_one_expert(router):
    sae, b = build(router), batch(20)
    with torch.no_grad():
        sae.w_router.zero_()
        sae.w_router[4] = 1
        sae.b_router.fill_(-1e3)
    out = sae.step(b, context((25, 26)))
    sum(out.loss_terms.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in sae.parameters())
    if router in ("switch", "heaviside", "bias", "layer", "supervised"):
        assert out.stats["busiest"] == 1
        assert out.stats["confidence"] == pytest.approx(1)
    if "balance" in out.loss_terms and router == "switch":
        close(out.loss_terms["balance"], torch.tensor(0.03 * N, dtype=torch.float64))


def test_one_expert_is_topk_times_its_weight():
    sae, b = build(experts=1), batch(20)
    other = build_sae("topk", d=D, width=WIDTH, k=K).double()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(getattr(sae, name) if name != "b_enc" else 0)
    close(sae(b.x), other(b.x))
    dead = tuple(range(7))
    ours, theirs = (s.step(Batch(b.x, b.x), context(dead)).loss_terms for s in (sae, other))
    for name in theirs:
        close(ours[name], theirs[name])


def test_the_biases_are_two_tensors_at_the_geometric_median():
    sae, x = build_sae("switch", d=D, width=WIDTH, k=K, experts=N), batch(50).x.float()
    sae.initialise(x, torch.Generator().manual_seed(0))
    assert sae.b_dec.data_ptr() != sae.b_router.data_ptr()
    for bias in (sae.b_dec, sae.b_router):
        torch.testing.assert_close(bias.detach(), geometric_median(x))
    assert torch.equal(sae.w_enc, sae.w_dec)


def test_the_bias_router_moves_towards_balance():
    sae, b = build("bias"), batch(40)
    before = sae.router.bias.clone()
    out = sae.step(b, context())
    load = out.state["load"]
    sae.after_step(out.state)
    moved = sae.router.bias - before
    close(moved, 0.001 * torch.sign(40 / N - load.double()))
    assert "load" not in out.stats  # per expert: not for the log


def test_thresholds_of_expert_choice_follow_the_smallest_choice():
    sae, b = build("expert-choice", experts=3, active=1), batch(30)
    sae.initialise(b.x, torch.Generator().manual_seed(0))
    assert (sae.router.threshold == 1).all()
    p = probabilities(sae, b.x)
    one = dataclasses.replace(b, site=None)
    sae.after_step(sae.step(one, context()).state)
    close(sae.router.threshold, p.topk(10, 0).values[-1].detach())
    first = sae.router.threshold.clone()
    sae.after_step(sae.step(dataclasses.replace(one, x=b.x + 1), context()).state)
    second = probabilities(sae, b.x + 1).topk(10, 0).values[-1].detach()
    close(sae.router.threshold, 0.95 * first + 0.05 * second)


def test_expert_choice_keeps_a_threshold_per_site():
    sae, b = build("expert-choice"), batch(24)
    sae.router.initialise()
    sae.share(3)
    state = sae.step(b, context()).state  # no row is of site 2
    sae.double().after_step(state)
    assert sae.router.threshold.shape == (3, N)
    assert (sae.router.threshold[2] == 1).all()
    assert (sae.router.threshold[:2] < 1).all()
    assert torch.equal(sae.for_site(1).router.threshold, sae.router.threshold[1])


def test_the_layer_router_differs_between_sites():
    sae, b = build("layer"), batch(30)
    for site in (0, 1):
        own = sae.for_site(site)
        there = dataclasses.replace(b, site=torch.full((30,), site))
        close(own.encode(b.x), sae.training_code(there).dense())
        other = build_sae("switch", D, width=WIDTH, k=K, experts=N, router="layer").double()
        other.load_state_dict(own.state_dict())
        close(other.encode(b.x), own.encode(b.x))
    assert not torch.equal(sae.for_site(0).encode(b.x), sae.for_site(1).encode(b.x))


def test_supervised_routing_learns_the_labels():
    sae, b = build("supervised", supervision=1.0, balance=0.0), batch(200)
    label = (b.x[:, 0] > -0.4).long() + (b.x[:, 0] > 0.4).long()
    labelled = dataclasses.replace(b, label=label)
    optimiser = torch.optim.Adam([sae.w_router, sae.b_router], lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        sum(sae.step(labelled, context()).loss_terms.values()).backward()
        optimiser.step()
    chosen = probabilities(sae, b.x).argmax(1) * LABELS // N
    assert (chosen == label).float().mean() > 0.85


def test_unknown_labels_add_nothing():
    sae, b = build("supervised"), batch(9)
    unknown = dataclasses.replace(b, label=torch.full((9,), -1))
    assert sae.step(unknown, context()).loss_terms["supervision"] == 0


@pytest.mark.parametrize(
    ("label", "message"),
    [(None, "label for every row"), (torch.tensor([0, 1, 3]), "label 3: with labels = 3")],
)
def test_bad_labels(label, message):
    sae, b = build("supervised"), batch(3)
    with pytest.raises(UserError, match=message) as error:
        sae.step(dataclasses.replace(b, label=label), context())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 100, "experts": 16}, "width = 100 is not divisible by experts = 16.*96 or 112"),
        ({"width": 64, "k": 5}, "k = 5 is more than the 4 latents of an expert"),
        ({"width": 8, "experts": 16, "k": 1}, "experts = 16 is more than width = 8"),
        ({"experts": 0}, "experts = 0"),
        ({"experts": -2}, "experts = -2"),
        ({"router": "top-n", "active": 17}, "active = 17 is more than experts = 16"),
        ({"router": "expert-choice", "active": 17}, "active = 17 is more than experts = 16"),
        ({"router": "top-n", "active": 0}, "active = 0"),
        ({"active": 2}, "active = 2: the router 'switch'"),
        ({"router": "shared", "experts": 1}, "experts = 1: the router 'shared'"),
        ({"router": "supervised"}, "router = supervised needs labels"),
        ({"router": "supervised", "labels": 17}, "labels = 17: .* 1 to 16"),
        ({"labels": 3}, "only the router 'supervised' has labels"),
        ({"router": "best"}, "router"),
        ({"balance": -1.0}, "balance = -1"),
        ({"bias_step": math.inf}, "bias_step = inf"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        build_sae("switch", d=D, **{"width": 128, "k": 4, **options})
    assert "\n" not in str(error.value)
