"""Steps side by side: a thread each where there are enough of them, and every error is told."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers.fakes import StopAt, fake_source, fake_trainer, weights
from helpers.threads import torch_threads
from saeworks.activations.feed import TextRows
from saeworks.train.workers import Workers

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    with torch_threads(3):
        yield


def threads_seen(jobs: int) -> set[int]:
    """How many threads torch uses inside a job, after the job has used torch."""
    seen = set()

    def work(_: int) -> None:
        x = torch.ones(300, 300)
        (x @ x).sort()
        seen.add(torch.get_num_threads())

    with Workers(jobs, CPU) as workers:
        for _ in range(2):
            workers.run(work, range(jobs))
    return seen


def test_as_many_jobs_as_threads_get_one_each():
    assert threads_seen(3) == {1}
    assert threads_seen(7) == {1}
    assert torch.get_num_threads() == 3


def test_fewer_jobs_get_all_threads_in_turn():
    assert threads_seen(2) == {3}


def test_the_first_error_is_raised_when_all_jobs_have_ended():
    done = []

    def work(job: int) -> None:
        if job == 1:
            raise ValueError("job 1")
        done.append(job)

    with Workers(5, CPU) as workers, pytest.raises(ValueError, match="job 1"):
        workers.run(work, range(5))
    assert sorted(done) == [0, 2, 3, 4]


def test_a_rest_waits_until_nothing_is_read():
    def read() -> TextRows:
        time.sleep(0.05)
        return TextRows({}, torch.arange(3), torch.arange(3))

    with Workers(3, CPU) as workers:
        coming = [workers.reading.submit(read) for _ in range(4)]
        workers.rest()
        assert all(pending.done() for pending in coming)


@pytest.mark.parametrize("at", [9, 26])
def test_a_run_that_reads_beside_its_steps_is_resumed_to_the_bytes(tmp_path: Path, at: int) -> None:
    """Four SAEs on three threads, so that passages are read in between."""
    fake_trainer(tmp_path / "whole").run()
    part = tmp_path / "part"
    stopped = StopAt(fake_source(), at, signal.SIGINT)
    assert fake_trainer(part, source=stopped).run() == "interrupted"
    assert fake_trainer(part).run() == "finished"
    assert weights(part) == weights(tmp_path / "whole")
