"""What `saeworks latents` prints, and what it refuses in one line."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from rich.cells import cell_len

from saeworks.cli.latents import Latents
from saeworks.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
SENTENCE = "When Mary and John went to the shop"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of the embedded model, at two sites."""
    path = tmp_path_factory.mktemp("suites") / "topk"
    shutil.copytree(ROOT / "golden" / "suites" / "main" / "topk-w64-k8", path)
    return path


@pytest.mark.parametrize("columns", [50, 80, 160])
def test_a_sentence_as_a_table(
    suite: Path,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["latents", str(suite), "--text", SENTENCE, "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if not line.startswith("Next")]
    assert max(map(cell_len, table)) <= columns
    assert lines[0].startswith("layers.1: TopK(")
    assert [line.split()[0] for line in lines[1:10]] == ["token", *SENTENCE.split()]
    assert any(line.startswith("layers.3: ") for line in lines)
    assert "--site layers.3 --latent" in lines[-1]


def test_json_has_the_same(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["latents", str(suite), "--site", "3@resid", "--json", "--tokens", "2000"]
    assert main([*ask, "--text", SENTENCE, "--latent", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    sentence = found["text"]["layers.3"]
    assert [token.strip() for token in sentence["tokens"]] == SENTENCE.split()
    assert all(len(row) <= 8 and row[0]["activation"] > 0 for row in sentence["firings"])
    (latent,) = found["latents"]
    assert (latent["site"], latent["latent"]) == ("layers.3", 3)
    assert len(latent["promoted"]) == len(latent["suppressed"]) == 10


def test_of_many_sites_some_are_shown_and_the_others_named(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("saeworks.cli.latents.FEW", 1)
    ask = Latents(suite, SENTENCE)
    many = [f"layers.{i}" for i in range(7)]

    class Suite:
        sites = many

    class Looked:
        suite = Suite

    assert ask._sites(cast("Any", Looked())) == (
        ["layers.0", "layers.3", "layers.6"],
        many[1:3] + many[4:6],
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give a sentence with --text, or the number of a latent with --latent"),
        (["--text", " "], "the text is empty"),
        (["--latent", "3"], "name its site with --site, one of layers.1, layers.3"),
        (["--latent", "64", "--site", "layers.1"], "latent 64 at layers.1 does not exist"),
        (["--text", "a", "--site", "layers.2"], "has no SAE at site 'layers.2'; it has layers.1"),
        (["--text", "a", "--top", "0"], "--top 0: give at least 1"),
        (["--text", "a", "--tokens", "0"], "--tokens 0: give at least 1"),
        (["--text", "a", "--model", "nowhere/at-all"], "nowhere/at-all"),
    ],
)
def test_bad_input_ends_in_one_line(
    suite: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["latents", str(suite), *options]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    assert message in err
