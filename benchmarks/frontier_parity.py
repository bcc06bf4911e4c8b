"""Frontiers of saeworks's Gated, JumpReLU and BatchTopK beside dictionary_learning's trainers.

    .venv/bin/python benchmarks/frontier_parity.py    # needs `make peers` and the small real models

FVU at matched L0, on the same cached activations of a real model, in the same order:

- Data: a layer's activations, centred and scaled by our normaliser to E‖x‖² = D;
  dictionary_learning gets them divided by √D, the scale its `normalize_activations` makes and its
  defaults are for (an FVU does not change with it). The judged site and seeds are not those on
  which anything was tuned: defaults and the centres of the learning-rate grids come from another
  layer and another seed (`--tune`, recorded beside the results).
- Runs: the same width, batch and steps, one epoch; the learning rate's warm-up 5% of the run and
  its decay the last 20%, a latent dead after a tenth. The peer's sparsity warms up over 10%, and
  its BatchTopK averages the threshold over a tenth of the run, from 5% on. All else is each
  package's default. One thread each.
- Sparsities: four each, so that the frontiers span L0 = 16 … 128: k or a target L0, and five L1
  coefficients for the peer's Gated, which has no target and whose L0 they only guess.
- Learning rates: three per trainer and architecture, half a decade apart around the tuning site's
  best; the best is chosen on the judged site, seed 0, at L0 near 28, by the FVU carried to
  a common L0 along FVU ∝ L0^-0.4 (trainers may miss their target by a little). While the best is at
  an edge of what was tried, the next rate is tried, too.
- Measured in inference mode by each package's own encode and forward on held-out documents;
  BatchTopK with its threshold.
- Judged by log FVU, interpolated linearly in log L0, at L0 = 16, 32, 64, 128, where both frontiers
  reach (a run that is worse than one with a lower L0, a collapsed one, is not on its frontier);
  ours over theirs, seed by seed.

Runs that are already in the output are not repeated, so an interrupted benchmark continues.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from parity import REAL, cache
from trainers import ROOT, python_of

from saeworks.cost.machine import processor
from saeworks.files.access import read_json, write_json

OURS, PEER = "saeworks", "dictionary_learning"
ARCHS = ("jumprelu", "gated", "batchtopk")
L0S = (16, 32, 64, 128)
LADDERS = (
    (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    (1.7e-5, 5.5e-5, 1.7e-4, 5.5e-4, 1.7e-3, 5.5e-3, 1.7e-2, 5.5e-2),
)
"""Learning rates half a decade apart; a grid is part of the one that has its centre."""
JUDGED = {"site": "layers.3", "seeds": (0, 1, 2), "out": "frontier_parity.json"}
TUNED = {"site": "layers.1", "seeds": (100,), "out": "frontier_parity_tuning.json"}
Run = dict[str, Any]


@dataclass(frozen=True)
class Frontier:
    """What one trainer and architecture is run with."""

    sparsity_option: str
    sparsities: tuple[float, ...]
    lr: float
    """The best of LADDERS on the tuning site."""
    middle: float = 28
    """The sparsity at which the learning rate is chosen: about L0 = 28."""


FRONTIERS = {
    (OURS, "jumprelu"): Frontier("target_l0", (12, 28, 64, 144), 5.5e-3),
    (PEER, "jumprelu"): Frontier("target_l0", (12, 28, 64, 144), 3e-3),
    (OURS, "gated"): Frontier("target_l0", (12, 28, 64, 144), 5.5e-3),
    (PEER, "gated"): Frontier("l1_penalty", (0.32, 0.235, 0.15, 0.07, 0.042), 1e-2, middle=0.15),
    (OURS, "batchtopk"): Frontier("k", (12, 28, 64, 144), 5.5e-3),
    (PEER, "batchtopk"): Frontier("k", (12, 28, 64, 144), 1e-2),
}


def key_of(trainer: str, arch: str, lr: float, sparsity: float, seed: int) -> Run:
    return {"trainer": trainer, "arch": arch, "lr": lr, "sparsity": sparsity, "seed": seed}


def find(runs: list[Run], key: Run) -> Run | None:
    return next((r for r in runs if key.items() <= r.items()), None)


def at_common_l0(run: Run, l0: float = 32) -> float:
    """The run's FVU carried to a common L0: for runs whose L0 is nearly the same."""
    return float(run["fvu"] * (max(run["l0"], 1e-9) / l0) ** 0.4)


