"""What long evaluations say of themselves."""

import sys
import time

import pytest

from saeworks.measure import progress


def test_lines_name_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 20.0, 25.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    lines: list[str] = []
    with progress.tracker(lines.append)("fits", 4, "SAEs") as tick:
        tick(1)
        tick(2)  # too soon for another line
        tick(1)
        seconds = iter([50.0])
    assert lines == [
        "fits: 25%, 0.05 SAEs/s, 60 s left",
        "fits: 100%, 0.1 SAEs/s, 0 s left",
        "fits: done in 50.0 s (0.08 SAEs/s)",
    ]


def test_tokens_are_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 20.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    lines: list[str] = []
    with progress.tracker(lines.append)("audit, fit", 100_000) as tick:
        tick(50_000)
    assert lines[0] == "audit, fit: 50%, 2,500 tokens/s, 20 s left"
    assert lines[1].startswith("audit, fit: done in 20.0 s (2,500 tokens/s)")


def test_nothing_is_said_where_nobody_listens() -> None:
    with progress.tracker(None)("audit", 1) as tick:
        tick(1)
