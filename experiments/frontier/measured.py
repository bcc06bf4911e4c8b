"""What the frontiers measured, collected from their runs."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.criteria import over_seeds
from experiments.runs import Found, machine, read
from saeworks.suite import find_suites

METRICS = ("fvu", "delta_ce", "l0", "dead_share")
RESULTS = ("reconstruction", "splice")
WITHIN = 0.05
"""A sparsity is at its target when it is this near, relatively."""
SMOOTHED = 5
"""Lines of metrics.jsonl whose L0 is averaged to tell when it has settled."""


def measured(runs: dict[int, Path]) -> Found:
    """Everything the tables and figures show, with what it depends on; `runs` by seed."""
    points = [point for seed, run in runs.items() for point in measurements(run, seed)]
    first = find_suites(next(iter(runs.values())))[0]
    meta = read(first / "suite.json")
    results = [read(first / f"results/{name}.json") for name in RESULTS]
    return {
        "config": meta["config"],
        "seeds": list(runs),
        "tokens": meta["tokens"],
        "epochs": meta["epochs"],
        "seconds": [seconds(run) for run in runs.values()],
        "evaluation": {
            r["evaluation"]: {k: r[k] for k in ("tokens", "documents")} for r in results
        },
        "intervals": "95%, Student's t over seeds"
        if len(runs) > 1
        else "95%, bootstrap over documents",
        "versions": meta["versions"],
        "machine": machine(),
        "points": list(combined(points, [entry["arch"] for entry in meta["config"]["saes"]])),
        "controller": [c for seed, run in runs.items() for c in controllers(run, seed)],
    }


def measurements(run: Path, seed: int) -> Iterator[Found]:
    """Each suite and site of a run: its architecture, its target L0 and its values."""
    for suite in find_suites(run):
        meta = read(suite / "suite.json")
        results = [read(suite / f"results/{name}.json") for name in RESULTS]
        for site in meta["sites"]:
            values = {
                key: value for result in results for key, value in result["sites"][site].items()
            }
            yield {
                "arch": meta["arch"],
                "target": target(suite, site),
                "site": site,
                "seed": seed,
                **{key: values[key] for key in METRICS},
            }


def target(suite: Path, site: str) -> float:
    """The L0 that was asked for: k, or what a controller steers to."""
    group = read(suite / "suite.json")["sites"][site]["group"]
    options = read(suite / "groups" / group / "config.json")["options"]
    return float(options.get("k") or options["target_l0"])


def place(point: Found) -> tuple[str, str, float]:
    """What the seeds of a point have in common."""
    return point["site"], point["arch"], point["target"]


def combined(points: Sequence[Found], archs: Sequence[str]) -> Iterator[Found]:
    """One point per site, architecture and target, with an interval and each seed's own."""
    sites = list(dict.fromkeys(point["site"] for point in points))

    def order(point: Found) -> tuple[int, int, float]:
        return sites.index(point["site"]), archs.index(point["arch"]), point["target"]

    for (site, arch, aim), group in groupby(sorted(points, key=order), key=place):
        seeds = list(group)
        yield {
            "site": site,
            "arch": arch,
            "target": aim,
            **{key: interval([seed[key] for seed in seeds]) for key in METRICS},
            "by_seed": {str(p["seed"]): {key: p[key] for key in METRICS} for p in seeds},
        }


def interval(values: Sequence[Found]) -> Found:
    """The mean of the seeds with its 95% interval; of one seed, its own over documents."""
    if len(values) == 1:
        return dict(values[0])
    return over_seeds([value["value"] for value in values]).record()


def seconds(run: Path) -> float:
    """Wall-clock of the training, from its log."""
    return max(float(line["seconds"]) for suite in find_suites(run)[:1] for line in log(suite))


def log(suite: Path) -> list[dict[str, Any]]:
    """The training lines of a suite's metrics.jsonl."""
    lines = (suite / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == "train"]


def controllers(run: Path, seed: int) -> Iterator[Found]:
    """How each steered SAE came to its target: its curve, and when it stayed within 5%."""
    for suite in find_suites(run):
        lines = log(suite)
        for site in dict.fromkeys(line["site"] for line in lines):
            own = [line for line in lines if line["site"] == site]
            if own[-1].get("sparsity") is None:
                continue
            aim = target(suite, site)
            evaluated = read(suite / "results/reconstruction.json")
            held_out = evaluated["sites"][site]["l0"]["value"]
            yield {
                "site": site,
                "arch": read(suite / "suite.json")["arch"],
                "target": aim,
                "seed": seed,
                "held_out_l0": held_out,
                "deviation": held_out / aim - 1,
                "settled_at_tokens": settled(own, aim),
                "tokens": [line["tokens"] for line in own],
                "l0": [rounded(line["l0"]) for line in own],
                "coefficient": [rounded(line["sparsity"]) for line in own],
            }


def settled(lines: Sequence[dict[str, Any]], aim: float) -> int | None:
    """Tokens from which on the L0, averaged over a few lines, stays at its target."""
    at = None
    for i in range(len(lines)):
        recent = fmean(line["l0"] for line in lines[max(0, i + 1 - SMOOTHED) : i + 1])
        near = abs(recent / aim - 1) <= WITHIN
        at = (at or lines[i]["tokens"]) if near else None
    return at


def rounded(value: float) -> float:
    return float(f"{value:.4g}")
