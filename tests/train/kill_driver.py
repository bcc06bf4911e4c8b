"""Small runs, each in a process of its own: reads `OUT SEED` lines, forks, prints the pid.

When the process has ended, its exit status is printed. One import for many processes: torch is
slow to start. Steps are slowed a little, and so is each file of a checkpoint, which are written
beside the steps: a kill can fall on any of them.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.fakes import CONFIG, Relay, fake_source, fake_trainer, shorter
from saeworks.activations.base import ActivationBatch
from saeworks.files import access
from saeworks.train import checkpoints


class Slow(Relay):
    """A pause before every batch."""

    def change(self, batch: ActivationBatch) -> ActivationBatch:
        time.sleep(0.01)
        return batch


def slow_writing() -> None:
    """Have each of a checkpoint's files take as long as a step."""
    write = access.write_tensors

    def slowly(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
        time.sleep(0.01)
        return write(path, tensors)

    patch.object(checkpoints, "write_tensors", slowly).start()


def train(out: Path, seed: int) -> None:
    config, source = shorter(CONFIG, tokens=64 * 100), Slow(fake_source(seed))
    (out.parent / f"{out.name}.said").touch()
    with (out.parent / f"{out.name}.said").open("a") as said:
        outcome = fake_trainer(out, config, seed, source, say=lambda line: _say(said, line)).run()
        _say(said, outcome)


def _say(file: TextIO, line: str) -> None:
    print(line, file=file, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    slow_writing()
    print("ready", flush=True)
    for line in sys.stdin:
        folder, number = line.split()
        pid = os.fork()
        if pid == 0:
            train(Path(folder), int(number))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
