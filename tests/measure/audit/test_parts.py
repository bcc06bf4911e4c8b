"""Adjacent sites, MLP probes and the model's loss, where the answers are known."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from helpers.audit_arrays import Direct, documents, nonlinear, rows
from helpers.toy_suites import random_sae
from helpers.toys import Toy, held_out, tiny_llama
from saeworks.config import AuditConfig
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.measure.audit import extractor, folds
from saeworks.measure.audit.adjacent import AdjacentSites
from saeworks.measure.audit.arrays import base
from saeworks.measure.audit.engine import SaeAudit, SaeOutput, SiteAudit
from saeworks.measure.audit.fits import Before, Tokens
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.mlp import MlpProbe
from saeworks.measure.audit.positions import ErrorByPosition
from saeworks.measure.audit.run import audit_banks
from saeworks.measure.audit.scaling import SEED_NOISE, bands, power_law
from saeworks.measure.audit.wide import WideSae
from saeworks.measure.banks import double_rows_at_once
from saeworks.measure.bootstrap import FEWEST
from saeworks.results.metric import Metric, Value


def through(
    make: object, x: torch.Tensor, x_hat: torch.Tensor, follow: torch.Tensor | None = None
) -> SaeAudit:
    """Arrays through an engine with chosen measurements; `follow`, x̂ of a site before."""
    document = documents(len(x))
    place = Place(x.shape[1], int(document[-1]) + 1, x.device, 0)
    assert callable(make)
    site = SiteAudit("x", place, ["sae"], lambda at: [*base(at), make(at)])
    earlier = SiteAudit("before", place, ["sae"], base)
    fold_N = torch.from_numpy(folds.assign(torch.bincount(document).numpy(), 0))[document]
    for phase in range(3):
        at = fold_N == phase
        before: dict[str, Before | None] = {}
        if follow is not None:
            made = known(follow[at])
            found = earlier.add(phase, x[at], Tokens(document[at]), made)
            before = {
                name: None if parts is None else parts.alone() for name, parts in found.items()
            }
        made = known(x_hat[at])
        site.add(phase, x[at], Tokens(document[at]), made, before)
        earlier.finish(phase) if follow is not None else None
        site.finish(phase)
    return site.saes["sae"]


def known(x_hat: torch.Tensor) -> dict[str, Callable[[torch.Tensor], SaeOutput]]:
    return {"sae": lambda _: SaeOutput(x_hat)}


def values(one: SaeAudit, name: str) -> dict[str, Value]:
    return one.values(50, 0)[name]


def test_what_the_site_before_knows_is_found() -> None:
    x = rows()
    x_hat = nonlinear(x)
    found = values(through(AdjacentSites, x, x_hat, follow=x_hat), "adjacent")
    for name in ("r2_u_from_u", "r2_l_from_x", "r2_l_from_l"):  # the same SAE twice
        assert found[name].value == pytest.approx(1.0, abs=1e-9), name
    other = values(through(AdjacentSites, x, x_hat, follow=nonlinear(x, seed=9)), "adjacent")
    known = other["r2_u_from_u"].value
    assert known is not None and known < 0.9
    assert other["r2_u_from_x"].value == pytest.approx(0.0, abs=0.02)  # by construction
    assert values(through(AdjacentSites, x, x_hat), "adjacent") == {}
    direct = Direct.of(x, x_hat, documents(len(x)))  # e itself; only maps of ℓ and u are kept
    e, before = direct.x - direct.x_hat, nonlinear(x, seed=9).numpy()
    second, test = direct.fold == folds.SECOND, direct.fold == folds.TEST
    left = e[test] - direct.predict(before[second], e[second], before[test])
    total = np.square(e[test] - e[second].mean(0)).sum()
    kept = 1 - (x.shape[1] + 1) / second.sum()  # without the cost of the fit
    expected = 1 - kept * np.square(left).sum() / total
    assert other["r2_e_from_x_hat"].value == pytest.approx(float(expected), rel=1e-8)


def test_sites_follow_one_another_in_a_suite() -> None:
    lm, sample = tiny_llama(), held_out(60, 150)
    config = AuditConfig(bootstrap=0, mlp=0, downstream=0, pursuit=0)
    bank = {"layers.0": random_sae(1), "layers.2": random_sae(2)}
    found = audit_banks({"one": bank}, lm, sample, config)["one"].sections["adjacent"]
    assert found.sites["layers.0"] == {}
    assert len(found.sites["layers.2"]) == 12


def test_a_dead_sae_disturbs_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "STEPS", 5)
    lm, sample = tiny_llama(), held_out(60, 150)
    config = AuditConfig(bootstrap=5, mlp=200, downstream=100, pursuit=100)
    offset_D = torch.linspace(-1, 1, 16)
    bank = {"layers.0": Toy(16, gain=0.0, offset_D=offset_D), "layers.2": random_sae(2)}
    found = audit_banks({"one": bank}, lm, sample, config)["one"]
    reason = found.verdicts["layers.0"].degenerate
    assert reason is not None and "x̂ is constant" in reason
    assert found.verdicts["layers.2"].degenerate is None
    assert found.value("layers.0", "split", "fvu_nonlinear").value == pytest.approx(0.0, abs=1e-12)
    assert found.value("layers.0", "mlp", "r2_u_best").value is None
    assert found.value("layers.2", "adjacent", "r2_e_from_x_hat").value is None
    known = found.value("layers.2", "adjacent", "r2_e_from_x").value
    assert known is not None
    said = " ".join(found.verdicts["layers.2"].sentences)
    for word in ("pursuit", "MLP", "nats"):
        assert word in said


def test_an_mlp_finds_what_is_nonlinear_and_simple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "STEPS", 200)
    x = rows(16_000, 4)
    u_like = (x[:, :1] - x[:, :1].mean()).abs().expand(-1, 4)
    make = lambda at: MlpProbe(at, 4000)  # noqa: E731
    found = values(through(make, x, x - u_like), "mlp")
    best = found["r2_u_best"].value
    assert best is not None and best > 0.9
    generator = torch.Generator().manual_seed(0)
    unknowable = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    nothing = values(through(make, x, x - unknowable), "mlp")["r2_u_32"].value
    assert nothing is not None and nothing < 0.02


def test_a_wide_sae_without_penalty_finds_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "STEPS", 200)
    x = rows(16_000, 4)
    u_like = (x[:, :1] - x[:, :1].mean()).abs().expand(-1, 4)
    make = lambda at: WideSae(at, 4000)  # noqa: E731
    one = through(make, x, x - u_like)
    best = values(one, "wide")["r2_u_best"].value
    assert best is not None and best > 0.9
    series = one.series()["wide"]
    assert series["widths"] == [4, 16, 64] and len(series["l0"]) == 3
    assert 4 < series["l0"][1] < 64  # of 64 latents


def test_putting_everything_back_recovers_everything() -> None:
    lm, sample = tiny_llama(), held_out(60, 150)
    config = AuditConfig(bootstrap=20, mlp=0, pursuit=0, adjacent=False, downstream=10_000)
    banks: dict[str, dict[str, SAE]] = {
        "affine": {"layers.1": Toy(16, gain=0.3)},  # e is linear: ℓ is all of it
        "sae": {"layers.1": random_sae(1), "layers.0": random_sae(2)},
    }
    found = audit_banks(banks, lm, sample, config)
    affine = found["affine"].sections["downstream"].sites["layers.1"]
    assert affine["recovered_linear"].value == pytest.approx(1.0, abs=1e-4)
    assert affine["recovered_nonlinear"].value == pytest.approx(0.0, abs=1e-4)
    assert affine["squared_share_linear"].value == pytest.approx(1.0, abs=1e-4)
    both = found["sae"].sections["downstream"].sites
    assert set(both) == {"layers.0", "layers.1"}
    for site in both.values():
        assert all(v.value is not None and math.isfinite(v.value) for v in site.values())
        assert site["ce_clean"].value == pytest.approx(affine["ce_clean"].value, abs=1e-6)


def test_what_is_measured_on_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "STEPS", 2)
    lm, sample, site = tiny_llama(), held_out(60, 150), "layers.1"
    limits: dict[str, Any] = {
        "pursuit": 0,
        "codes": 0,
        "zeroing": 0,
        "adjacent": False,
        "bootstrap": 0,
    }
    found = {
        asked: audit_banks(
            {"one": {site: random_sae(1)}},
            lm,
            sample,
            AuditConfig(mlp=asked, downstream=asked, **limits),
        )["one"]
        for asked in (100, 10**6)
    }
    all_ = found[10**6]
    mlp = all_.sections["mlp"].series[site]
    assert {key: mlp[key] for key in ("tokens", "documents")} == asdict(all_.folds["fit"])
    series = all_.sections["downstream"].series[site]
    assert series["tokens"] == all_.folds["test"].tokens
    assert series["predictions"] < series["tokens"]  # none across documents
    assert 0 < series["documents"] <= all_.folds["test"].documents
    some = found[100]
    mlp = some.sections["mlp"].series[site]
    assert mlp["tokens"] == 100 and 1 < mlp["documents"] < some.folds["fit"].documents
    series = some.sections["downstream"].series[site]
    assert 100 <= series["tokens"] <= some.folds["test"].tokens  # whole batches


def test_every_interval_follows_the_options_of_the_bootstrap() -> None:
    lm, sample = tiny_llama(), held_out(60, 150)
    bank = {"layers.1": random_sae(1)}

    def intervals(resamples: int, seed: int) -> dict[str, tuple[float | None, float | None]]:
        """Of what is measured; the split into folds is the same."""
        config = AuditConfig(
            bootstrap=resamples, mlp=0, pursuit=0, zeroing=0, codes=0, downstream=10_000
        )
        with pytest.MonkeyPatch.context() as patch:
            assign = folds.assign
            patch.setattr(folds, "assign", lambda tokens_R, _: assign(tokens_R, 0))
            found = audit_banks({"one": bank}, lm, sample, replace(config, seed=seed))["one"]
        return {
            f"{name}.{metric}": (value.low, value.high)
            for name, section in found.sections.items()
            for metric, value in section.sites["layers.1"].items()
        }

    assert not [name for name, ends in intervals(0, 0).items() if ends != (None, None)]
    one, other = intervals(40, 0), intervals(40, 1)
    for name in ("vector.r2_error_per_dimension", "downstream.gap", "split.fvu"):
        assert one[name] != (None, None), name
    assert any(one[name] != other[name] for name in one)  # where the resamples reach furthest


@pytest.mark.parametrize(("tokens", "known"), [(60, False), (300, True)])
def test_pursuit_counts_the_documents_that_it_saw(tokens: int, known: bool) -> None:
    """Of 15 test documents it sees a few, or most. Of a few it says nothing, not even that it
    changes nothing; of most it has intervals, of those alone."""
    lm, sample, site = tiny_llama(), held_out(60, 150), "layers.1"
    config = AuditConfig(
        bootstrap=300, mlp=0, codes=0, zeroing=0, adjacent=False, downstream=0, pursuit=tokens
    )
    found = audit_banks({"one": {site: random_sae(1)}}, lm, sample, config)["one"]
    seen = found.sections["pursuit"].series[site]["documents"]["test"]
    assert (seen >= FEWEST) == known and seen < found.documents
    change = found.value(site, "pursuit", "fvu_change")
    assert change.value is not None
    assert (change.low is not None) == known
    assert found.value(site, "split", "fvu").low is not None
    said = " ".join(found.verdicts[site].sentences)
    assert ("whether it changes FVU cannot be told" in said) != known
    assert "does not clearly change FVU" not in said


WIDTHS = [512 * 2**i for i in range(6)]


def drawn(fvu: list[float], noise: float = 2e-4, resamples: int = 100) -> np.ndarray:
    """FVUs of resamples: documents that all SAEs share, and a little of each SAE's own."""
    rng = np.random.default_rng(0)
    shared = 1 + 0.01 * rng.standard_normal((resamples, 1))
    return np.array(fvu) * (shared + noise * rng.standard_normal((resamples, len(fvu))))


