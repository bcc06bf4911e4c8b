"""Where a whole run's time goes: the language model alone, the SAEs' steps alone, both together.

    .venv/bin/python benchmarks/stages.py --model ../shared/models/tinystories-neox-6L256 \\
        --text ../shared/models/text/tinystories_valid.txt

One process with the trainer's own parts. A cycle reads as many tokens as the ring holds and steps
every SAE on them; cycles in which reading and steps take turns (which gives each one's seconds
alone) alternate with cycles in which they overlap, so that a busy neighbour meets both. The peers'
whole pipelines beside ours are in `pipelines.py`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

from saeworks.config import RunConfig, from_mapping
from saeworks.cost.machine import Neighbours, peak_bytes, processor
from saeworks.files.access import write_json
from saeworks.train.live_job import LiveJob
from saeworks.train.trainer import Trainer
from saeworks.train.workers import Workers

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Cycle:
    """Seconds of one cycle.

    Attributes:
        read: waiting for rows (in turns: the language model alone).
        draw: rows from the ring.
        step: SAEs' batches and steps.
        whole: all of it, by the clock.
        processor: seconds of all cores in this process.
    """

    read: float
    draw: float
    step: float
    whole: float
    processor: float


def cycle(trainer: Trainer, workers: Workers, device: torch.device) -> Cycle:
    """Draw and step until the ring is used up, then fill it anew."""
    source, state = trainer.source, trainer.state
    spent = {"read": 0.0, "draw": 0.0, "step": 0.0}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin = perf_counter()
        result = work()
        if device.type == "cuda" and not workers.reading.ahead:
            torch.cuda.synchronize()
        spent[name] += perf_counter() - begin
        return result

    begin, used = perf_counter(), process_time()
    for _ in range(source.describe()["slots"] // source.batch):
        rows = timed("draw", lambda: next(source))
        timed("step", partial(trainer._train, rows, workers))
        state.step += 1
        trainer._refuse_nonfinite()
    timed("read", source.describe)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Cycle(**spent, whole=perf_counter() - begin, processor=process_time() - used)


def measured(config: RunConfig, rounds: int) -> dict[str, Any]:
    job = LiveJob.prepare(config)
    with ExitStack() as stack:
        out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trainer = job._trainer(out, lambda line: None, lambda finished: None)
        workers = stack.enter_context(Workers(len(trainer._learners), job.device))
        reading = workers.reading
        could = reading.ahead
        trainer.source.read_in(reading)
        trainer.state.initialise(config.buffer, config.train.batch, lambda line: None)
        facts = trainer.source.describe()
        neighbours = Neighbours()
        cycles: dict[str, list[Cycle]] = {"in turns": [], "together": []}
        for number in range(2 * rounds + 1):
            name = "together" if could and number % 2 == 0 else "in turns"
            reading.ahead = name == "together"  # type: ignore[misc]
            took = cycle(trainer, workers, job.device)
            if number:  # the first one warms up
                cycles[name].append(took)
            print(f"{name:9s}  {json.dumps({k: round(v, 2) for k, v in asdict(took).items()})}")
        quiet, reason = neighbours.verdict()
    layer_tokens = facts["slots"] * len(job.widths)
    turns = cycles["in turns"]
    alone = _median(turns, lambda c: c.read) + _median(turns, lambda c: c.draw + c.step)
    return {
        "slots": facts["slots"],
        "seconds": {
            name: {
                part: _spread([asdict(c)[part] for c in some])
                for part in ("read", "draw", "step", "whole", "processor")
            }
            for name, some in cycles.items()
            if some
        },
        "layer_tokens_per_second": {
            name: layer_tokens / _median(some, lambda c: c.whole)
            for name, some in cycles.items()
            if some
        },
        "together_of_alone": {
            name: _median(some, lambda c: c.whole) / alone for name, some in cycles.items() if some
        },
        "cycles": {name: [asdict(c) for c in some] for name, some in cycles.items()},
        "peak_rss_bytes": peak_bytes(),
        "quiet": quiet,
        "quiet_reason": reason,
    }


def _median(cycles: list[Cycle], of: Callable[[Cycle], float]) -> float:
    return statistics.median(of(c) for c in cycles)


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--text", default="embedded")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--memory", default="192MiB", help="of the ring")
    parser.add_argument("--dtype", default="float32", help="of the language model")
    parser.add_argument("--lm-batch", type=int, help="tokens of a pass; by default the run's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/stages.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    buffer = {"memory": given.memory}
    if given.lm_batch:
        buffer["lm_batch"] = given.lm_batch
    run = {
        "model": {"name": given.model, "dtype": given.dtype},
        "text": {"source": given.text},
        "saes": [{"arch": "topk", "width": given.width, "k": given.k}],
        "buffer": buffer,
        "train": {"tokens": 100_000_000, "batch": given.batch, "eval_every": 0},
        "device": given.device,
    }
    results = measured(from_mapping(RunConfig, run, "benchmark"), given.rounds)
    write_json(
        given.out,
        {
            "benchmark": " ".join(["python benchmarks/stages.py", *sys.argv[1:]]),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": given.threads,
            "torch": torch.__version__,
            **results,
        },
    )


if __name__ == "__main__":
    main()
