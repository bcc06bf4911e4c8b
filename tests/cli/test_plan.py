"""`saeworks plan`: a plan and its page from a model and a text, and bad input in one line."""

import json
from pathlib import Path

import pytest

from helpers.toys import random_text, saved_llama
from saeworks.cli.main import main
from saeworks.results.plan import Plan


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("llama")
    saved_llama(folder)
    (folder / "text.txt").write_text(random_text(30))
    model_text = ["--model", str(folder), "--text", str(folder / "text.txt")]
    return ["plan", *model_text, "--context", "16", "--tokens", "300", "--device", "cpu"]


def test_writes_a_plan_and_its_page(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--last", "--groups", "2", "--method", "contiguous", "--out", str(tmp_path / "plan")]
    assert main([*options, *more]) == 0
    said = capsys.readouterr().out
    assert "layers.0" in said and "AMAD by number of groups: 1: 0." in said
    plan = Plan.read(tmp_path / "plan" / "plan.json")
    assert (len(plan.groups), plan.method, plan.objective) == (2, "contiguous", "amad")
    assert plan.sites == ("layers.0", "layers.1", "layers.2")
    assert plan.saving is not None and len(plan.saving) == 3
    assert plan.saving[0] > plan.saving[1] > plan.saving[2] == 0
    assert "operations saved against one SAE per site (topk, 8×, k 32): 1: " in said
    assert "Which sites can share an SAE" in (tmp_path / "plan" / "index.html").read_text()


def test_json_is_all_there_is_on_stdout(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--sites", "*@attn", "*@mlp", "--threshold", "1", "--json", "--out", str(tmp_path)]
    assert main([*options, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"] == str(tmp_path / "plan.json")
    assert len(found["groups"]["group-0"]) == len(found["curve"]) == 6


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--groups", "3"], "--groups 3: there are 2 sites"),
        (["--threshold", "0"], "--threshold 0.0: it must be above 0"),
        (["--groups", "0"], "--groups 0: at least 1"),
        (["--objective", "max"], "goes with method 'contiguous'"),
        (["--method", "ward"], "ward"),
        (["--sites", "0@resid"], "leave 1 site(s)"),
        (["--tokens", "0"], "tokens = 0"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str],
    more: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*options, *more, "--out", str(tmp_path / "plan")]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
    assert not (tmp_path / "plan").exists()
