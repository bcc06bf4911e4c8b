"""One training step of saeworks beside its peers', interleaved.

    .venv/bin/python benchmarks/step.py            # the size of the claim: d 768, M 24576, B 8192
    .venv/bin/python benchmarks/step.py --arch jumprelu --device cuda

Each trainer lives in its own process; only one works at a time, in turns (saeworks, sparsify,
SAELens, …, saeworks, …), so that what happens to the machine happens to all. Needs `make peers`.
`benchmarks/peers.py` runs this for every architecture, and whole pipelines too.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from trainers import ARCHS, NAMES, ROOT, Options, python_of

from saeworks.cost.machine import Neighbours, processor
from saeworks.files.access import write_json

WARM_UP_STEPS = 2
ROUND_SECONDS = 0.5
"""A round is one step, or as many as fill this."""
LARGEST_DIFFERENCE = 1e-3
"""Between a trainer's reconstruction and the definition: float32 with some ties."""
BF16_DIFFERENCE = 0.1
"""The same where products are in bf16, which also selects other latents now and then."""
IDLE_CORES = 0.1


def environment(threads: int, device: str) -> dict[str, str]:
    """Of a process of a trainer: its threads, no network, and no GPU unless it is asked for."""
    keep = {name: os.environ[name] for name in ("HOME", "PYTHONPATH") if name in os.environ}
    return {
        **({} if device.startswith("cuda") else {"CUDA_VISIBLE_DEVICES": ""}),
        **keep,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    }


class Failed(SystemExit):
    """A trainer could not be measured."""


class Worker:
    """A trainer's process."""

    def __init__(
        self, name: str, options: Options, threads: int, arch: str = "topk", device: str = "cpu"
    ) -> None:
        script = str(Path(__file__).with_name("step_worker.py"))
        described = json.dumps(vars(options))
        self.process = subprocess.Popen(
            [python_of(name), script, name, described, str(threads), arch, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads, device),
        )
        self.name = name

    def await_ready(self) -> None:
        """Wait until it has imported its package and made its SAE."""
        if self._line() != "ready":
            raise Failed(f"{self.name} did not start")

    def step(self, steps: int) -> dict[str, Any]:
        """Seconds per step of so many, and how the machine was."""
        return self._ask(f"step {steps}")

    def check(self) -> float:
        """How far its reconstruction is from the architecture's definition, relative to it."""
        return float(self._ask("check")["relative_difference"])

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the answer says that it has ended
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise Failed(f"{self.name} ended with {self.process.wait()}")
        return line

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):  # it may have ended by itself
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)


def await_quiet(patience: float) -> float | None:
    """Wait until the machine is idle, `patience` seconds at most; the cores that were busy last."""
    began = perf_counter()
    while True:
        neighbours = Neighbours()
        sleep(0.5)
        busy = neighbours.busy_cores()
        if busy is None or busy <= IDLE_CORES or perf_counter() - began > patience:
            return busy


def undisturbed(
    work: Callable[[], dict[str, Any]], patience: float, retries: int
) -> dict[str, Any]:
    """A round: begun when the machine is idle, run again where others disturbed it, and marked
    with what was seen where they always did."""
    for attempt in range(retries + 1):
        before = await_quiet(patience)
        answer = work() | {"busy_cores_before": before, "attempts": attempt + 1}
        if answer["quiet"] is not False:
            break
    return answer


