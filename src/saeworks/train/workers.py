"""Threads of one core each: steps of independent SAEs side by side, and passages of text read where
a thread has nothing else to do.

One SAE of a usual width does not fill several cores, nor does one pass of a small language model:
their matrices are small, and every operation waits for its slowest thread. Several SAEs, and
several passes, a thread each, do.
"""

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from queue import PriorityQueue
from threading import Barrier, Thread
from types import TracebackType
from typing import Any

import torch

from saeworks.activations.feed import (
    InTurn,
    PassageReader,
    Pending,
    SideStream,
    Task,
    TextRows,
    in_turn,
)

_END, _STEP, _READ = range(3)  # what goes first


class Workers:
    """As many threads as torch has on the CPU, which do jobs and read passages.

    Jobs run a thread each, or where there are fewer jobs than threads, or on a GPU, one after the
    other with all of torch's threads. A passage always has one thread, so that its rows are the
    same bytes whether or not it is read beside jobs.

    Args:
        jobs: how many jobs there will be at a time.
    """

    def __init__(self, jobs: int, device: torch.device) -> None:
        threads = torch.get_num_threads()
        self._pool = _Pool(threads) if device.type == "cpu" and threads > 1 else None
        self._beside = self._pool is not None and jobs >= threads
        self.reading: PassageReader = InTurn()
        """Where a source may read."""
        if device.type == "cuda":
            self.reading = SideStream(device)
        elif self._pool is not None:
            self.reading = _PoolReading(self._pool, ahead=self._beside)

    def run(self, work: Callable[[Task], None], jobs: Iterable[Task]) -> None:
        """Do every job; the first exception of a job is raised here when all have ended."""
        do = self._pool.run if self._pool is not None and self._beside else in_turn
        do(work, jobs)

    def rest(self) -> None:
        """Wait until nothing is read: who runs the language model otherwise may change it."""
        if self._pool is not None:
            self._pool.rest()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.end()


class _Pool:
    """Threads with one torch thread each, and what waits for them, the urgent first."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._waiting: PriorityQueue[tuple[int, int, Callable[[], None]]] = PriorityQueue()
        self._count = itertools.count()
        self._open: set[Future[Any]] = set()
        ready = Barrier(threads + 1)
        self._threads = [
            Thread(target=self._work, args=(ready,), name=f"sae-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        ready.wait()
        torch.set_num_threads(threads)  # a worker's setting is also the default of new threads

    def submit(self, order: int, work: Callable[..., Any], *args: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self._open = {other for other in self._open if not other.done()} | {future}

        def do() -> None:
            try:
                future.set_result(work(*args))
            except BaseException as error:
                future.set_exception(error)

        self._waiting.put((order, next(self._count), do))
        return future

    def run(self, work: Callable[[Task], None], jobs: Iterable[Task]) -> None:
        """Do every job before anything is read; as `Workers.run`."""
        futures = [self.submit(_STEP, work, job) for job in jobs]
        errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error

    def rest(self) -> None:
        wait(self._open)

    def end(self) -> None:
        """What has not begun is not done."""
        for _ in self._threads:
            self._waiting.put((_END, next(self._count), _leave))
        for thread in self._threads:
            thread.join()

    def _work(self, ready: Barrier) -> None:
        torch.get_num_threads()  # a thread's first use of torch sets it to the default,
        torch.set_num_threads(1)  # which would undo this if it came later
        ready.wait()
        while True:
            do = self._waiting.get()[2]
            if do is _leave:
                return
            do()


def _leave() -> None:
    """Tells a thread to end."""


class _PoolReading:
    """Reads in a pool's threads, after all jobs that wait."""

    def __init__(self, pool: _Pool, ahead: bool) -> None:
        self._pool, self.ahead = pool, ahead
        self.at_once = 2 * pool.threads  # so that no thread waits for the next to be begun

    def submit(self, read: Callable[[], TextRows]) -> Pending:
        return self._pool.submit(_READ, read)

    def each(self, work: Callable[[str], None], sites: Iterable[str]) -> None:
        # Where the threads are at work, operations of several would wait for them.
        do = self._pool.run if self.ahead else in_turn
        do(work, sites)
