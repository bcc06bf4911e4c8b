"""What every study does by the command line: train, evaluate, go on where it stopped, write.

A leaf: it imports no study. Commands are run from the repository's root.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from pathlib import Path
from statistics import fmean
from typing import Any

from saeworks.cost.machine import processor

HERE = Path(__file__).parent
RUNS = Path("runs")
"""Where runs are kept, one folder per study."""

DIGITS = 6
"""Significant digits in JSON where no interval asks for more."""
LINE = 300

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
    by_name: Mapping[str, Step],
    results: Path,
    arguments: Sequence[str] | None,
    *,
    seeds: Sequence[int] | Mapping[str, Sequence[int]] = (),
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """Run the step that the command line names, or all of them in turn.

    Args:
        about: the study's docstring; its first line is the help.
        by_name: the steps, in their order.
        results: the folder of what they write.
        arguments: those of the command line, unless given.
        seeds: those of the study, or of each of its settings; where it has settings the command
            line names one.
        options: adds the study's own options.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    if isinstance(seeds, Mapping):
        parser.add_argument("setting", choices=seeds)
    parser.add_argument("step", nargs="?", default="all", choices=["all", *by_name])
    parser.add_argument("--results", type=Path, default=results)
    if seeds:
        parser.add_argument("--seeds", type=int, nargs="+", default=None)
    options(parser)
    given = parser.parse_args(arguments)
    if seeds:
        usual = seeds[given.setting] if isinstance(seeds, Mapping) else seeds
        given.seeds = given.seeds or list(usual)
    for name, step in by_name.items():
        if given.step in ("all", name):
            step(given)


def write(path: Path, found: Any) -> None:
    """Write what was measured as JSON: rounded, and one line for what is short enough."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines(rounded(found)) + "\n")
    print(path)


def lines(value: Any, indent: str = "") -> str:
    """JSON whose objects and lists stand on one line, up to `LINE` characters of it."""
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(flat) <= LINE or not isinstance(value, dict | list):
        return flat
    deeper = indent + " "
    if isinstance(value, dict):
        inner = [f"{json.dumps(k, ensure_ascii=False)}: {lines(value[k], deeper)}" for k in value]
    else:
        inner = [lines(entry, deeper) for entry in value]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}\n{deeper}" + f",\n{deeper}".join(inner) + f"\n{indent}{end}"


def rounded(value: Any) -> Any:
    """Numbers to two digits of their interval's half-width, and at least to `DIGITS` digits: SAEs
    are measured on the same documents, so they differ by less than the interval of either."""
    if isinstance(value, dict):
        if {"value", "low", "high"} <= set(value):
            ends = [value[key] for key in ("value", "low", "high")]
            return value | dict(zip(("value", "low", "high"), to_interval(*ends), strict=True))
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        if len(value) == 3 and all(isinstance(inner, float) for inner in value):
            return to_interval(*value)
        return [rounded(inner) for inner in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def to_interval(value: float | None, low: float | None, high: float | None) -> list[float | None]:
    """A value and its ends, to the digits that the interval carries."""
    width = 0.0 if low is None or high is None else (high - low) / 2
    places = 1 - floor(log10(width)) if width > 0 else -99
    return [
        n if not n else round(n, max(places, DIGITS - 1 - floor(log10(abs(n)))))
        for n in (value, low, high)
    ]


def study(
    about: str,
    file: str,
    arguments: Sequence[str] | None,
    *,
    collect: Callable[[Given], Found],
    table: Callable[[Found, str], str],
    figures: Callable[[Found, Path], None] | None = None,
    before: Mapping[str, Step] | None = None,
    **more: Any,
) -> None:
    """The steps of a study that has one JSON, or one for each setting: those `before`, then
    `collect`, `table` and `figures`.

    Args:
        file: the study's main file, which is named on the command line, too.
        collect: what was measured, for the JSON.
        table: of that and the JSON's name, the Markdown.
        figures: draws it, beside the JSON's path without its ending.
        more: as of `steps`.
    """
    path = Path(file)
    parts = path.relative_to(HERE).with_suffix("").parts
    module = ".".join(["experiments", *(part for part in parts if part != "__main__")])

    def base(given: Given) -> Path:
        return Path(given.results) / getattr(given, "setting", module.rpartition(".")[2])

    def write_json(given: Given) -> None:
        command = " ".join(["python -m", module, *([given.setting] if "setting" in given else [])])
        write(base(given).with_suffix(".json"), {"command": command} | collect(given))

    def write_table(given: Given) -> None:
        found = read(base(given).with_suffix(".json"))
        base(given).with_suffix(".md").write_text(table(found, base(given).name))

    def draw(given: Given) -> None:
        assert figures is not None
        figures(read(base(given).with_suffix(".json")), base(given))

    after = {"collect": write_json, "table": write_table} | ({"figures": draw} if figures else {})
    steps(about, {**(before or {}), **after}, path.parent / "results", arguments, **more)


def run_over_seeds(
    about: str,
    results: Path,
    run: Callable[[int], Any],
    table: Callable[[dict[str, Any]], str],
    arguments: Sequence[str] | None = None,
) -> None:
    """A study that does the same for every seed: `table` makes the Markdown of all the runs."""
    study(
        *(about, str(results.parent / "__main__.py"), arguments),
        collect=lambda given: {"runs": {str(seed): run(seed) for seed in given.seeds}},
        table=lambda found, _: table(found["runs"]),
        seeds=(0, 1, 2),
    )
