"""How far a run is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

_PLAIN_SECONDS = 15.0


class Progress:
    """Shows steps, the last numbers logged, tokens per second and the time that remains.

    Args:
        steps: steps of the run.
        batch: tokens per step.
        say: prints a line.
        terminal: whether to draw a bar; by default, whether stderr is a terminal.

    Attributes:
        numbers: what was logged last, shown beside the steps.
    """

    def __init__(
        self,
        steps: int,
        batch: int,
        say: Callable[[str], None],
        terminal: bool | None = None,
    ) -> None:
        self.numbers = ""
        self._steps, self._batch, self._say = steps, batch, say
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._done, self._first, self._start = 0, 0, time.monotonic()
        self._spoken = self._start
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self._terminal:
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[note]}"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._steps, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, step: int) -> None:
        """Training begins, with `step` steps done before."""
        self._done = self._first = step
        self._start = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def filling(self, share: float) -> None:
        """The source is filling its ring."""
        if self._bar is not None:
            note = f"reading text {share:.0%}" if share < 1 else self._rate()
            self._bar.update(self._task, note=note)
        elif self._due():
            self._say(f"reading text into the ring: {share:.0%}")

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        self._done = step
        note = ", ".join(part for part in (self.numbers, self._rate()) if part)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=note)
        elif self._due():
            self._say(f"step {step:,} of {self._steps:,}, {note}, {self._left()} left")

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._spoken < _PLAIN_SECONDS:
            return False
        self._spoken = now
        return True

    def _per_second(self) -> float:
        seconds = max(time.monotonic() - self._start, 1e-9)
        return (self._done - self._first) / seconds

    def _rate(self) -> str:
        return f"{self._per_second() * self._batch:,.0f} tokens/s"

    def _left(self) -> str:
        steps = self._per_second()
        return duration((self._steps - self._done) / steps if steps else 0.0)


def duration(seconds: float) -> str:
    """`3 min 2 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
