"""What every study does by the command line: train, evaluate, go on where it stopped, write.

A leaf: it imports no study. Commands are run from the repository's root.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from saeworks.cost.machine import processor

HERE = Path(__file__).parent
RUNS = Path("runs")
"""Where runs are kept, one folder per study."""

Given = argparse.Namespace
Found = dict[str, Any]
Step = Callable[[Given], None]


def saeworks(*arguments: str | Path) -> None:
    """Run a command of the package; stop with its exit code if it fails."""
    command = [str(argument) for argument in arguments]
    print("$ saeworks", *command, flush=True)
    code = subprocess.run([sys.executable, "-m", "saeworks", *command], check=False).returncode
    if code:
        sys.exit(code)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def sets(overrides: Sequence[str]) -> list[str]:
    """The options that override `key=value` of a configuration."""
    return [part for override in overrides for part in ("--set", override)]


def finished(run: Path) -> bool:
    """Whether the training in this folder came to its end."""
    state = run / "run.json"
    return state.exists() and bool(read(state)["state"] == "finished")


def train(config: Path, seed: int, out: Path, overrides: Sequence[str] = ()) -> None:
    """Train, unless it is done; a run that was interrupted goes on."""
    if finished(out):
        print(f"{out} is trained")
    else:
        saeworks("train", config, "--seed", str(seed), "--out", out, *sets(overrides))


def evaluate(suites: Sequence[Path], *options: str) -> None:
    """Evaluate the suites that are not yet, together: on the same passes of the language model."""
    left = [suite for suite in suites if not (suite / "results/splice.json").exists()]
    if left:
        saeworks("eval", *left, *options, "--latents", "0", "--json")


def site_values(suite: Path) -> dict[str, dict[str, Found]]:
    """Site → metric → value with its interval, of reconstruction and of splice where it is."""
    sites: dict[str, dict[str, Found]] = {}
    for name in ("reconstruction", "splice"):
        path = suite / "results" / f"{name}.json"
        for site, values in read(path)["sites"].items() if path.exists() else ():
            sites.setdefault(site, {}).update(values)
    return sites


def mean_values(suite: Path, *metrics: str) -> dict[str, float]:
    """Metric → its mean over the sites."""
    sites = site_values(suite).values()
    return {metric: fmean(values[metric]["value"] for values in sites) for metric in metrics}


def machine() -> dict[str, Any]:
    return {"processor": processor(), "cores": os.cpu_count()}


def steps(
    about: str,
    steps: Mapping[str, Step],
    results: Path,
    arguments: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] | Mapping[str, Sequence[int]] = (),
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """Run the step that the command line names, or all of them in turn.

    Args:
        about: the study's docstring; its first line is the help.
        steps: by name; `collect` writes JSON from the runs, `table` and `figures` Markdown and SVG
            from the JSON alone.
        results: the folder of these.
        arguments: those of the command line, unless given.
        seeds: those of the study, or of each of its settings; where it has settings the command
            line names one.
        options: adds the study's own options.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    if isinstance(seeds, Mapping):
        parser.add_argument("setting", choices=seeds)
    parser.add_argument("step", nargs="?", default="all", choices=["all", *steps])
    parser.add_argument("--results", type=Path, default=results)
    if seeds:
        parser.add_argument("--seeds", type=int, nargs="+", default=None)
    options(parser)
    given = parser.parse_args(arguments)
    if seeds:
        usual = seeds[given.setting] if isinstance(seeds, Mapping) else seeds
        given.seeds = given.seeds or list(usual)
    for name, step in steps.items():
        if given.step in ("all", name):
            step(given)


def write(path: Path, found: Any) -> None:
    """Write what was measured as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(path)


def run_over_seeds(
    about: str,
    results: Path,
    run: Callable[[int], Any],
    table: Callable[[dict[str, Any]], str],
    arguments: Sequence[str] | None = None,
) -> None:
    """What `python -m experiments.STUDY [{all,collect,table}] [--seeds 0 1 2]` does: run what is
    missing of every seed and write STUDY.json; then, as `table` makes it of all the runs,
    STUDY.md."""
    study = results.parent.name

    def collect(given: Given) -> None:
        runs = {str(seed): run(seed) for seed in given.seeds}
        found = {"command": f"python -m experiments.{study}", "runs": runs}
        write(given.results / f"{study}.json", found)

    def tabulate(given: Given) -> None:
        runs = read(given.results / f"{study}.json")["runs"]
        (given.results / f"{study}.md").write_text(table(runs))

    both = {"collect": collect, "table": tabulate}
    steps(about, both, results, arguments, seeds=(0, 1, 2))