def measure(
    names: list[str],
    options: Options,
    threads: int,
    rounds: int,
    arch: str = "topk",
    device: str = "cpu",
    patience: float = 0.0,
    retries: int = 0,
    lenient: bool = False,
) -> dict[str, Any]:
    """All rounds of all trainers; first each is checked to compute what its architecture is.

    Args:
        lenient: leave out who fails, with the reason in the place of results.

    Raises:
        Failed: with the trainer and the reason, if one fails.
    """
    workers = {name: Worker(name, options, threads, arch, device) for name in names}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    steps, differences, failed = {}, {}, {}

    def each(work: Callable[[Worker], None]) -> None:
        for name, worker in workers.items():
            if name in failed:
                continue
            try:
                work(worker)
            except Failed as failure:
                if not lenient:
                    raise
                failed[name] = {"failed": str(failure)}
                print(failure, file=sys.stderr)

    def prepare(worker: Worker) -> None:
        first = worker.step(1)["seconds"]
        once = first if first > 20 * ROUND_SECONDS else worker.step(WARM_UP_STEPS)["seconds"]
        steps[worker.name] = max(1, round(ROUND_SECONDS / once))
        differences[worker.name] = difference = worker.check()
        low = worker.name.endswith(("bf16", "autocast")) or device.startswith("cuda")
        if not difference <= (BF16_DIFFERENCE if low else LARGEST_DIFFERENCE):
            raise Failed(f"{worker.name} is no {arch}: x̂ differs by {difference:.2g}")

    def round_of(worker: Worker) -> None:
        answer = undisturbed(lambda: worker.step(steps[worker.name]), patience, retries)
        answers[worker.name].append(answer)
        quiet = "" if answer["quiet"] else f"  ({answer['quiet_reason']})"
        print(f"{worker.name:20} {answer['seconds']:.4f} s{quiet}", file=sys.stderr, flush=True)

    try:
        each(Worker.await_ready)
        each(prepare)
        for number in range(rounds):
            print(f"round {number + 1}", file=sys.stderr)
            each(round_of)
    finally:
        for worker in workers.values():
            worker.close()
    return {
        name: failed.get(name)
        or summary(answers[name], options.batch) | {"difference": differences[name]}
        for name in names
    }


def summary(rounds: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """Median and range of the rounds, the peak of memory, and who disturbed them."""
    seconds = [r["seconds"] for r in rounds]
    out = {
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
        "busy_cores_before": [r["busy_cores_before"] for r in rounds],
        "attempts": [r["attempts"] for r in rounds],
    }
    if "peak_device_bytes" in rounds[0]:
        out["peak_device_bytes"] = max(r["peak_device_bytes"] for r in rounds)
    return out


def ratios(results: dict[str, Any], ours: str = "saeworks") -> dict[str, Any]:
    """How many times faster `ours` is than each peer: of the medians, and round by round."""
    if "seconds_per_step" not in results.get(ours, {}):
        return {}
    own = results[ours]["seconds_per_step"]["rounds"]
    out = {}
    for name, result in results.items():
        if not name.startswith("saeworks") and "failed" not in result:
            theirs = result["seconds_per_step"]["rounds"]
            by_round = [t / o for t, o in zip(theirs, own, strict=True)]
            out[name] = {
                "of_medians": statistics.median(theirs) / statistics.median(own),
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
    parser.add_argument("--arch", choices=list(ARCHS), default="topk")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--trainers", nargs="+", choices=NAMES, help="default: all that have it")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "step.json")
    args = parser.parse_args()
    options = Options(args.d, args.width, args.k, args.batch, steps=10_000, lr=1e-4)
    names = args.trainers or list(ARCHS[args.arch])
    results = measure(names, options, args.threads, args.rounds, args.arch, args.device)
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
            "arch": args.arch,
            "device": args.device,
            "quiet": all(r["quiet"] for r in results.values()),
            "results": results,
            "saeworks_is_faster_by": ratios(results, names[0]),
        },
    )
    for name, result in results.items():
        seconds = result["seconds_per_step"]
        print(
            f"{name:20} {result['tokens_per_second']:10.0f} tokens/s  "
            f"{seconds['median']:.3f} s ({seconds['min']:.3f}–{seconds['max']:.3f})  "
            f"+{result['peak_rss_above_start_bytes'] / 2**30:.2f} GiB"
        )
    for name, ratio in ratios(results, names[0]).items():
        print(f"× {name:18} {ratio['of_medians']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})")


if __name__ == "__main__":
    main()
