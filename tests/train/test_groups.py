"""A group is an ordinary SAE on rows of several sites, each in its own site's units."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.fakes import CONFIG, Relay, StopAt, fake_source, fake_trainer, shorter, weights
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.registry import build_sae
from saeworks.dictionary.site_affine import SiteAffine
from saeworks.groups.grouping import Grouping, per_site
from saeworks.suite import load_suite
from saeworks.train.mixing import View

SITES = ("layers.0", "layers.2")
ONE = Grouping("g1-user", {"group-0": SITES}, "user")
ALL = Grouping("g1-user-all", {"group-0": SITES}, "user", "all")
TOPK = {"arch": "topk", "expansion": 2, "k": 4}


def source(**options: Any) -> Any:
    return fake_source(sites=SITES, **options)


def rows(seed: int = 0, n: int = 6000) -> tuple[dict[str, torch.Tensor], dict[str, Normaliser]]:
    random = torch.Generator().manual_seed(seed)
    x = {s: 3 * torch.randn(n, 16, generator=random) + 5 * i for i, s in enumerate(SITES)}
    return x, {site: Normaliser.estimate(x_ND) for site, x_ND in x.items()}


def test_one_site_of_every_token_drawn_uniformly():
    x, normalisers = rows()
    batch = View(SITES, "centre-scale").batch(x, normalisers, 0, 7)
    assert batch.site is not None and batch.x is batch.target
    assert abs(batch.site.float().mean() - 0.5) < 0.03
    for index, site in enumerate(SITES):
        at = batch.site == index
        torch.testing.assert_close(batch.x[at], normalisers[site].normalise(x[site][at]))
    again = View(SITES, "centre-scale").batch(x, normalisers, 0, 7)
    other = View(SITES, "centre-scale").batch(x, normalisers, 0, 8)
    assert torch.equal(batch.x, again.x)
    assert batch.site is not None and other.site is not None
    assert not torch.equal(batch.site, other.site)


def test_all_sites_of_fewer_tokens_are_as_many_rows():
    x, normalisers = rows(n=7)
    batch = View(SITES, "centre-scale", "all").batch(x, normalisers, 0, 0)
    assert batch.site is not None and batch.site.tolist() == [0, 1, 0, 1, 0, 1, 0]
    for i in range(7):
        site = SITES[i % 2]
        torch.testing.assert_close(batch.x[i], normalisers[site].normalise(x[site][i // 2]))


def test_a_group_of_one_site_is_that_site(tmp_path: Path):
    alone = Grouping("g2-user", {"group-0": SITES[:1], "group-1": SITES[1:]}, "user")
    trainer = fake_trainer(tmp_path, source=source(), saes=(TOPK,), groupings=[alone])
    x, _ = rows()
    view = trainer._learners[0].view
    assert view.batch(x, rows()[1], 0, 0).site is None


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "jumprelu"])
def test_groups_baselines_and_ways_of_drawing_in_one_pass(tmp_path: Path, arch: str):
    sparsity = {"target_l0": 4.0} if arch == "jumprelu" else {"k": 4}
    saes = ({"arch": arch, "expansion": 2, **sparsity},)
    trainer = fake_trainer(
        tmp_path, source=source(), saes=saes, groupings=[per_site(SITES), ONE, ALL]
    )
    assert trainer.run() == "finished"
    names = sorted(path.parent.name for path in tmp_path.glob("*/suite.json"))
    assert len(names) == 3
    for name in names:
        suite = load_suite(tmp_path / name)
        assert suite.sites == list(SITES)
        for site in SITES:
            assert suite.at(site).decode(suite.at(site).encode(torch.randn(5, 16))).shape == (5, 16)
    shared = load_suite(tmp_path / names[1])
    assert shared.groups == {"group-0": list(SITES)}
    a, b = (shared.normaliser(site) for site in SITES)
    assert not torch.equal(a.mean, b.mean)
    lines = (tmp_path / names[1] / "metrics.jsonl").read_text().splitlines()
    assert {line.split('"site": "')[1][:8] for line in lines if '"train"' in line} == set(SITES)


def test_the_baseline_is_the_same_whoever_is_trained_beside_it(tmp_path: Path):
    alone = fake_trainer(tmp_path / "a", source=source(), saes=(TOPK,))
    alone.run()
    beside = fake_trainer(
        tmp_path / "b", source=source(), saes=(TOPK,), groupings=[per_site(SITES), ONE]
    )
    beside.run()
    one, two = load_suite(tmp_path / "a"), load_suite(tmp_path / "b" / "topk-x2-k4")
    for site in SITES:
        torch.testing.assert_close(one.at(site).w_dec, two.at(site).w_dec)


def test_batchtopk_has_a_threshold_for_each_site(tmp_path: Path):
    """At inference each site fires k latents a token, though one site's are larger."""
    saes = ({"arch": "batchtopk", "expansion": 2, "k": 4, "normaliser": "none"},)
    config = shorter(CONFIG, tokens=64 * 60)

    class Louder(Relay):
        def change(self, batch: Any) -> Any:
            batch.x[SITES[1]].mul_(4)
            return batch

    trainer = fake_trainer(tmp_path, config, source=Louder(source()), saes=saes, groupings=[ONE])
    trainer.run()
    suite = load_suite(tmp_path)
    thresholds = [float(suite.trained(site).threshold) for site in SITES]  # type: ignore[arg-type]
    assert thresholds[1] > 2 * thresholds[0]
    fresh = source(seed=5)
    for site, scale in zip(SITES, (1, 4), strict=True):
        l0 = suite.at(site).encode(scale * fresh.head(site, 400)).gt(0).sum(1).float().mean()
        assert 3 < l0 < 5