def rates_tried(runs: list[Run], trainer: str, arch: str) -> tuple[list[Run], float | None]:
    """The runs that choose the learning rate, and the choice once all of them are there."""
    frontier = FRONTIERS[trainer, arch]
    middle, seed = frontier.middle, JUDGED["seeds"][0]
    (rates,) = (ladder for ladder in LADDERS if frontier.lr in ladder)
    centre = rates.index(frontier.lr)
    low, high = centre - 1, centre + 1
    while True:
        keys = [key_of(trainer, arch, lr, middle, seed) for lr in rates[low : high + 1]]
        found = [find(runs, key) for key in keys]
        if any(run is None for run in found):
            return keys, None
        scores = [at_common_l0(run) for run in found if run]
        best = low + scores.index(min(scores))
        if best == low > 0:
            low -= 1
        elif best == high < len(rates) - 1:
            high += 1
        else:
            return keys, rates[best]


def plan(runs: list[Run], wanted: list[tuple[str, str]]) -> Iterator[Run]:
    """Every run that the results so far ask for: first the choice of learning rates, then the
    frontiers seed by seed."""
    chosen = {}
    for trainer, arch in wanted:
        keys, chosen[trainer, arch] = rates_tried(runs, trainer, arch)
        yield from keys
    for seed in JUDGED["seeds"]:
        for (trainer, arch), lr in chosen.items():
            for sparsity in FRONTIERS[trainer, arch].sparsities if lr else ():
                yield key_of(trainer, arch, lr or 0.0, sparsity, seed)


def run(key: Run, shared: Run, data: Path) -> Run:
    option = FRONTIERS[key["trainer"], key["arch"]].sparsity_option
    job = {"sparsity_option": option, **shared, **key}
    done = subprocess.run(
        [
            python_of(key["trainer"]),
            str(Path(__file__).with_name("frontier_parity_worker.py")),
            json.dumps(job),
            str(data),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "HF_HUB_OFFLINE": "1",
            "PATH": "/usr/bin:/bin",
        },
    )
    if done.returncode:
        raise RuntimeError(f"{key}:\n{done.stderr}")
    return {**key, "sparsity_option": option, **json.loads(done.stdout)}


def interpolate(runs: list[Run], l0: float) -> float | None:
    """FVU at an L0 on the frontier of some runs; None beyond its ends. A run that is worse than
    one with a lower L0 (it has collapsed) is not on the frontier."""
    points: list[tuple[float, float]] = []
    for l0_of_run, fvu in sorted((r["l0"], r["fvu"]) for r in runs if r["l0"] > 0):
        if not points or fvu < points[-1][1]:
            points.append((l0_of_run, fvu))
    if not points or not points[0][0] <= l0 <= points[-1][0]:
        return None
    x, y = np.log(np.array(points)).T
    return float(np.exp(np.interp(np.log(l0), x, y)))


def frontiers(runs: list[Run], trainer: str, arch: str) -> dict[int, list[Run]]:
    """The runs at the chosen learning rate, by seed; none before it is chosen."""
    _, lr = rates_tried(runs, trainer, arch)
    mine = [r for r in runs if (r["trainer"], r["arch"], r["lr"]) == (trainer, arch, lr)]
    sparsities = FRONTIERS[trainer, arch].sparsities
    by_seed = {
        seed: [r for r in mine if r["seed"] == seed and r["sparsity"] in sparsities]
        for seed in JUDGED["seeds"]
    }
    return {seed: some for seed, some in by_seed.items() if some}


def summary(runs: list[Run]) -> dict[str, Any]:
    """Ours over theirs at each L0: the mean over seeds, the least and the greatest."""
    out: dict[str, Any] = {}
    for arch in ARCHS:
        ours, theirs = (frontiers(runs, trainer, arch) for trainer in (OURS, PEER))
        entry: dict[str, Any] = {
            "lr": {t: rates_tried(runs, t, arch)[1] for t in (OURS, PEER)},
            "at_l0": {},
        }
        every: list[float] = []
        for l0 in L0S:
            pairs = [
                (interpolate(ours[seed], l0), interpolate(theirs[seed], l0))
                for seed in sorted(ours.keys() & theirs.keys())
            ]
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            if both:
                ratios = [a / b for a, b in both]
                every += ratios
                entry["at_l0"][str(l0)] = {
                    OURS: statistics.mean(a for a, _ in both),
                    PEER: statistics.mean(b for _, b in both),
                    "ratio": statistics.mean(ratios),
                    "min": min(ratios),
                    "max": max(ratios),
                    "seeds": len(both),
                }
        entry["mean_ratio"] = statistics.mean(every) if every else None
        out[arch] = entry
    return out


def table(shown: dict[str, Any]) -> str:
    """The summary in Markdown."""
    lines = [
        "| architecture | L0 | FVU, saeworks | FVU, dictionary_learning | ratio (seeds' range) |",
        "|---|---|---|---|---|",
    ]
    for arch, entry in shown.items():
        lines += [
            f"| {arch} | {l0} | {at[OURS]:.4f} | {at[PEER]:.4f} | "
            f"{at['ratio']:.3f} ({at['min']:.3f}–{at['max']:.3f}, {at['seeds']}) |"
            for l0, at in entry["at_l0"].items()
        ]
        if entry["mean_ratio"]:
            lines.append(f"| {arch} | mean | | | {entry['mean_ratio']:.3f} |")
    return "\n".join(lines)


