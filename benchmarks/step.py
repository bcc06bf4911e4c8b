"""One TopK training step of saeworks beside its peers', interleaved.

    .venv/bin/python benchmarks/step.py            # the size of the claim: d 768, M 24576, B 8192

Each trainer lives in its own process; only one works at a time, in turns (saeworks, sparsify,
SAELens, …, saeworks, …), so that what happens to the machine happens to all. Needs `make peers`.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainers import NAMES, ROOT, Options, python_of

from saeworks.cost.machine import processor
from saeworks.files.access import write_json

WARM_UP_STEPS = 2


class Worker:
    """A trainer's process."""

    def __init__(self, name: str, options: Options, threads: int) -> None:
        script = str(Path(__file__).with_name("step_worker.py"))
        self.process = subprocess.Popen(
            [python_of(name), script, name, json.dumps(vars(options)), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                "OMP_NUM_THREADS": str(threads),
                "MKL_NUM_THREADS": str(threads),
                "HF_HUB_OFFLINE": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "PATH": "/usr/bin:/bin",
            },
        )
        self.name = name
        if self._line() != "ready":
            raise SystemExit(f"{name} did not start")

    def step(self, steps: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"step {steps}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        return line

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def measure(names: list[str], options: Options, threads: int, rounds: int) -> dict[str, Any]:
    """All rounds of all trainers."""
    workers = [Worker(name, options, threads) for name in names]
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    steps = {}
    try:
        for worker in workers:
            once = worker.step(WARM_UP_STEPS)["seconds"]
            steps[worker.name] = max(1, round(0.5 / once))
        for number in range(rounds):
            for worker in workers:
                answer = worker.step(steps[worker.name])
                answers[worker.name].append(answer)
                quiet = "" if answer["quiet"] else f"  ({answer['quiet_reason']})"
                print(
                    f"round {number + 1}  {worker.name:20} {answer['seconds']:.3f} s{quiet}",
                    file=sys.stderr,
                )
    finally:
        for worker in workers:
            worker.close()
    return {name: summary(answers[name], options.batch) for name in names}


def summary(rounds: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    seconds = [r["seconds"] for r in rounds]
    return {
        "tokens_per_second": batch / statistics.median(seconds),
        "seconds_per_step": {
            "median": statistics.median(seconds),
            "min": min(seconds),
            "max": max(seconds),
            "rounds": seconds,
        },
        "peak_rss_above_start_bytes": max(r["peak_rss_above_start_bytes"] for r in rounds),
        "rss_at_start_bytes": rounds[0]["rss_at_start_bytes"],
        "quiet": all(r["quiet"] for r in rounds),
        "quiet_reasons": [r["quiet_reason"] for r in rounds],
    }


def ratios(results: dict[str, Any]) -> dict[str, Any]:
    """How many times faster saeworks is than each peer: by round, and their median."""
    if "saeworks" not in results:
        return {}
    ours = results["saeworks"]["seconds_per_step"]["rounds"]
    out = {}
    for name, result in results.items():
        if name != "saeworks":
            theirs = result["seconds_per_step"]["rounds"]
            by_round = [t / o for t, o in zip(theirs, ours, strict=True)]
            out[name] = {
                "of_medians": statistics.median(theirs) / statistics.median(ours),
                "min": min(by_round),
                "max": max(by_round),
                "rounds": by_round,
            }
    return out


def versions() -> dict[str, str]:
    """The peers as they are pinned."""
    lines = (ROOT / "benchmarks" / "peers.txt").read_text().split()
    return dict(line.split("==") for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {"d": 768, "width": 24576, "k": 32, "batch": 8192}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trainers", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "step.json")
    args = parser.parse_args()
    options = Options(args.d, args.width, args.k, args.batch, steps=10_000, lr=1e-4)
    results = measure(args.trainers, options, args.threads, args.rounds)
    shown = " ".join(sys.argv[1:])
    write_json(
        args.out,
        {
            "command": f"python benchmarks/step.py {shown}".strip(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "processor": processor(),
            "python": platform.python_version(),
            "versions": versions(),
            "d": args.d,
            "width": args.width,
            "k": args.k,
            "batch": args.batch,
            "threads": args.threads,
            "dtype": "float32",
            "quiet": all(r["quiet"] for r in results.values()),
            "results": results,
            "saeworks_is_faster_by": ratios(results),
        },
    )
    for name, result in results.items():
        seconds = result["seconds_per_step"]
        print(
            f"{name:20} {result['tokens_per_second']:10.0f} tokens/s  "
            f"{seconds['median']:.3f} s ({seconds['min']:.3f}–{seconds['max']:.3f})  "
            f"+{result['peak_rss_above_start_bytes'] / 2**30:.2f} GiB"
        )
    for name, ratio in ratios(results).items():
        print(f"× {name:18} {ratio['of_medians']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})")


if __name__ == "__main__":
    main()
