"""What long work says of itself."""

import pytest

from saeworks.cost.progress import Progress, duration
from saeworks.measure.progress import tracker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("saeworks.cost.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("saeworks.cost.progress.sys.stderr.isatty", lambda: False)
    return now


def test_a_plain_line_has_note_rate_and_time_left(clock: list[float]):
    lines: list[str] = []
    with Progress("training", 100, lines.append, each=512) as progress:
        progress.begin(0)
        clock[0] = 1.0
        progress.advance(5, lambda: pytest.fail("nothing is shown yet"))
        assert lines == []
        clock[0] = 20.0
        progress.advance(20, lambda: "step 20 of 100, loss 0.25, FVU 0.2")
    assert lines == [
        "training: 20%, step 20 of 100, loss 0.25, FVU 0.2, 512 tokens/s, 1 min 20 s left"
    ]


def test_what_was_done_before_is_not_in_the_rate(clock: list[float]):
    lines: list[str] = []
    with Progress("training", 100, lines.append) as progress:
        clock[0] = 11.0
        progress.tell("reading text 50%")
        clock[0] = 100.0
        progress.begin(50)
        clock[0] = 110.0
        progress.advance(60)
    assert lines == ["training: reading text 50%", "training: 60%, 1 tokens/s, 40 s left"]


def test_the_bar_has_a_note_too():
    with Progress("training", 4, print, terminal=True) as progress:
        progress.begin(0)
        progress.advance(2, lambda: "loss 0.25, FVU 0.2")
        assert progress._bar.tasks[0].fields["note"].startswith("loss 0.25, FVU 0.2, ")


def test_lines_name_what_is_counted(clock: list[float]):
    lines: list[str] = []
    with tracker(lines.append)("fits", 4, "SAEs") as tick:
        clock[0] = 20.0
        tick(1)
        clock[0] = 25.0
        tick(2)  # too soon for another line
        clock[0] = 40.0
        tick(1)
        clock[0] = 50.0
    assert lines == [
        "fits: 25%, 0.05 SAEs/s, 1 min 0 s left",
        "fits: 100%, 0.1 SAEs/s, 0 s left",
        "fits: done in 50.0 s (0.08 SAEs/s)",
    ]


def test_tokens_are_whole_numbers(clock: list[float]):
    lines: list[str] = []
    with tracker(lines.append)("audit, fit", 100_000) as tick:
        clock[0] = 20.0
        tick(50_000)
    assert lines == [
        "audit, fit: 50%, 2,500 tokens/s, 20 s left",
        "audit, fit: done in 20.0 s (2,500 tokens/s)",
    ]


def test_nothing_is_said_where_nobody_listens() -> None:
    with tracker(None)("audit", 1) as tick:
        tick(1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (182.0, "3 min 2 s"), (7321.0, "2 h 2 min")],
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text
