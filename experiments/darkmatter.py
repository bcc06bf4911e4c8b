"""What SAEs miss, audited: the claims of Engels et al. 2024, each under its controls.

    python experiments/darkmatter.py {embedded,real} [{all,train,audit,table}] [--seeds 0 1 2]
        [--parts seeds errors random random-errors]

Trains experiments/darkmatter_<setting>_{layers,layer}.yaml once per seed into
runs/darkmatter_<setting>/seed-<i>, their TopK SAEs once more on the model with random weights, and
SAEs on e, l and u of one of them; audits every suite; and writes
results/darkmatter_<setting>.{json,md,svg}. What counts as reproduced stands in
darkmatter_criteria.md. What is done already is not done again.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shell import saeworks

from saeworks.config import read_yaml
from saeworks.files.access import write_json
from saeworks.results import names
from saeworks.suite import find_suites

HERE = Path(__file__).parent
RUNS = Path("runs")
SEEDS = {"embedded": (0, 1, 2), "real": (0,)}
PARTS = ("seeds", "errors", "random", "random-errors")
RUN_FILES = ("layers", "layer")
COMPONENTS = ("e", "l", "u")
ERROR_WIDTH = 2048
AUDIT = ("--tokens", "300000", "--pursuit", "8192", "--mlp", "65536", "--downstream", "20000")


@dataclass(frozen=True)
class Run:
    """One training run: where it is, what it is of, and the overrides of its file."""

    setting: str
    where: str
    """`seed-<i>`, or `random`."""
    file: str
    """Of `RUN_FILES`."""
    component: str | None = None
    """Of the error of the TopK SAE of the same place, that it is trained on."""

    @property
    def config(self) -> Path:
        return HERE / f"darkmatter_{self.setting}_{self.file}.yaml"

    @property
    def folder(self) -> Path:
        name = self.file if self.component is None else f"error-{self.component}"
        return RUNS / f"darkmatter_{self.setting}" / self.where / name

    @property
    def seed(self) -> int:
        return 0 if self.where == "random" else int(self.where.removeprefix("seed-"))

    def overrides(self) -> list[str]:
        """TopK alone, one SAE per site, where it is a control; one SAE on errors."""
        found = []
        if self.where == "random":
            topk = read_yaml(self.config)["saes"][0]
            found = ["model.random_weights=0", "groups=[per-site]", f"saes=[{json.dumps(topk)}]"]
        if self.component is not None:
            k = read_yaml(self.config)["saes"][0]["k"]
            sae = json.dumps({"arch": "topk", "width": ERROR_WIDTH, "k": k})
            found = [one for one in found if not one.startswith("saes=")]
            found += [f"saes=[{sae}]", f"error.suite={self.of()}"]
            found.append(f"error.component={self.component}")
        return found

    def of(self) -> Path:
        """The suite whose error it is trained on: TopK as wide as the other architectures."""
        run = Run(self.setting, self.where, "layer")
        topk, other, *_ = read_yaml(run.config)["saes"]
        return run.folder / f"topk-w{other['width']}-k{topk['k']}"


def main() -> None:
    """Run the step named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setting", choices=SEEDS)
    parser.add_argument("step", nargs="?", default="all", choices=["all", *STEPS])
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = parser.parse_args()
    given.seeds = given.seeds or SEEDS[given.setting]
    for name, step in STEPS.items():
        if given.step in ("all", name):
            step(given)


def runs(given: argparse.Namespace) -> Iterator[Run]:
    """Those of the parts that are asked for; SAEs on errors of the first seed alone."""
    seeds = [f"seed-{seed}" for seed in given.seeds]
    for part in given.parts:
        if part.endswith("errors"):
            where = "random" if part.startswith("random") else seeds[0]
            yield from errors_of(Run(given.setting, where, "layer"))
        else:
            for where in seeds if part == "seeds" else ["random"]:
                yield from (Run(given.setting, where, file) for file in RUN_FILES)


def train(given: argparse.Namespace) -> None:
    """Every run; a finished one is known by its folder, an interrupted one goes on."""
    for run in runs(given):
        if finished(run):
            print(f"{run.folder} is trained")
            continue
        sets = [part for override in run.overrides() for part in ("--set", override)]
        out = ("--seed", str(run.seed), "--out", str(run.folder))
        saeworks("train", str(run.config), *out, *sets)


def finished(run: Run) -> bool:
    path = run.folder / "run.json"
    return path.exists() and json.loads(path.read_text())["state"] == "finished"


def audit(given: argparse.Namespace) -> None:
    """The suites of a run together, on the same passes of the language model."""
    for run in runs(given):
        if run.component is not None or not finished(run):
            continue
        suites = find_suites(run.folder)
        errors = [e for e in errors_of(run) if run.file == "layer" and finished(e)]
        done = [audited(suite) for suite in suites]
        if all(done) and (not errors or with_errors(run.of())):
            print(f"{run.folder} is audited")
            continue
        extra = ["--error-saes", *(str(e.folder) for e in errors)] if errors else []
        saeworks("audit", *map(str, suites), *AUDIT, *extra, "--json")


def errors_of(run: Run) -> list[Run]:
    """The runs on the errors of one of its suites."""
    return [Run(run.setting, run.where, run.file, component) for component in COMPONENTS]


def audited(suite: Path) -> bool:
    return (suite / "results" / names.AUDIT).exists()


def with_errors(suite: Path) -> bool:
    """Whether its audit knows of SAEs on its error."""
    found = json.loads((suite / "results" / names.AUDIT).read_text())
    return bool(found["sections"].get("error_saes", {}).get("sites"))


def table(given: argparse.Namespace) -> None:
    """What was found, as JSON, Markdown and figures."""
    from darkmatter_figures import figures
    from darkmatter_found import collect
    from darkmatter_tables import write_markdown

    found = collect(given.setting, given.seeds)
    base = given.results / f"darkmatter_{given.setting}"
    write_json(base.with_suffix(".json"), found)
    figures(found, base)
    write_markdown(found, base.with_suffix(".md"))
    print(f"{base}.json, .md, .svg")


STEPS = {"train": train, "audit": audit, "table": table}


if __name__ == "__main__":
    main()
