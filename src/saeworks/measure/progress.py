"""Progress of long evaluations, told to whoever wants to know."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol, runtime_checkable

from saeworks.cost.progress import Progress

Tick = Callable[[int], None]
"""Called with the number of tokens (or what else is counted) just done."""


@runtime_checkable
class Tracker(Protocol):
    """Opened with what is being done, and how many tokens it will go over in all its passes."""

    def __call__(
        self, title: str, total: int, unit: str = "tokens"
    ) -> AbstractContextManager[Tick]: ...


@contextmanager
def silent(title: str, total: int, unit: str = "tokens") -> Iterator[Tick]:
    """A tracker that shows nothing."""
    yield lambda done: None


def tracker(say: Callable[[str], None] | None) -> Tracker:
    """A bar on stderr where that is a terminal, with rate and remaining time; else lines to `say`.

    With `say` None it shows nothing.
    """
    return silent if say is None else partial(_shown, say)


@contextmanager
def _shown(
    say: Callable[[str], None], title: str, total: int, unit: str = "tokens"
) -> Iterator[Tick]:
    with Progress(title, total, say, unit=unit) as progress:
        yield progress.add
    if not progress.terminal:
        say(progress.summary())
