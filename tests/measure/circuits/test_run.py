"""Circuits of suites: what is written, what stands beside what, what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from helpers.circuits import toy_coded, toy_prompts, toy_task
from saeworks.cli.main import main
from saeworks.config import ModelConfig
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.circuits.config import CircuitsConfig
from saeworks.measure.circuits.metrics import AREAS, CONTROLS, less_baseline, of
from saeworks.measure.circuits.prompts import activations
from saeworks.measure.circuits.run import Posed, circuits, measure_circuits
from saeworks.measure.circuits.study import rank_correlation
from saeworks.measure.tasks.skill import skill_of
from saeworks.results.metric import Value
from saeworks.results.names import ALL_SITES
from saeworks.results.result import Result
from saeworks.suite import load_suite

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "suites" / "main"
PREFIX = "The friends Bertha and Sarah were near the harbour, where {} handed a ring to"
SMALL = CircuitsConfig(task=("ioi",), prompts=24, nodes=(1, 8, 64), steps=3, exact=4, bootstrap=100)


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites") / "main"
    shutil.copytree(GOLDEN, folder)
    return folder


@pytest.fixture(scope="module")
def measured(suites: Path) -> dict[str, Result]:
    """Two suites beside a baseline, measured together."""
    paths = [suites / "topk-w32-k8", suites / "switch-w64-k8-experts4-g1-user"]
    results = circuits(paths, SMALL, baseline=suites / "topk-w64-k8")
    assert all(len(of_suite) == 1 for of_suite in results.values())
    return {path.name: of_suite[0] for path, of_suite in results.items()}


def test_every_suite_has_its_controls_and_baseline(
    suites: Path, measured: dict[str, Result]
) -> None:
    assert len(measured) == 3
    for name, result in measured.items():
        read = Result.read(suites / name / "results" / "circuits_ioi.json")
        assert (read.sites, read.findings) == (result.sites, result.findings)
        assert list(result.sites) == ["layers.1", "layers.3", ALL_SITES]
        for values in result.sites.values():
            for area in AREAS:
                assert all(values[of(who, area)].value is not None for who in CONTROLS)
                assert (less_baseline(area) in values) == (name != "topk-w64-k8")
        assert result.config["own"]
        assert result.config["task"]["skill"]["right"]["value"] > 0.9
    one, two = (measured[name].sites["layers.1"] for name in ("topk-w32-k8", "topk-w64-k8"))
    apart = number(one["faithful_auc"]) - number(two["faithful_auc"])
    assert number(one[less_baseline("faithful_auc")]) == pytest.approx(apart)


def number(value: Value) -> float:
    assert value.value is not None
    return value.value


def test_the_zero_sae_looks_good_with_error_nodes_alone(measured: dict[str, Result]) -> None:
    for result in measured.values():
        for values in result.sites.values():
            assert values[of("zero", "faithful_auc_error")].value == pytest.approx(1, abs=1e-4)
            assert values[of("zero", "faithful_auc")].value == 0.0
            assert values[of("zero", "complete_auc")].value == 0.0
        assert any(
            "the zero SAE) reaches 1.00" in finding and "it reaches 0.00" in finding
            for finding in result.findings
        )


def test_one_suite_alone_has_the_same_numbers(suites: Path, measured: dict[str, Result]) -> None:
    """What is measured beside it changes nothing, but for rounding in other batches."""
    lm = LanguageModel.load("embedded")
    bank = load_suite(suites / "topk-w32-k8").bank()
    posed = Posed.of("ioi", lm, SMALL)
    alone = measure_circuits(lm, {"a": bank}, posed, SMALL)["a"].result
    assert isinstance(alone, Result)
    for site, values in measured["topk-w32-k8"].sites.items():
        for key, value in alone.sites[site].items():
            assert value.value == pytest.approx(values[key].value, abs=1e-3), (site, key)


def test_the_command(suites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = {
        "clean_prefix": PREFIX.format("Bertha"),
        "patch_prefix": PREFIX.format("Sarah"),
        "clean_answer": " Sarah",
        "patch_answer": " Bertha",
        "case": "one",
    }
    file = tmp_path / "mine.jsonl"
    file.write_text((json.dumps(prompt) + "\n") * 2)
    suite = tmp_path / "suite"
    shutil.copytree(suites / "topk-w32-k8", suite)
    options = ["--nodes", "1", "16", "--exact", "0", "--attribution", "plain", "--bootstrap", "0"]
    assert main(["circuits", str(suite), "--task", str(file), *options]) == 0
    out = capsys.readouterr().out
    assert "circuits of mine" in out
    assert "right on 100%" in out
    assert "Next: saeworks report" in out
    assert main(["circuits", str(suite), "--task", str(file), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[str(suite)]["circuits_mine"]
    assert found["layers.1"]["zero_faithful_auc"]["value"] == 0.0
    assert "attribution_rank" not in found["layers.1"]


def test_a_model_that_cannot_do_the_task_is_refused(suites: Path) -> None:
    random = ModelConfig("embedded", random_weights=0)
    with pytest.raises(UserError, match=r"task ioi: embedded cannot do it: .* right on \d+%"):
        circuits([suites / "topk-w32-k8"], SMALL, model=random)


def test_a_site_through_which_nothing_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here m is read before the site, so that no bank at that site can matter."""
    lm, prompts = toy_prompts(12)
    site = "layers.2.mlp"
    x = activations(lm, prompts, [site], lambda done: None)[site]
    clean_P = prompts.difference(lm, {}).double()
    posed = Posed(toy_task(12), prompts, clean_P, skill_of(clean_P.numpy()))
    monkeypatch.setattr(
        "saeworks.measure.circuits.passes.Passes.differences",
        lambda self, block, x_VPTD: (self.clean_P[block] + 0 * x_VPTD.sum((-1, -2))).float(),
    )
    with pytest.raises(UserError, match=r"a: with layers.2.mlp at its mean, m is .* lower"):
        measure_circuits(lm, {"a": {site: toy_coded("topk", x).sae}}, posed, SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompts", "0"], "prompts = 0: it must be at least 1"),
        (["--nodes", "8"], "nodes = 8: at least two numbers"),
        (["--nodes", "8", "4"], "nodes = 8 4: at least two numbers"),
        (["--nodes", "0", "4"], "nodes = 0 4: at least two numbers"),
        (["--steps", "0"], "steps = 0"),
        (["--seed", "-1"], "seed = -1"),
        (["--task", "ioy"], "ioy"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    suites: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["circuits", str(suites / "topk-w32-k8"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_rank_correlation_in_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    a_PS = torch.randn(30, 6, generator=generator).double().numpy() * 0.01
    a_PS += [1, 2, 3, 4, 5, 6]
    value = rank_correlation(a_PS, a_PS**3, 200, 0)
    assert value.value == pytest.approx(1.0)
    against = rank_correlation(a_PS, -a_PS, 200, 0)
    assert against.value == pytest.approx(-1.0)
    swapped = a_PS[:, [1, 0, 2, 3, 4, 5]]
    value = rank_correlation(a_PS, swapped, 200, 0)
    assert value.value == pytest.approx(1 - 6 * 2 / (6 * 35))
    assert value.low is not None
    assert value.high is not None
    assert -1 <= value.low <= number(value) <= value.high <= 1
