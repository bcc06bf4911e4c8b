"""Held-out outlier tokens: FVU with and without them, and left out where training left them out."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.numbers import known
from helpers.studies import reconstruction
from helpers.toy_suites import SITES, random_sae, written_suite
from helpers.toys import clean_rows, held_out, random_text, saved_llama, tiny_llama
from saeworks.config import EvalConfig
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.run import evaluate
from saeworks.measure.studies import outliers
from saeworks.measure.suites import held_out_tokens
from saeworks.results.headlines import FVU_WITHOUT_OUTLIERS
from saeworks.suite import load_suite

SITE = "layers.1"
CONFIG = EvalConfig(tokens=800, splice_tokens=300, latents=0, bootstrap=20, device="cpu")


def lm_with_outliers(token: int) -> LanguageModel:
    lm = copy.deepcopy(tiny_llama())
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[token] *= 3000
    return lm


@pytest.fixture(scope="module")
def world() -> tuple[LanguageModel, Any]:
    sample = held_out(40, 60)
    counts = torch.bincount(sample.tokens_NT[sample.keep_NT])
    return lm_with_outliers(int(counts.argmax())), sample


def fvu(x_ND: torch.Tensor, x_hat_ND: torch.Tensor) -> float:
    x, error = x_ND.double(), x_ND.double() - x_hat_ND.double()
    return float(error.square().sum() / (x - x.mean(0)).square().sum())


def test_fvu_with_and_without_them(world: tuple[LanguageModel, Any]) -> None:
    lm, sample = world
    x_ND, sae = clean_rows(lm, SITE, sample), random_sae(0)
    with torch.no_grad():
        x_hat_ND = sae(x_ND)
    norm_N = x_ND.norm(dim=1)
    usual = norm_N <= 10 * norm_N.median()
    values = reconstruction({"s": {SITE: sae}}, lm, sample, EvalConfig(bootstrap=20))["s"]
    own = {name: value.value for name, value in values.sites[SITE].items()}
    assert own["fvu"] == pytest.approx(fvu(x_ND, x_hat_ND), rel=1e-6)
    assert own["outlier_share"] == pytest.approx(1 - float(usual.double().mean()))
    assert own[FVU_WITHOUT_OUTLIERS] == pytest.approx(fvu(x_ND[usual], x_hat_ND[usual]), rel=1e-6)
    assert known(own["outlier_share"]) > 0.005
    assert abs(known(own[FVU_WITHOUT_OUTLIERS]) - known(own["fvu"])) > 1e-3
    (note,) = outliers.notes([values])
    assert f"FVU is {own['fvu']:.3g} with them and {own[FVU_WITHOUT_OUTLIERS]:.3g} without" in note


def test_without_outliers_nothing_is_added() -> None:
    found = reconstruction(
        {"s": {SITE: random_sae(0)}}, tiny_llama(), held_out(), EvalConfig(bootstrap=20)
    )["s"]
    assert not found.metrics.keys() & outliers.METRICS.keys()
    assert not found.sites[SITE].keys() & outliers.METRICS.keys()
    assert outliers.notes([found]) == []


def test_what_training_left_out_is_left_out(world: tuple[LanguageModel, Any]) -> None:
    lm, sample = world
    x = {site: clean_rows(lm, site, sample) for site in SITES}
    limits = {site: 10 * float(rows.norm(dim=1).median()) for site, rows in x.items()}
    usual = torch.stack([x[site].norm(dim=1) <= limits[site] for site in SITES]).all(0)
    found = outliers.without(lm, sample, limits)
    assert found.kept == int(usual.sum()) < sample.kept
    assert torch.equal(found.keep_NT[sample.keep_NT], usual)
    assert found.digest != sample.digest
    assert outliers.without(lm, sample, {}) is sample
    with pytest.raises(UserError, match="every held-out token"):
        outliers.without(lm, sample, {SITE: 1e-9})


def test_a_suite_is_evaluated_as_it_was_trained(tmp_path: Path) -> None:
    saved_llama(tmp_path)
    (tmp_path / "text.txt").write_text(random_text(100))
    plain = written_suite(tmp_path / "plain", tmp_path)
    suite = load_suite(plain)
    run = suite.run
    lm = LanguageModel.load(run.model)
    sample = held_out_tokens(lm, run.text, run.seed, CONFIG.tokens)
    norm_N = clean_rows(lm, SITES[0], sample).norm(dim=1)
    limits = {SITES[0]: float(norm_N.quantile(0.9))}
    limited = written_suite(tmp_path / "limited", tmp_path, norm_limits=limits)
    assert load_suite(limited).norm_limits == limits and suite.norm_limits == {}
    found = evaluate([plain, limited], CONFIG)
    whole, part = found[plain][0], found[limited][0]
    assert part.tokens == int((norm_N <= limits[SITES[0]]).sum()) < whole.tokens
    assert found[limited][1].config["held_out"] != found[plain][1].config["held_out"]  # the splice
    for site in SITES:
        with_them = part.sites[site]["fvu_with_excluded"].value
        assert with_them == pytest.approx(whole.sites[site]["fvu"].value, rel=1e-9)
    share = part.sites[SITES[0]]["excluded_share"].value
    assert share == pytest.approx(1 - part.tokens / whole.tokens)
    assert "with them FVU is" in outliers.notes([part])[0]


@pytest.mark.parametrize("limits", [[1.0], {SITE: "far"}, {SITE: -1.0}])
def test_limits_that_are_none_are_refused(tmp_path: Path, limits: Any) -> None:
    saved_llama(tmp_path)
    (tmp_path / "text.txt").write_text(random_text(20))
    suite = load_suite(written_suite(tmp_path / "s", tmp_path))
    suite.meta["norm_limits"] = json.loads(json.dumps(limits))
    with pytest.raises(UserError, match="norm_limits are no norms"):
        _ = suite.norm_limits
