"""Where a step's time goes: named stages that cost nothing unless someone measures."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter

_OFF = nullcontext()
_clock: "_Clock | None" = None


class _Clock:
    def __init__(self, synchronise: Callable[[], object]) -> None:
        self.seconds: dict[str, float] = {}
        self.synchronise = synchronise

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        self.synchronise()
        start = perf_counter()
        yield
        self.synchronise()
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start


def stage(name: str) -> AbstractContextManager[None]:
    """Mark a stage: `with stage("encoder"): …`. Stages do not nest."""
    return _OFF if _clock is None else _clock.measure(name)


@contextmanager
def measured(
    synchronise: Callable[[], object] = lambda: None,
) -> Iterator[dict[str, float]]:
    """Collect the seconds of every stage inside, by name.

    Args:
        synchronise: waits for the device, so that its work falls in the stage that queued it.
    """
    global _clock
    outer, _clock = _clock, _Clock(synchronise)
    try:
        yield _clock.seconds
    finally:
        _clock = outer
