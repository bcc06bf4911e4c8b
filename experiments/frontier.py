"""FVU–L0 and ΔCE–L0 frontiers of every architecture, on the same tokens of one pass.

    python experiments/frontier.py {embedded,real} [{all,train,evaluate,table}] [--seeds 0 1 2]
        [--set key=value ...]

Trains experiments/frontier_<setting>.yaml once per seed into runs/frontier_<setting>/seed-<i>,
evaluates every suite, and writes results/frontier_<setting>.{json,md,svg} and, for the
architectures whose sparsity is steered to a target, results/frontier_<setting>_controller.svg.
What is done already is not done again, and an interrupted run goes on where it stopped.
"""

import argparse
import json
import math
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student
from shell import saeworks

from saeworks.cost.machine import processor
from saeworks.suite import find_suites

HERE = Path(__file__).parent
RUNS = Path("runs")
SEEDS = {"embedded": (0, 1, 2), "real": (0,)}
SPLICE_TOKENS = {"embedded": 30_000, "real": 20_000}
METRICS = ("fvu", "delta_ce", "l0", "dead_share")
WITHIN = 0.05
"""A sparsity is at its target when it is this near, relatively."""
SMOOTHED = 5
"""Lines of metrics.jsonl whose L0 is averaged to tell when it has settled."""

Point = dict[str, Any]


def main() -> None:
    """Run the step named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setting", choices=SEEDS)
    parser.add_argument("step", nargs="?", default="all", choices=["all", *STEPS])
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--set", action="append", default=[], help="as of `saeworks train`")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = parser.parse_args()
    given.seeds = given.seeds or SEEDS[given.setting]
    for name, step in STEPS.items():
        if given.step in ("all", name):
            step(given)


def folder(given: argparse.Namespace, seed: int) -> Path:
    return Path(given.runs / f"frontier_{given.setting}" / f"seed-{seed}")


def train(given: argparse.Namespace) -> None:
    """One run per seed; a finished or interrupted one is known by its folder."""
    for seed in given.seeds:
        run = folder(given, seed) / "run.json"
        if run.exists() and json.loads(run.read_text())["state"] == "finished":
            print(f"{run.parent} is trained")
            continue
        overrides = [part for override in given.set for part in ("--set", override)]
        config = str(HERE / f"frontier_{given.setting}.yaml")
        saeworks("train", config, "--seed", str(seed), "--out", str(run.parent), *overrides)


def evaluate(given: argparse.Namespace) -> None:
    """The suites of a seed together, on the same passes of the language model."""
    for seed in given.seeds:
        suites = find_suites(folder(given, seed))
        left = [str(suite) for suite in suites if not (suite / "results/splice.json").exists()]
        if left:
            tokens = ("--tokens", "100000", "--splice-tokens", str(SPLICE_TOKENS[given.setting]))
            saeworks("eval", *left, *tokens, "--latents", "0", "--json")


def table(given: argparse.Namespace) -> None:
    """What was measured, as JSON, Markdown and figures."""
    from frontier_figures import controller_figure, frontier_figure, write_markdown

    found = collect(given)
    base = given.results / f"frontier_{given.setting}"
    base.parent.mkdir(parents=True, exist_ok=True)
    base.with_suffix(".json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    frontier_figure(found, base.with_suffix(".svg"))
    controller_figure(found, base.with_name(f"{base.name}_controller.svg"))
    write_markdown(found, base.with_suffix(".md"))
    print(f"{base}.json, .md, .svg")


STEPS = {"train": train, "evaluate": evaluate, "table": table}


def collect(given: argparse.Namespace) -> dict[str, Any]:
    """Everything the tables and figures show, with what it depends on."""
    measured = [point for seed in given.seeds for point in measurements(folder(given, seed), seed)]
    suites = [suite for seed in given.seeds for suite in find_suites(folder(given, seed))]
    meta = json.loads((suites[0] / "suite.json").read_text())
    results = [json.loads((suites[0] / f"results/{name}.json").read_text()) for name in RESULTS]
    return {
        "command": f"python experiments/frontier.py {given.setting}",
        "config": meta["config"],
        "seeds": list(given.seeds),
        "tokens": meta["tokens"],
        "epochs": meta["epochs"],
        "seconds": [seconds(folder(given, seed)) for seed in given.seeds],
        "evaluation": {
            r["evaluation"]: {k: r[k] for k in ("tokens", "documents")} for r in results
        },
        "intervals": "95%, Student's t over seeds"
        if len(given.seeds) > 1
        else "95%, bootstrap over documents",
        "versions": meta["versions"],
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "points": list(combined(measured, [entry["arch"] for entry in meta["config"]["saes"]])),
        "controller": [c for seed in given.seeds for c in controllers(folder(given, seed), seed)],
    }


RESULTS = ("reconstruction", "splice")


def measurements(run: Path, seed: int) -> Iterator[Point]:
    """Each suite and site of a run: its architecture, its target L0 and its values."""
    for suite in find_suites(run):
        meta = json.loads((suite / "suite.json").read_text())
        results = [json.loads((suite / f"results/{name}.json").read_text()) for name in RESULTS]
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
    group = json.loads((suite / "suite.json").read_text())["sites"][site]["group"]
    options = json.loads((suite / "groups" / group / "config.json").read_text())["options"]
    return float(options.get("k") or options["target_l0"])


def place(point: Point) -> tuple[str, str, float]:
    """What the seeds of a point have in common."""
    return point["site"], point["arch"], point["target"]


def combined(measured: Sequence[Point], archs: Sequence[str]) -> Iterator[Point]:
    """One point per site, architecture and target, with an interval and each seed's own."""
    sites = list(dict.fromkeys(point["site"] for point in measured))

    def order(point: Point) -> tuple[int, int, float]:
        return sites.index(point["site"]), archs.index(point["arch"]), point["target"]

    for (site, arch, aim), group in groupby(sorted(measured, key=order), key=place):
        seeds = list(group)
        yield {
            "site": site,
            "arch": arch,
            "target": aim,
            **{key: interval([seed[key] for seed in seeds]) for key in METRICS},
            "by_seed": {str(p["seed"]): {key: p[key] for key in METRICS} for p in seeds},
        }


def interval(values: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """The mean of the seeds with its 95% interval; of one seed, its own over documents."""
    if len(values) == 1:
        return dict(values[0])
    numbers = [value["value"] for value in values]
    half = float(student.ppf(0.975, len(numbers) - 1)) * stdev(numbers) / math.sqrt(len(numbers))
    return {"value": fmean(numbers), "low": fmean(numbers) - half, "high": fmean(numbers) + half}


def seconds(run: Path) -> float:
    """Wall-clock of the training, from its log."""
    return max(line["seconds"] for suite in find_suites(run)[:1] for line in log(suite))


def log(suite: Path) -> list[dict[str, Any]]:
    """The training lines of a suite's metrics.jsonl."""
    lines = (suite / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == "train"]


def controllers(run: Path, seed: int) -> Iterator[dict[str, Any]]:
    """How each steered SAE came to its target: its curve, and when it stayed within 5%."""
    for suite in find_suites(run):
        lines = log(suite)
        for site in dict.fromkeys(line["site"] for line in lines):
            own = [line for line in lines if line["site"] == site]
            if own[-1].get("sparsity") is None:
                continue
            aim = target(suite, site)
            measured = json.loads((suite / "results/reconstruction.json").read_text())
            held_out = measured["sites"][site]["l0"]["value"]
            yield {
                "site": site,
                "arch": json.loads((suite / "suite.json").read_text())["arch"],
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


if __name__ == "__main__":
    main()
