"""Small runs of every source, each in a process of its own: reads a JSON line per run and forks.

A line holds `out`, the run's `config`, `only` (`cache` to write one), and `stop`: None, or a step
and the signal that the process sends itself there. The exit status is printed. One import and one
language model for many processes: both are slow to start.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import datasets

from saeworks.config import ModelConfig, RunConfig, from_mapping
from saeworks.cost.progress import Progress
from saeworks.lm import streaming
from saeworks.lm.model import LanguageModel
from saeworks.train.caching import write_cache
from saeworks.train.job import train_run

INTERRUPTED = 130


def stop_at(last: int, number: int) -> None:
    """Have this process send itself a signal when it has done a step."""
    advance = Progress.advance

    def then(self: Progress, done: int, note: Callable[[], str] = str) -> None:
        advance(self, done, note)
        if done == last:
            os.kill(os.getpid(), number)

    patch.object(Progress, "advance", then).start()


def train(wanted: dict[str, Any]) -> bool:
    out = Path(wanted["out"])
    if wanted["stop"] is not None:
        stop_at(*wanted["stop"])
    config = from_mapping(RunConfig, wanted["config"], "test")
    if wanted.get("only") == "cache":
        return write_cache(config, out, lambda line: None)
    return train_run(config, out, lambda line: None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    streaming.CHARACTERS = 2000  # so that a run has several blocks
    # This process is the whole of it, so that nobody need put back what is set here.
    embedded = LanguageModel.load(ModelConfig())
    patch.object(LanguageModel, "load", lambda *_: embedded).start()
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            sys.stdout = sys.stderr
            os._exit(0 if train(json.loads(line)) else INTERRUPTED)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
