"""Where a step's time goes: named stages that cost nothing unless someone measures."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter

_OFF = nullcontext()
_clocks: "list[_Clock]" = []  # the last one runs


class _Clock:
    def __init__(self, synchronise: Callable[[], object]) -> None:
        self.seconds: dict[str, float] = {}
        self.synchronise = synchronise
        self.inside = False

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        if self.inside:
            yield
            return
        self.inside = True
        self.synchronise()
        start = perf_counter()
        yield
        self.synchronise()
        self.inside = False
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start


def stage(name: str) -> AbstractContextManager[None]:
    """Mark a stage: `with stage("encoder"): …`. One within another is part of it."""
    return _clocks[-1].measure(name) if _clocks else _OFF


@contextmanager
def measured(
    synchronise: Callable[[], object] = lambda: None,
) -> Iterator[dict[str, float]]:
    """Collect the seconds of every stage inside, by name.

    Args:
        synchronise: waits for the device, so that its work falls in the stage that queued it.
    """
    _clocks.append(_Clock(synchronise))
    try:
        yield _clocks[-1].seconds
    finally:
        _clocks.pop()
