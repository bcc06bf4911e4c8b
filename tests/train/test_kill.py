"""A run that is killed again and again ends with the bytes of one that never was."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.fakes import weights

DRIVER = Path(__file__).with_name("kill_driver.py")
KILLS = 10


class Runs:
    """Training processes, one after the other."""

    def __init__(self, driver: "subprocess.Popen[str]") -> None:
        self.driver = driver

    def start(self, out: Path, seed: int = 0) -> int:
        """Begin a run and return its process id."""
        assert self.driver.stdin is not None
        self.driver.stdin.write(f"{out} {seed}\n")
        self.driver.stdin.flush()
        return int(self.line())

    def line(self) -> str:
        assert self.driver.stdout is not None
        return self.driver.stdout.readline().strip()

    def whole(self, out: Path, seed: int = 0) -> float:
        """Run to the end; → seconds."""
        begun = time.monotonic()
        self.start(out, seed)
        assert self.line() == "0"
        return time.monotonic() - begun

    def struck(self, out: Path, after: float, number: int) -> str:
        """Run, send a signal after so many seconds; → the exit status."""
        process = self.start(out)
        time.sleep(after)
        with suppress(ProcessLookupError):  # it has ended already
            os.kill(process, number)
        return self.line()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    command = [sys.executable, str(DRIVER)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        found = Runs(driver)
        assert found.line() == "ready"
        yield found


def digest(out: Path) -> str:
    """One SHA-256 of all weights of a run."""
    found = weights(out)
    assert len(found) == 4
    return hashlib.sha256(b"".join(found[name] for name in sorted(found))).hexdigest()


def said(out: Path) -> str:
    return (out.parent / f"{out.name}.said").read_text()


def test_ten_kills_change_no_byte(runs: Runs, tmp_path: Path):
    seconds = runs.whole(tmp_path / "whole")
    runs.whole(tmp_path / "again")
    runs.whole(tmp_path / "other", seed=1)
    expected = digest(tmp_path / "whole")
    assert digest(tmp_path / "again") == expected
    assert digest(tmp_path / "other") != expected

    moments, kills, killed = random.Random(0), 0, tmp_path / "killed"
    while kills < KILLS:
        # A fifth of the run on average, so that several kills fall on each stretch of it.
        status = runs.struck(killed, moments.uniform(0.0, 0.4) * seconds, signal.SIGKILL)
        kills += status == str(-signal.SIGKILL)
        if status == "0":  # it came to its end before the signal: kill another one
            assert digest(killed) == expected
            killed = tmp_path / f"{killed.name}+"
    runs.whole(killed)
    assert digest(killed) == expected
    assert "resuming" in said(tmp_path / "killed")


def test_a_terminated_process_leaves_a_checkpoint_and_says_how_to_resume(
    runs: Runs, tmp_path: Path
):
    process = runs.start(tmp_path / "run")
    while not (tmp_path / "run" / "checkpoints").is_dir():  # it is at work
        time.sleep(0.02)
    os.kill(process, signal.SIGTERM)
    assert runs.line() == "0"
    assert "run the same command again to resume\ninterrupted\n" in said(tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    runs.whole(tmp_path / "run")
    assert said(tmp_path / "run").endswith("finished\n")