def test_an_interrupted_run_of_groups_resumes_to_the_same_bytes(tmp_path: Path):
    saes = (
        {**TOPK},
        {"arch": "batchtopk", "expansion": 2, "k": 4, "normaliser": "learnable"},
    )
    groupings = [per_site(SITES), ONE, ALL]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fake_trainer(whole, source=source(), saes=saes, groupings=groupings).run()
    stopped = StopAt(source(), 11, signal.SIGINT)
    first = fake_trainer(broken, source=stopped, saes=saes, groupings=groupings)
    assert first.run() == "interrupted"
    fake_trainer(broken, source=source(), saes=saes, groupings=groupings).run()
    assert weights(broken) == weights(whole)
    assert len(weights(whole)) == 2 * (2 + 1 + 1)
    for path in whole.rglob("normalisers.safetensors"):
        assert path.read_bytes() == (broken / path.relative_to(whole)).read_bytes()


def test_each_kind_of_normaliser_is_trained_on_the_same_rows(tmp_path: Path):
    kinds = ["centre-scale", "scale-only", "none", "learnable"]
    saes = ({**TOPK, "normaliser": kinds},)
    trainer = fake_trainer(tmp_path, source=source(), saes=saes, groupings=[ONE])
    trainer.run()
    suites = {kind: load_suite(tmp_path / f"topk-x2-k4-{kind}-g1-user") for kind in kinds}
    site = SITES[1]
    centred = suites["centre-scale"].normaliser(site)
    assert not suites["none"].normaliser(site).mean.any()
    assert suites["none"].normaliser(site).scale == 1
    assert not suites["scale-only"].normaliser(site).mean.any()
    learnt = suites["learnable"].normaliser(site)
    assert not torch.equal(learnt.mean, centred.mean)
    assert learnt.scale != centred.scale


def test_a_learnable_normaliser_is_the_map_it_says():
    """The bank's SAE, folded twice, is the shared one between the two composed maps."""
    sae = SiteAffine(build_sae("topk", 16, width=32, k=4), 2)
    x, normalisers = rows()
    torch.manual_seed(0)
    with torch.no_grad():
        sae.shift.normal_()
        sae.log_scale.normal_(std=0.3)
    for index, site in enumerate(SITES):
        raw, frozen = x[site][:50], normalisers[site]
        bank = sae.for_site(index).folded(frozen.mean, frozen.scale)
        composed = sae.normaliser(index, frozen)
        expected = composed.denormalise(sae.inner(composed.normalise(raw)))
        torch.testing.assert_close(bank(raw), expected, rtol=1e-4, atol=1e-4)


def test_a_learnable_normaliser_s_loss_is_in_frozen_units():
    sae = SiteAffine(build_sae("relu", 8, width=16), 2).double()
    torch.manual_seed(0)
    with torch.no_grad():
        sae.shift.normal_(std=0.3)
        sae.log_scale.normal_(std=0.3)
    x, site = torch.randn(40, 8, dtype=torch.float64), torch.arange(40) % 2
    none = torch.empty(0, dtype=torch.int64)
    out = sae.step(Batch(x, x, site), Context(none, 1.0))
    torch.testing.assert_close(out.loss_terms["reconstruction"], (out.x_hat - x).square().mean())
    by_hand = torch.stack([sae.for_site(int(s))(row) for row, s in zip(x, site, strict=True)])
    torch.testing.assert_close(out.x_hat, by_hand)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_learnable_normaliser_takes_any_precision(dtype: torch.dtype) -> None:
    sae = SiteAffine(build_sae("batchtopk", 8, width=16, k=3), 2)
    with torch.no_grad():
        sae.shift[0], sae.log_scale[0] = 0.5, 0.3
    x, at_site = torch.randn(5, 8).to(dtype), sae.for_site(0)
    assert torch.equal(at_site(x), at_site(x.float()).to(dtype)) and at_site(x).dtype == dtype
    assert sae.half().shift.dtype == sae.inner.w_enc.dtype == torch.float32


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "matryoshka", "relu", "jumprelu", "gated"])
def test_the_gradients_of_a_learnable_normaliser(arch: str):
    """Against finite differences, on a batch whose selection they do not change."""
    options = {"k": 3} if arch in ("topk", "batchtopk", "matryoshka") else {}
    sae = SiteAffine(build_sae(arch, 8, width=16, **options), 2).double()
    torch.manual_seed(1)
    random = torch.Generator().manual_seed(0)
    x, site = torch.randn(40, 8, dtype=torch.float64), torch.arange(40) % 2
    sae.initialise(x, random)
    none = torch.empty(0, dtype=torch.int64)

    def loss() -> torch.Tensor:
        return sae.step(Batch(x, x, site), Context(none, 1.0)).loss_terms["reconstruction"]

    loss().backward()
    for parameter in (sae.shift, sae.log_scale):
        assert parameter.grad is not None
        flat, grad = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(0, len(flat), 3):
            eps = 1e-6
            with torch.no_grad():
                flat[i] += eps
                up = loss()
                flat[i] -= 2 * eps
                down = loss()
                flat[i] += eps
            torch.testing.assert_close((up - down) / (2 * eps), grad[i], rtol=1e-3, atol=1e-6)
