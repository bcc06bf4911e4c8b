"""Which layers are alike: `saeworks plan` on every small real model and the embedded one.

    python -m experiments.plans [{all,collect,table,figures}] [--models NAME ...] [--tokens 500000]

Writes results/<model>.json (the plan) and .svg (heat maps, raw and mean-centred, and the AMAD
curve), and results/plans.md, the table of all.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments.runs import RUNS, Given, saeworks, steps
from experiments.tables import layer, table
from saeworks.groups.partition import curve
from saeworks.results.plan import Plan

HERE = Path(__file__).parent
REAL = Path(os.environ.get("SAEWORKS_REAL_DATA", "../shared/models"))
"""Relative, since a plan records it."""
OPTIONS = {
    "embedded": [],
    "tinystories-neox-6L256": ["--context", "256"],
    "stories260K": ["--context", "256"],
    "tinystories-656K": ["--context", "256", "--last"],
}
"""Of a model with two layers the last one has to stay, or there is nothing to compare."""


def collect(given: Given) -> None:
    """Make the plans."""
    for model in given.models:
        source = ["--model", model]
        if model != "embedded":
            text = REAL / "text" / "tinystories_train.txt"
            source = ["--model", str(REAL / model), "--text", str(text)]
        out = RUNS / f"plan-{model}"
        saeworks("plan", *source, "--tokens", str(given.tokens), "--out", out, *OPTIONS[model])
        shutil.copy(out / "plan.json", given.results / f"{model}.json")


def plans(results: Path) -> dict[str, Plan]:
    return {path.stem: Plan.read(path) for path in sorted(results.glob("*.json"))}


def tabulate(given: Given) -> None:
    (given.results / "plans.md").write_text(markdown(plans(given.results)))


def draw(given: Given) -> None:
    from experiments.plans.figures import figure

    for name, plan in plans(given.results).items():
        figure(plan, given.results / f"{name}.svg")


def markdown(plans: dict[str, Plan]) -> str:
    head = ("model", "layers", "tokens", "Ĝ", "groups", "AMAD by G", "the same, centred")
    rows = []
    for name, plan in plans.items():
        groups = "; ".join(", ".join(map(layer, sites)) for sites in plan.groups.values())
        curves = [
            " ".join(f"{point.amad:.3f}" for point in points)
            for points in (plan.curve, curve(plan.distances.centred))
        ]
        rows.append([name, len(plan.sites), f"{plan.tokens:,}", len(plan.groups), groups, *curves])
    lines = [
        "# Which layers are alike",
        "",
        "Made by `python -m experiments.plans`: mean angle between the residual streams of two "
        "layers, in half turns; groups by complete linkage on the raw distances, the fewest whose "
        "AMAD is below the threshold. The last layer is left out (but for the model that has two).",
        "",
        *table(head, rows),
        "",
        *(f"![{name}]({name}.svg)" for name in plans),
    ]
    return "\n".join(lines) + "\n"


STEPS = {"collect": collect, "table": tabulate, "figures": draw}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=list(OPTIONS), choices=OPTIONS)
    parser.add_argument("--tokens", type=int, default=500_000)


def main(arguments: Sequence[str] | None = None) -> None:
    steps(__doc__, STEPS, HERE / "results", arguments, options=options)


if __name__ == "__main__":
    main()
