"""Training on a cache beside training on the language model: the embedded model's six sites.

    .venv/bin/python benchmarks/cache.py [--tokens 60000] [--rounds 3]

One run after the other, in turn, in this process; nothing is evaluated on the way. Seconds are of
the whole training loop, the first fill of the ring included, and of the loading before it. That the
SAEs have the same bytes is checked.
"""

import argparse
import os
import statistics
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from saeworks.config import RunConfig, SourceConfig, from_mapping
from saeworks.cost.machine import Neighbours, processor
from saeworks.files.access import read_json, write_json
from saeworks.train.caching import write_cache
from saeworks.train.job import train_run

OUT = Path(__file__).parent / "results" / "cache.json"
WIDTHS = (256, 1024)
"""Of the SAEs: the cheaper a step, the more of a run is the language model's."""


def silent(line: str) -> None:
    """Nobody reads along."""


def configuration(tokens: int, width: int) -> RunConfig:
    return from_mapping(
        RunConfig,
        {
            "saes": [{"arch": "topk", "width": width, "k": 16}],
            "train": {"tokens": tokens, "batch": 2048, "eval_every": 0, "checkpoint_every": 0},
            "text": {"max_documents": 2000},
            "device": "cpu",
        },
        "benchmark",
    )


def timed(config: RunConfig, out: Path) -> dict[str, float]:
    begin = perf_counter()
    assert train_run(config, out, silent)
    seconds = float(read_json(out / "suite.json")["seconds"])
    return {"loop": seconds, "loading": perf_counter() - begin - seconds}


def weights(suite: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(suite.rglob("weights.safetensors"))]


def compared(tokens: int, width: int, rounds: int, cache: Path, folder: Path) -> dict[str, Any]:
    """Seconds of both kinds of run: the median, and all."""
    live = configuration(tokens, width)
    arms = {"live": live, "cached": replace(live, source=SourceConfig(cache=str(cache)))}
    seconds: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm, config in arms.items():
            seconds[arm].append(timed(config, folder / f"{arm}-{width}-{number}"))
    suites = [folder / f"{arm}-{width}-0" for arm in arms]
    loop = {arm: statistics.median(each["loop"] for each in seconds[arm]) for arm in arms}
    return {
        "seconds": seconds,
        "median_loop_seconds": loop,
        "times_faster": loop["live"] / loop["cached"],
        "same_bytes": weights(suites[0]) == weights(suites[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    neighbours = Neighbours()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = perf_counter()
        write_cache(configuration(asked.tokens, WIDTHS[0]), folder / "cache", silent)
        written = perf_counter() - begin
        size = sum(file.stat().st_size for file in (folder / "cache").iterdir())
        by_width = {
            width: compared(asked.tokens, width, asked.rounds, folder / "cache", folder)
            for width in WIDTHS
        }
    quiet, reason = neighbours.verdict()
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "threads": torch.get_num_threads(),
        "quiet": quiet,
        "quiet_reason": reason,
        "sites": 6,
        "tokens": asked.tokens,
        "write": {"seconds": written, "bytes": size},
        "width": by_width,
    }
    write_json(asked.out, result)
    for width, each in by_width.items():
        print(f"width {width}: {each['times_faster']:.2f} times as fast", each["same_bytes"])


if __name__ == "__main__":
    main()
