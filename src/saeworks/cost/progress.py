"""How far some work is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

_BAR_SECONDS, _LINE_SECONDS = 1.0, 10.0


class Progress:
    """Shows the share that is done, a note, the rate and the time that remains.

    Args:
        title: what is done.
        total: how many pieces of work there are.
        say: prints a line.
        unit: what the rate counts.
        each: how many of them a piece of work has.
        terminal: whether to draw a bar; by default, whether stderr is a terminal.
    """

    def __init__(
        self,
        title: str,
        total: int,
        say: Callable[[str], None],
        *,
        unit: str = "tokens",
        each: int = 1,
        terminal: bool | None = None,
    ) -> None:
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self._title, self._total, self._say = title, total, say
        self._unit, self._each = unit, each
        self._done, self._first, self._start = 0, 0, time.monotonic()
        self._shown = float("-inf") if self.terminal else self._start
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self.terminal:
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TextColumn("{task.fields[note]}"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, done: int) -> None:
        """The work begins, with so much of it done before."""
        self._done = self._first = done
        self._start = time.monotonic()

    def advance(self, done: int, note: Callable[[], str] = str) -> None:
        """So much is done in all; `note` is called when it is shown."""
        self._done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        if self._due():
            text = ", ".join(part for part in (note(), self._rate()) if part)
            if self._bar is not None:
                self._bar.update(self._task, note=text)
            else:
                left = duration(self._left())
                self._say(f"{self._title}: {done / self._total:.0%}, {text}, {left} left")

    def add(self, more: int) -> None:
        """So much more is done."""
        self.advance(self._done + more)

    def tell(self, what: str) -> None:
        """Show what is done before the work goes on."""
        if self._due():
            if self._bar is not None:
                self._bar.update(self._task, note=what)
            else:
                self._say(f"{self._title}: {what}")

    def summary(self) -> str:
        """A line for when all is done."""
        seconds = time.monotonic() - self._start
        return f"{self._title}: done in {seconds:.1f} s ({self._rate()})"

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._shown < (_BAR_SECONDS if self.terminal else _LINE_SECONDS):
            return False
        self._shown = now
        return True

    def _per_second(self) -> float:
        return (self._done - self._first) / max(time.monotonic() - self._start, 1e-9)

    def _rate(self) -> str:
        """In whole numbers, but where these would say nothing."""
        rate = self._per_second() * self._each
        return f"{rate:,.0f} {self._unit}/s" if rate >= 10 else f"{rate:.2g} {self._unit}/s"

    def _left(self) -> float:
        rate = self._per_second()
        return (self._total - self._done) / rate if rate else 0.0


def duration(seconds: float) -> str:
    """`3 min 2 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
