"""Steps of independent SAEs side by side on the CPU's cores.

One SAE of a usual width does not fill several cores: its matrices are small, and every operation
waits for its slowest thread. Several SAEs, a thread each, do.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import TracebackType
from typing import TypeVar

import torch

Task = TypeVar("Task")


class Workers:
    """Runs jobs on as many threads as torch has, each job on one; or, where there are fewer jobs
    than threads or the device is no CPU, one after the other with all of torch's threads.

    Args:
        jobs: how many jobs there will be at a time.
    """

    def __init__(self, jobs: int, device: torch.device) -> None:
        threads = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None
        if device.type == "cpu" and jobs >= threads > 1:
            ready = Barrier(threads + 1)

            def start() -> None:
                torch.get_num_threads()  # a thread's first use of torch sets it to the default,
                torch.set_num_threads(1)  # which would undo this if it came later
                ready.wait()

            self._pool = ThreadPoolExecutor(threads, "sae", initializer=start)
            for _ in range(threads):
                self._pool.submit(int)
            ready.wait()
            torch.set_num_threads(threads)  # a worker's setting is also the default of new threads

    def run(self, work: Callable[[Task], None], jobs: Iterable[Task]) -> None:
        """Do every job; the first exception of a job is raised here when all have ended."""
        if self._pool is None:
            for job in jobs:
                work(job)
            return
        futures = [self._pool.submit(work, job) for job in jobs]
        errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