@pytest.mark.parametrize("m", [0.013, 0.2, 0.6, 1.7])
@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_an_exact_power_law_is_found_between_the_points_of_the_grid(m: float, floor: float) -> None:
    fvu = [floor + 2 * width**-m for width in WIDTHS]
    found = power_law(WIDTHS, fvu)
    assert found.c.value == pytest.approx(floor, abs=1e-7)
    assert found.m.value == pytest.approx(m, rel=1e-6)
    assert found.residual < 1e-9
    assert found(1024) == pytest.approx(fvu[1])


@pytest.mark.parametrize("m", [0.2, 0.37, 0.5, 0.8])
@pytest.mark.parametrize("widths", [WIDTHS[:4], WIDTHS])
def test_a_law_that_goes_to_zero_is_never_said_to_stay_above_it(
    m: float, widths: list[int]
) -> None:
    fvu = [2 * width**-m for width in widths]
    found = power_law(widths, fvu, drawn(fvu))
    assert found.c.low == 0.0
    assert found.c.high is not None and found.c.high > 0


def test_what_identifies_c() -> None:
    fvu = [0.1 + 3 * width**-0.6 for width in WIDTHS]
    exact = power_law(WIDTHS, fvu, drawn(fvu))
    assert exact.identified and exact.scatter == SEED_NOISE and "scatter of 1.0%" in exact.why
    noisy = power_law(WIDTHS, fvu, drawn(fvu, noise=0.1))
    assert not noisy.identified and "interval of c" in noisy.why
    widths = [512 * 2**i for i in range(8)]
    near = [(0.05 + 3 * w**-0.45) * (1 + 0.01 * (-1) ** i) for i, w in enumerate(widths)]
    by_chance = power_law(widths, near, drawn(near))
    assert not by_chance.identified and "so few of them would by chance" in by_chance.why
    few = power_law(WIDTHS[:5], fvu[:5], drawn(fvu[:5]))
    assert not few.identified and "5 SAEs are too few" in few.why
    assert "no draws" in power_law(WIDTHS, fvu).why
    assert "three parameters" in power_law(WIDTHS[:3], fvu[:3]).why
    step = [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert "edge of what is tried" in power_law(WIDTHS, step, drawn(step)).why
    flat = power_law(WIDTHS, [0.2] * 6)
    assert flat.c.value == pytest.approx(0.2)
    with pytest.raises(UserError, match="3 widths"):
        power_law([1, 1, 2], [0.1, 0.2, 0.3])
    with pytest.raises(UserError, match="above 0"):
        power_law([1, 2, 3], [0.1, 0.0, 0.3])


def test_seeds_tell_the_scatter_and_whether_the_law_holds() -> None:
    widths = [width for width in WIDTHS[:4] for _ in range(3)]
    apart = np.tile([0.999, 1.0, 1.001], 4)
    law = np.array([0.1 + 3 * width**-0.6 for width in widths])
    found = power_law(widths, (law * apart).tolist(), drawn((law * apart).tolist()))
    assert found.identified
    assert found.scatter == pytest.approx(np.sqrt(8e-6 / 9), rel=1e-3)  # on 12 − 3 degrees
    bent = law * np.repeat([1.0, 1.02, 0.98, 1.0], 3) * apart
    missed = power_law(widths, bent.tolist(), drawn(bent.tolist()))
    assert not missed.identified and "miss the law" in missed.why


def test_the_interval_of_c_holds_c_where_seeds_scatter() -> None:
    rng = np.random.default_rng(1)
    claimed, held = [], []
    for noise in (0.003, 0.01):
        for _ in range(20):
            law = [0.05 + 3 * width**-0.45 for width in [1024 * 2**i for i in range(8)]]
            fvu = np.array(law) * (1 + noise * rng.standard_normal(8))
            found = power_law([1024 * 2**i for i in range(8)], fvu.tolist(), drawn(fvu.tolist()))
            assert found.c.low is not None and found.c.high is not None
            claimed.append(found.identified)
            held.append(found.c.low <= 0.05 <= found.c.high)
    assert sum(claimed) >= 25  # wide intervals hold anything
    assert sum(held) >= 37  # of 40; 28 hold it without the scatter


def test_bands_add_up() -> None:
    fvu, nonlinear = np.array([0.3, 0.3, 0.3]), np.array([0.12, 0.28, 0.31])
    encoder, c = np.array([0.02, 0.05, 0.0]), np.array([0.2, 0.1, 0.1])
    found = bands(fvu, nonlinear, encoder, c)
    assert found["absent"] == pytest.approx([0.1, 0.02, 0.0])
    assert found["linear"] == pytest.approx([0.08, 0.0, -0.01])
    assert found["nonlinear"] == pytest.approx([0.1, 0.23, 0.31])
    parts = ("absent", "linear", "nonlinear", "encoder")
    assert sum(found[key] for key in parts) == pytest.approx(fvu)
    assert found["linear_or_absent"] == pytest.approx(found["absent"] + found["linear"])
    assert set(bands(fvu, nonlinear, encoder)) == {"linear_or_absent", "nonlinear", "encoder"}


def test_measurements_need_override_nothing() -> None:
    class Nothing(Measurement):
        name, title, about = "nothing", "Nothing", "Nothing is measured."
        metrics: ClassVar[Mapping[str, Metric]] = {}

    x = rows(2000)
    assert values(through(Nothing, x, nonlinear(x)), "nothing") == {}
    assert double_rows_at_once(64) == 2**14 and double_rows_at_once(4096) == 1024


def test_positions_are_in_the_bins_that_the_text_names() -> None:
    x, length = rows(2000), 20
    document = documents(len(x), length)
    place = Place(x.shape[1], int(document[-1]) + 1, x.device, 0)
    site = SiteAudit("x", place, ["sae"], lambda place: [ErrorByPosition(place)])
    x_hat = nonlinear(x)
    for phase in range(3):
        tokens = Tokens(document, position_N=torch.arange(len(x)) % length)
        site.add(phase, x, tokens, {"sae": lambda _: SaeOutput(x_hat)})
        site.finish(phase)
    found = site.saes["sae"].series()["positions"]
    assert found["first_position"] == [0, 1, 2, 4, 8, 16]
    assert found["tokens"] == [100 * size for size in (1, 1, 2, 4, 8, 4)]
