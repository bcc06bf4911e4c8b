"""What SAEs miss, audited: the claims of Engels et al. 2024, each under its controls.

    python -m experiments.darkmatter {embedded,real} [{all,train,audit,collect,table,figures}]
        [--seeds 0 1 2] [--parts seeds errors random random-errors]

Trains <setting>_{layers,layer}.yaml once per seed into runs/darkmatter_<setting>/seed-<i>, their
TopK SAEs once more on the model with random weights, and SAEs on e, l and u of one of them; audits
every suite; and writes results/<setting>.{json,md,svg}. What counts as reproduced stands in
criteria.md. What is done already is not done again.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments import runs
from experiments.darkmatter.tables import markdown
from experiments.darkmatter.trainings import RUN_FILES, Run, errors_of
from experiments.runs import Found, Given, finished, read, saeworks, study
from saeworks.results.names import AUDIT
from saeworks.suite import find_suites

HERE = Path(__file__).parent
SEEDS = {"embedded": (0, 1, 2), "real": (0,)}
PARTS = ("seeds", "errors", "random", "random-errors")
OPTIONS = ("--tokens", "300000", "--pursuit", "8192", "--mlp", "65536", "--downstream", "20000")


def trainings(given: Given) -> Iterator[Run]:
    """Those of the parts that are asked for; SAEs on errors of the first seed alone."""
    seeds = [f"seed-{seed}" for seed in given.seeds]
    for part in given.parts:
        if part.endswith("errors"):
            where = "random" if part.startswith("random") else seeds[0]
            yield from errors_of(Run(given.setting, where, "layer"))
        else:
            for where in seeds if part == "seeds" else ["random"]:
                yield from (Run(given.setting, where, file) for file in RUN_FILES)


def train(given: Given) -> None:
    """Every run; a finished one is known by its folder, an interrupted one goes on."""
    for run in trainings(given):
        runs.train(run.config, run.seed, run.folder, run.overrides())


def audit(given: Given) -> None:
    """The suites of a run together, on the same passes of the language model."""
    for run in trainings(given):
        if run.component is not None or not finished(run.folder):
            continue
        suites = find_suites(run.folder)
        errors = [e.folder for e in errors_of(run) if run.file == "layer" and finished(e.folder)]
        audited = all((suite / "results" / AUDIT).exists() for suite in suites)
        if audited and (not errors or with_errors(run.of())):
            print(f"{run.folder} is audited")
            continue
        extra = ["--error-saes"] if errors else []
        saeworks("audit", *suites, *OPTIONS, *extra, *errors, "--json")


def with_errors(suite: Path) -> bool:
    """Whether its audit knows of SAEs on its error."""
    sections = read(suite / "results" / AUDIT)["sections"]
    return bool(sections.get("error_saes", {}).get("sites"))


def collect(given: Given) -> Found:
    from experiments.darkmatter.measured import measured

    return measured(given.setting, given.seeds)


def draw(found: Found, base: Path) -> None:
    from experiments.darkmatter.figures import figures

    figures(found, base)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)


def main(arguments: Sequence[str] | None = None) -> None:
    study(
        *(__doc__, __file__, arguments),
        collect=collect,
        table=markdown,
        figures=draw,
        before={"train": train, "audit": audit},
        seeds=SEEDS,
        options=options,
    )


if __name__ == "__main__":
    main()