def tuning_keys(args: argparse.Namespace) -> list[Run]:
    """The runs that `--tune` asks for, on the tuning site."""
    trainer, arch = args.tune.split("/")
    frontier = FRONTIERS[trainer, arch]
    (seed,) = TUNED["seeds"]
    options = dict(pair.split("=") for pair in args.option)
    return [
        key_of(trainer, arch, lr, sparsity, seed)
        | {"options": {name: json.loads(value) for name, value in options.items()}}
        for lr in args.lrs or [frontier.lr]
        for sparsity in args.sparsities or frontier.sparsities
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=REAL / "tinystories-neox-6L256")
    parser.add_argument("--text", type=Path, default=REAL / "text" / "tinystories_train.txt")
    sizes = {"width": 1024, "batch": 1024, "steps": 1000, "jobs": 4}
    sizes |= {"rows": 1_024_000, "held-out": 98_304}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", nargs="+", default=[], help="such as dictionary_learning/gated")
    parser.add_argument("--tune", help="runs on the tuning site, such as saeworks/gated")
    parser.add_argument("--lrs", type=float, nargs="+", help="with --tune")
    parser.add_argument("--sparsities", type=float, nargs="+", help="with --tune")
    parser.add_argument("--option", nargs="+", default=[], help="with --tune: name=value")
    parser.add_argument("--data", type=Path, default=ROOT / "runs" / "frontier_parity")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    kind = TUNED if args.tune else JUDGED
    out = args.results / kind["out"]
    data = args.data / kind["site"]
    d = cache(data, args.model, args.text, kind["site"], args.rows, args.held_out)
    shared = {"d": d, "width": args.width, "batch": args.batch, "steps": args.steps}
    runs = earlier(out, shared)
    names = [pair for pair in FRONTIERS if not args.only or "/".join(pair) in args.only]
    fixed = tuning_keys(args) if args.tune else None

    def finished(result: Run) -> None:
        runs[:] = [*earlier(out, shared), result]  # another call may have added to it
        record(out, args, kind, shared, runs)
        print(
            f"{result['trainer']:20} {result['arch']:10} lr {result['lr']:.0e}  "
            f"{result['sparsity_option']} {result['sparsity']:<6g} seed {result['seed']}  "
            f"L0 {result['l0']:.1f}  FVU {result['fvu']:.4f}  dead {result['dead']:.2f}  "
            f"{result['seconds']:.0f} s  {result.get('options') or ''}",
            file=sys.stderr,
        )

    with ThreadPoolExecutor(args.jobs) as pool:
        going: dict[Future[Run], Run] = {}
        failed: list[Run] = []
        while True:
            for key in fixed if fixed is not None else plan(runs, names):
                waiting = key not in failed and key not in going.values()
                if len(going) < args.jobs and waiting and find(runs, key) is None:
                    going[pool.submit(run, key, shared, data)] = key
            if not going:
                break
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                key = going.pop(future)
                if error := future.exception():
                    print(error, file=sys.stderr)  # the others are worth having
                    failed.append(key)
                else:
                    finished(future.result())
    if not args.tune:
        record(out, args, kind, shared, runs)
        print(table(summary(runs)))


def earlier(out: Path, shared: Run) -> list[Run]:
    """The runs of an earlier call, which must have had the same sizes."""
    if not out.exists():
        return []
    before = read_json(out)
    if before["shared"] != shared:
        raise SystemExit(f"{out} holds runs of {before['shared']}, not {shared}: choose --results")
    return list(before["runs"])


def record(out: Path, args: argparse.Namespace, kind: Run, shared: Run, runs: list[Run]) -> None:
    lines = (ROOT / "benchmarks" / "peers.txt").read_text().split()
    order = sorted(runs, key=lambda r: (r["arch"], r["trainer"], r["seed"], r["sparsity"], r["lr"]))
    write_json(
        out,
        {
            "command": "python benchmarks/frontier_parity.py",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "processor": processor(),
            "cores": os.cpu_count(),
            "versions": dict(line.split("==") for line in lines),
            "model": args.model.name,
            "text": args.text.name,
            "site": kind["site"],
            "shared": shared,
            "training_tokens": args.steps * args.batch,
            "distinct_rows": args.rows,
            "held_out_rows": args.held_out,
            **({} if kind is TUNED else {"summary": summary(runs)}),
            "runs": order,
        },
    )


if __name__ == "__main__":
    main()
