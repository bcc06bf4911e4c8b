import pytest

from saeworks.train.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("saeworks.train.progress.time.monotonic", lambda: now[0])
    return now


def test_a_plain_line_has_loss_fvu_rate_and_time_left(clock: list[float]):
    said: list[str] = []
    with Progress(100, 512, said.append, terminal=False) as progress:
        progress.begin(0)
        clock[0] = 1.0
        progress.numbers = "loss 0.5, FVU 0.4"
        progress.advance(5)
        assert said == []
        clock[0] = 20.0
        progress.numbers = "loss 0.25, FVU 0.2"
        progress.advance(20)
    assert said == ["step 20 of 100, loss 0.25, FVU 0.2, 512 tokens/s, 1 min 20 s left"]


def test_the_bar_has_them_too(capsys: pytest.CaptureFixture[str]):
    with Progress(4, 512, print, terminal=True) as progress:
        progress.begin(0)
        progress.numbers = "loss 0.25, FVU 0.2"
        progress.advance(2)
        assert progress._bar.tasks[0].fields["note"].startswith("loss 0.25, FVU 0.2, ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (182.0, "3 min 2 s"), (7321.0, "2 h 2 min")],
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text
