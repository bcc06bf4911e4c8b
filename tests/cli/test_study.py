"""`saeworks study` and `saeworks export`: what they refuse, and what they print."""

import json
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.studied import judge, studied, two_suites
from saeworks.cli.main import main
from saeworks.cli.study import _login
from saeworks.people.raters import rater_file


def refused(arguments: Sequence[object], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and one line on stderr that says it."""
    assert main([str(word) for word in arguments]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err and captured.err.count("\n") == 1, captured.err


def test_a_study_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = studied(tmp_path / "suite", latents=8)
    refused(["study"], "name at least one folder", capsys)
    refused(["study", suite], "a new study needs --out FOLDER", capsys)
    refused(["study", suite, "--analyse"], "is no study, and --analyse and --export", capsys)
    refused(["study", suite, "--out", tmp_path / "s", "--latents", 0], "latents = 0", capsys)
    refused(["study", suite, "--out", tmp_path / "s"], "has 8 latents of layers.0 and 48", capsys)
    shutil.rmtree(suite / "results")
    refused(["study", suite, "--out", tmp_path / "s"], "has no results/latents.json", capsys)
    assert not (tmp_path / "s").exists()


def test_a_study_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, study, folder = two_suites(tmp_path)
    refused(["study", folder, "--analyse"], "has no answers yet", capsys)
    refused(["study", folder, "--latents", 4], "is a study, whose latents are drawn", capsys)
    refused(["study", folder, "--rater", "a/b"], "--rater 'a/b': a name", capsys)
    other = studied(tmp_path / "third", seed=2)
    refused(["study", folder, other, "--analyse"], "is no suite of this study", capsys)
    refused(["study", paths[0], other, "--out", folder], "is of other suites", capsys)
    judge(folder, study, "ann", lambda drawn: "yes")
    refused(["study", folder, "--export", tmp_path / "a.json"], "ends with .csv", capsys)
    file = rater_file(folder, "ann")
    file.write_text(file.read_text().replace('"yes"', '"perhaps"', 1))
    refused(["study", folder, "--analyse"], "ann.jsonl line 2", capsys)


def test_a_port_that_is_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, folder = two_suites(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(["study", folder, "--port", port], f"--port {port}: it is in use", capsys)


def test_what_the_answers_amount_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, study, folder = two_suites(tmp_path)
    judge(folder, study, "ann", lambda drawn: "yes" if drawn.suite else "no")
    with rater_file(folder, "ann").open("a") as file:
        file.write('{"latent"')
    moved = paths[0].rename(tmp_path / "moved")
    assert main(["study", str(folder), "--analyse"]) == 0
    told = capsys.readouterr().out
    assert "the last line of ann's answers is cut off; it is left out" in told
    assert "is no longer in" in told and "100% [68%, 100%] of 8 live latents" in told
    assert str(paths[1] / "results" / "study.json") in told
    assert not (moved / "results" / "study.json").exists()
    assert main(["study", str(folder), str(moved), "--analyse", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["raters"] == {"ann": 16} and (moved / "results" / "study.json").is_file()
    table = tmp_path / "a.csv"
    assert main(["study", str(folder), "--export", str(table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"export": str(table), "answers": 16}


def test_a_login_is_a_raters_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for login, name in {"ann": "ann", "é": "rater", "-a b": "ab", "..": "rater"}.items():
        monkeypatch.setattr("getpass.getuser", lambda login=login: login)
        assert _login() == name

    def nobody() -> str:
        raise OSError("no login")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert _login() == "rater"


def test_results_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite, out = studied(tmp_path / "suite", latents=4), tmp_path / "out"
    command = ["export", str(suite), "--to", "neuronpedia", "--out", str(out)]
    assert main(command) == 0
    assert "2 file(s) for neuronpedia" in capsys.readouterr().out
    refused(command, "is not empty", capsys)
    assert main([*command[:-1], str(tmp_path / "new"), "--site", "layers.1", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["files"] == [str(tmp_path / "new" / "layers.1" / "batch-0.json")]
    refused(["export", suite, "--to", "saebench", "--out", tmp_path / "x"], "saeworks eval", capsys)
