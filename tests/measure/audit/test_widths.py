"""Several widths at one site: who is compared with whom, the law, the bands, token by token."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.audit_arrays import Direct
from helpers.numbers import known
from helpers.toy_suites import SITES, random_sae, written_suite
from helpers.toys import Toy, clean_rows, held_out, random_text, saved_llama, tiny_llama
from saeworks.config import AuditConfig
from saeworks.measure.audit.run import audit_banks, audit_suites
from saeworks.measure.audit.scaling import added_percent
from saeworks.measure.audit.scaling_section import slope
from saeworks.measure.audit.widths import Sized, TrainedWith, families
from saeworks.results.audit import AuditResult

SITE = "layers.1"
WIDTHS = (192, 48, 96)  # in no order


@pytest.fixture(scope="module")
def found() -> dict[str, AuditResult]:
    banks = {
        f"runs/w{width}": {SITE: random_sae(at, width=width, k=4)}
        for at, width in enumerate(WIDTHS)
    }
    banks |= {
        "runs/dense": {SITE: random_sae(7, width=48, k=12), "layers.0": random_sae(8, k=4)},
        "runs/again": {SITE: random_sae(9, width=48, k=4)},
        "runs/toy": {SITE: Toy(16, gain=0.7)},
    }
    config = AuditConfig(bootstrap=30, mlp=0, downstream=0, adjacent=False, pursuit=400)
    return audit_banks(banks, tiny_llama(), held_out(60, 150), config)


def test_families_are_alike_in_all_but_width() -> None:
    saes = [
        Sized(f"{l0}-{width}", "topk", width, l0) for l0 in (8.0, 9.0, 16.0) for width in (32, 64)
    ]
    other = Sized("other", "relu", 128, 8.0)
    first, second = families([*saes, other])
    assert [one.name for one in first.members] == ["8.0-32", "8.0-64"]
    assert [one.name for one in second.members] == ["16.0-32", "16.0-64"]
    assert {one.name: why for one, why in first.left_out} == {
        "9.0-32": "another SAE of its width is compared",
        "9.0-64": "another SAE of its width is compared",
        "16.0-32": "its L0 is not within a factor 1.25 of the others'",
        "16.0-64": "its L0 is not within a factor 1.25 of the others'",
    }
    assert families([other]) == [] and families([]) == []


def test_families_are_trained_alike() -> None:
    alike = [Sized(f"a{w}", "topk", w, 8.0, TrainedWith(10_000)) for w in (32, 64)]
    nearly = Sized("nearly", "topk", 128, 8.0, TrainedWith(10_050))  # whole batches
    longer = [Sized(f"b{w}", "topk", w, 8.0, TrainedWith(20_000)) for w in (128, 256)]
    group = Sized("group", "topk", 512, 8.0, TrainedWith(10_000, sites=3))
    first, second = families([*alike, *longer, group, nearly])
    assert [one.name for one in first.members] == ["a32", "a64", "nearly"]
    assert [one.name for one in second.members] == ["b128", "b256"]
    why = {one.name: why for one, why in first.left_out}
    assert why["b128"] == "it is trained on 20,000 tokens, not about 10,000"
    assert why["group"] == "it is one SAE of 3 sites"
    assert families([alike[0], group]) == []


def test_what_is_not_trained_alike_is_not_compared(tmp_path: Path) -> None:
    saved_llama(tmp_path)
    (tmp_path / "text.txt").write_text(random_text(120))
    groups = {"group-0": SITES}
    widths = {"a": (48, None), "b": (96, None), "group": (64, groups)}
    paths = {
        name: written_suite(tmp_path / name, tmp_path, of, width=width)
        for name, (width, of) in widths.items()
    }
    config = AuditConfig(
        tokens=1200, bootstrap=0, mlp=0, downstream=0, adjacent=False, pursuit=0, zeroing=0, codes=0
    )
    found = audit_suites(list(paths.values()), config)
    assert "scaling" not in found[paths["group"]].sections
    series = found[paths["a"]].sections["scaling"].series["layers.2"]
    assert [one["suite"] for one in series["saes"]] == ["a", "b"]
    assert [(one["suite"], one["why"]) for one in series["left_out"]] == [
        ("group", "it is one SAE of 2 sites")
    ]


def test_a_suite_has_the_section_where_it_is_compared(found: dict[str, AuditResult]) -> None:
    assert [name for name, one in found.items() if "scaling" in one.sections] == [
        f"runs/w{width}" for width in WIDTHS
    ]
    shared = [found[f"runs/w{width}"].sections["scaling"] for width in WIDTHS]
    assert [one.series[SITE].pop("own") for one in shared] == [2, 0, 1]
    assert shared[0].series == shared[1].series == shared[2].series
    series = shared[0].series[SITE]
    assert [one["width"] for one in series["saes"]] == sorted(WIDTHS)
    assert [one["suite"] for one in series["left_out"]] == ["dense", "again"]
    assert all(one["l0"] == pytest.approx(4) for one in series["saes"])


def test_the_numbers_are_those_of_the_other_sections(found: dict[str, AuditResult]) -> None:
    for width in WIDTHS:
        one = found[f"runs/w{width}"]
        bands = {
            key: known(one.value(SITE, "scaling", key).value)
            for key in ("linear_or_absent", "nonlinear", "encoder")
        }
        fvu = one.value(SITE, "split", "fvu")
        assert sum(bands.values()) == pytest.approx(fvu.value)
        change = known(one.value(SITE, "pursuit", "fvu_nonlinear_change").value)
        nonlinear = known(one.value(SITE, "split", "fvu_nonlinear").value)
        assert bands["encoder"] == pytest.approx(-change * nonlinear)  # pursuit has fewer tokens
        assert one.value(SITE, "scaling", "absent").value is None  # three widths identify no c
        series = one.sections["scaling"].series[SITE]
        (own,) = (sae for sae in series["saes"] if sae["width"] == width)
        assert own["fvu"] == {"value": fvu.value, "low": fvu.low, "high": fvu.high}
        assert "three parameters" in series["law"]["why"]
        assert one.value(SITE, "scaling", "c_identified").value == 0
        json.dumps(series)
    words = " ".join(found["runs/w48"].verdicts[SITE].sentences)
    assert "with width over the widths audited" in words or "Degenerate" in words


def test_tokens_are_those_of_the_direct_regression(found: dict[str, AuditResult]) -> None:
    sample = held_out(60, 150)
    x_ND = clean_rows(tiny_llama(), SITE, sample)
    norms = []
    for at, width in sorted(enumerate(WIDTHS), key=lambda pair: pair[1]):
        with torch.no_grad():
            x_hat_ND = random_sae(at, width=width, k=4)(x_ND)
        direct = Direct.of(x_ND.double(), x_hat_ND.double(), sample.row_NT[sample.keep_NT])
        e_ND = direct.x - direct.x_hat
        l_ND = direct.predict(direct.at("x", 0), e_ND[direct.fold == 0], direct.x)
        norms.append([np.linalg.norm(v_ND, axis=1) for v_ND in (e_ND, e_ND - l_ND)])
    later = direct.fold > 0
    pairs = found["runs/w48"].sections["scaling"].series[SITE]["per_token"]
    assert [(pair["narrow"], pair["wide"]) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in pairs:
        (e_i, u_i), (e_j, _) = norms[pair["narrow"]], norms[pair["wide"]]
        fit = direct.fold[later] == 1
        first = r2_of(e_j[later], fit, e_i[later])
        both = r2_of(e_j[later], fit, e_i[later], u_i[later])
        expected = (first, both, added_percent(first, both))
        own = [pair[key]["value"] for key in ("r2", "r2_with_nonlinear", "added_percent")]
        assert own == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert pair["r2"]["low"] < pair["r2"]["high"]


def r2_of(y_N: np.ndarray, fit_N: np.ndarray, *features: np.ndarray) -> float:
    """Held-out R² of least squares with bias, directly."""
    x_NF = np.stack([np.ones_like(y_N), *features], axis=1)
    weights_F, *_ = np.linalg.lstsq(x_NF[fit_N], y_N[fit_N], rcond=None)
    left_N = y_N[~fit_N] - x_NF[~fit_N] @ weights_F
    return float(1 - np.square(left_N).sum() / np.square(y_N[~fit_N] - y_N[fit_N].mean()).sum())


def test_slope() -> None:
    widths, draws = [100, 200, 400], np.ones((2, 3))
    draws[1] = [3 * width**-0.4 for width in widths]
    assert slope(widths, draws) == pytest.approx([0.0, -0.4])


def test_four_widths_may_identify_the_floor(tmp_path: Path) -> None:
    widths = (32, 48, 96, 192)
    banks = {f"w{w}": {SITE: random_sae(at, width=w, k=4)} for at, w in enumerate(widths)}
    config = AuditConfig(bootstrap=10, mlp=0, downstream=0, adjacent=False, pursuit=0)
    result = audit_banks(banks, tiny_llama(), held_out(60, 150), config)["w96"]
    law = result.sections["scaling"].series[SITE]["law"]
    assert len(law["curve"]["width"]) == len(law["curve"]["fvu"]) == 50
    absent, linear, both = (
        result.value(SITE, "scaling", key).value for key in ("absent", "linear", "linear_or_absent")
    )
    assert (absent is not None) == law["identified"]
    if absent is not None and linear is not None:
        assert absent + linear == pytest.approx(both)
    assert result.value(SITE, "scaling", "encoder").value is None
    nonlinear = result.value(SITE, "scaling", "nonlinear").value
    assert nonlinear == result.value(SITE, "split", "fvu_nonlinear").value
    result.write(tmp_path / "audit.json")
    assert AuditResult.read(tmp_path / "audit.json").sections["scaling"].series
