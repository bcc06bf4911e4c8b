"""Progress of long evaluations: a bar on a terminal, plain lines elsewhere, or nothing."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol, runtime_checkable

Tick = Callable[[int], None]
"""Called with the number of tokens (or what else is counted) just done."""


@runtime_checkable
class Tracker(Protocol):
    """Opened with what is being done, and how many tokens it will go over in all its passes."""

    def __call__(
        self, title: str, total: int, unit: str = "tokens"
    ) -> AbstractContextManager[Tick]: ...


_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def silent(title: str, total: int, unit: str = "tokens") -> Iterator[Tick]:
    """A tracker that shows nothing."""
    yield lambda done: None


def tracker(say: Callable[[str], None] | None) -> Tracker:
    """A bar on stderr where that is a terminal, with rate and remaining time; else lines to `say`.

    With `say` None it shows nothing.
    """
    if say is None:
        return silent
    return _bar if sys.stderr.isatty() else partial(_lines, say)


@contextmanager
def _bar(title: str, total: int, unit: str = "tokens") -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task: TaskID = progress.add_task(title, total=total, rate="")
        start, done = time.monotonic(), 0

        def tick(more: int) -> None:
            nonlocal done
            done += more
            rate = done / max(time.monotonic() - start, 1e-9)
            progress.update(task, completed=done, rate=f"{_count(rate)} {unit}/s")

        yield tick


@contextmanager
def _lines(
    say: Callable[[str], None], title: str, total: int, unit: str = "tokens"
) -> Iterator[Tick]:
    start = last = time.monotonic()
    done = 0

    def tick(more: int) -> None:
        nonlocal done, last
        done += more
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = done / (now - start)
        left = (total - done) / rate
        say(f"{title}: {done / total:.0%}, {_count(rate)} {unit}/s, {left:.0f} s left")

    yield tick
    seconds = time.monotonic() - start
    say(f"{title}: done in {seconds:.1f} s ({_count(done / max(seconds, 1e-9))} {unit}/s)")


def _count(rate: float) -> str:
    """Whole numbers, but where they would say nothing."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
