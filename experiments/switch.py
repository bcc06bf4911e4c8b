"""Switch SAEs beside TopK: fixed width, equal FLOPs, widths, balance, routers, batches, sites.

    python experiments/switch.py [{all,train,evaluate,geometry,time,table}] [--parts seeds ...]

Trains experiments/switch_<part>.yaml into runs/switch/<part>/seed-<i> (`seeds` and `rates` with
three seeds; `batch` once per batch size), evaluates every suite on the same held-out tokens,
measures loads and duplicates, times steps of every arm in turn, and writes
results/switch.{json,md} and figures. What counts as reproduced stands in switch_criteria.md. What
is done already is not done again.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shell import saeworks

from saeworks.files.access import write_json
from saeworks.suite import find_suites

HERE = Path(__file__).parent
RUNS = Path("runs/switch")
EVALUATION = ("--tokens", "100000", "--splice-tokens", "20000")
"""Held-out tokens of reconstruction and of splice."""


@dataclass(frozen=True)
class Run:
    """One training run: its part, seed, and batch size where it is not the part's own."""

    part: str
    seed: int = 0
    batch: int | None = None

    @property
    def folder(self) -> Path:
        return RUNS / self.part / (f"batch-{self.batch}" if self.batch else f"seed-{self.seed}")

    @property
    def config(self) -> Path:
        return HERE / f"switch_{self.part}.yaml"


ALL = (
    Run("seeds", 0),
    Run("sweeps"),
    Run("seeds", 1),
    Run("seeds", 2),
    Run("others"),
    Run("sites"),
    Run("group"),
    *(Run("batch", 0, batch) for batch in (8192, 2048, 1024)),
    *(Run("rates", seed) for seed in (0, 1, 2)),
    Run("long"),
)
"""In the order in which they are trained."""


def main() -> None:
    """Run the step named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", nargs="?", default="all", choices=["all", *STEPS])
    parser.add_argument("--parts", nargs="+", default=None, choices={run.part for run in ALL})
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = parser.parse_args()
    for name, step in STEPS.items():
        if given.step in ("all", name):
            step(given)


def chosen(given: argparse.Namespace) -> Iterator[Run]:
    return (run for run in ALL if given.parts is None or run.part in given.parts)


def finished(run: Run) -> bool:
    state = run.folder / "run.json"
    return state.exists() and json.loads(state.read_text())["state"] == "finished"


def train(given: argparse.Namespace) -> None:
    """Every run of the chosen parts."""
    for run in chosen(given):
        if finished(run):
            print(f"{run.folder} is trained")
            continue
        sets = ("--set", f"train.batch={run.batch}") if run.batch else ()
        saeworks("train", str(run.config), "--seed", str(run.seed), "--out", str(run.folder), *sets)


def evaluate(given: argparse.Namespace) -> None:
    """The suites of a finished run together, on the same passes of the language model."""
    for run in filter(finished, chosen(given)):
        left = [
            str(suite)
            for suite in find_suites(run.folder)
            if not (suite / "results/splice.json").exists()
        ]
        if left:
            saeworks("eval", *left, *EVALUATION, "--latents", "0", "--json")


def geometry(given: argparse.Namespace) -> None:
    """Loads of experts and near-equal latents of every evaluated suite."""
    from switch_geometry import measure

    for run in filter(finished, chosen(given)):
        suites = [s for s in find_suites(run.folder) if not (s / "switch.json").exists()]
        for suite, values in measure(suites):
            write_json(suite / "switch.json", values)
            print(suite / "switch.json")


def timed(given: argparse.Namespace) -> None:
    """Seconds of a step of every arm, all in turn, one thread each."""
    from switch_time import measure

    path = given.results / "switch_time.json"
    if not path.exists():
        write_json(path, measure([Run(part).config for part in ("seeds", "sweeps")]))
    print(path)


def table(given: argparse.Namespace) -> None:
    """What was measured, as JSON, Markdown and figures."""
    from switch_figures import figures
    from switch_table import collect, write_markdown

    found = collect([run for run in chosen(given) if finished(run)], given.results)
    base = given.results / "switch"
    write_json(base.with_suffix(".json"), found)
    figures(found, base)
    write_markdown(found, base.with_suffix(".md"))
    print(f"{base}.json, .md, .svg")


STEPS = {
    "train": train,
    "evaluate": evaluate,
    "geometry": geometry,
    "time": timed,
    "table": table,
}


if __name__ == "__main__":
    main()
