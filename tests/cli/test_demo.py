"""The demo: its commands, what it remembers of them, and its end on tiny sizes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from saeworks.cli import demo, parsing
from saeworks.cli.demo import Demo, left
from saeworks.cli.main import main
from saeworks.config import PRESETS
from saeworks.cost.progress import duration


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The command lines that the demo runs; none of them does anything."""
    ran: list[Sequence[str]] = []

    def parse(words: Sequence[str]) -> Any:
        ran.append(words)
        return lambda: 130 if words[0] == "audit" and len(ran) == 4 else 0

    monkeypatch.setattr(parsing, "parse", parse)
    monkeypatch.setattr(Demo, "_conclude", lambda self, seconds: None)
    return ran


def test_it_goes_on_where_it_was_interrupted(tmp_path: Path, lines: list[Sequence[str]]) -> None:
    assert Demo(tmp_path)() == 130
    assert [words[0] for words in lines] == ["plan", "train", "eval", "audit"]
    lines.clear()
    assert Demo(tmp_path)() == 0
    assert [words[0] for words in lines] == ["audit", "compare", "circuits", "concepts", "report"]
    lines.clear()
    assert Demo(tmp_path)() == 0
    assert not lines
    log = (tmp_path / demo.LOG).read_text().splitlines()
    assert [line.split()[2] for line in log][-2:] == ["concepts", "report"]


def test_other_tokens_are_another_training(tmp_path: Path, lines: list[Sequence[str]]) -> None:
    Demo(tmp_path)()
    Demo(tmp_path)()
    lines.clear()
    assert Demo(tmp_path, tokens=1000)() == 0
    assert [words[0] for words in lines] == ["train"]


def test_a_foreign_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / demo.RECORD).write_text('{"seconds": [1]}')
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "is not what `saeworks demo` wrote; delete it" in capsys.readouterr().err


def test_what_is_left_goes_by_the_pace_so_far() -> None:
    phases = Demo().phases()
    total = sum(phase.seconds for phase in phases)
    assert total <= 300
    first = phases[0]
    slow = left(phases, {first.line: 2.0 * first.seconds})
    assert slow == f"about {duration(2.0 * (total - first.seconds))} left"


def test_it_ends_with_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS["demo"], "text", {"max_documents": 600, "held_out": 0.2})
    monkeypatch.setitem(PRESETS["demo"]["train"], "batch", 512)
    for name, value in (
        ("PLAN", ("--tokens", 1000, "--max-documents", 100)),
        ("EVAL", ("--tokens", 2000, "--splice-tokens", 500, "--latents", 4)),
        ("AUDIT", (*demo.AUDIT, "--tokens", 3000, "--pursuit", 0, "--codes", 0, "--downstream", 0)),
        ("COMPARE", ("--tokens", 1000)),
        ("CIRCUITS", (*demo.CIRCUITS, "--prompts", 8, "--nodes", 1, 10)),
        ("KNOWN", ("--tokens", 2000, "--k", 1, "--no-baselines")),
    ):
        monkeypatch.setattr(demo, name, value)
    assert main(["demo", "--tokens", "4096", "--out", str(tmp_path / "demo"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["report"]).is_file()
    assert len(found["means"]) == 3 and len(found["seconds"]) == 8
    assert main(["demo", "--tokens", "4096", "--out", str(tmp_path / "demo")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {found['report']}"
