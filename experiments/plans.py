"""Which layers are alike: `saeworks plan` on every small real model and the embedded one.

    python experiments/plans.py [MODEL ...] [--tokens 500000]

Writes results/plans/<model>.json (the plan) and .svg (heat maps, raw and mean-centred, and the
AMAD curve), and results/plans.md, the table of all.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
from frontier_figures import save
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from saeworks.groups.plan import Plan

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(OPTIONS))
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--figures", action="store_true", help="of the plans that are there")
    given = parser.parse_args()
    results = HERE / "results" / "plans"
    results.mkdir(parents=True, exist_ok=True)
    for model in given.models:
        out = Path("runs") / f"plan-{model}"
        if not given.figures:
            measure(model, out, given.tokens)
            shutil.copy(out / "plan.json", results / f"{model}.json")
        figure(Plan.read(results / f"{model}.json"), results / f"{model}.svg")
    table(results)


def measure(model: str, out: Path, tokens: int) -> None:
    real = model != "embedded"
    source = ["--text", str(REAL / "text" / "tinystories_train.txt")] if real else []
    name = str(REAL / model) if real else model
    command = ["plan", "--model", name, *source, "--tokens", str(tokens), "--out", str(out)]
    print("$ saeworks", *command, *OPTIONS[model], flush=True)
    whole = [sys.executable, "-m", "saeworks", *command, *OPTIONS[model]]
    code = subprocess.run(whole, check=False).returncode
    if code:
        sys.exit(code)


def figure(plan: Plan, path: Path) -> None:
    """Both matrices with their values, groups outlined on the one they follow from; the curve."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "plans", "font.size": 9})
    drawing, axes = plt.subplots(
        1, 3, figsize=(10.5, 3.4), layout="constrained", width_ratios=(1, 1, 1.1)
    )
    top = max(*map(max, plan.distances.raw), *map(max, plan.distances.centred))
    for axis, kind in zip(axes, ("raw", "centred"), strict=False):
        heat(axis, plan, kind, top)
    curve(axes[2], plan)
    save(drawing, path)


def heat(axis: Axes, plan: Plan, kind: str, top: float) -> None:
    cells = getattr(plan.distances, kind)
    size = len(cells)
    axis.imshow(cells, cmap="YlGnBu", vmin=0, vmax=top)
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            ink = "white" if value > 0.6 * top else "black"
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=7)
    ticks = range(size)
    axis.set_xticks(ticks, [site.rpartition(".")[2] for site in plan.sites])
    axis.set_yticks(ticks, [site.rpartition(".")[2] for site in plan.sites])
    axis.set_title(f"{kind} (half turns)")
    axis.set_xlabel("layer")
    axis.grid(visible=False)
    if kind == plan.matrix:
        for group in plan.partition:
            outline(axis, set(group))


def outline(axis: Axes, group: set[int]) -> None:
    """The border of a group's cells, which need not be neighbours."""
    for i in group:
        for j in group:
            edges = {
                (i - 1, j): ((j - 0.5, j + 0.5), (i - 0.5, i - 0.5)),
                (i + 1, j): ((j - 0.5, j + 0.5), (i + 0.5, i + 0.5)),
                (i, j - 1): ((j - 0.5, j - 0.5), (i - 0.5, i + 0.5)),
                (i, j + 1): ((j + 0.5, j + 0.5), (i - 0.5, i + 0.5)),
            }
            for (row, column), (x, y) in edges.items():
                if row not in group or column not in group:
                    axis.plot(x, y, color="#d55e00", linewidth=1.6, clip_on=False)


def curve(axis: Axes, plan: Plan) -> None:
    numbers = [point.groups for point in plan.curve]
    for label, style in (("amad", "o-"), ("weighted", "s:"), ("largest", "^:")):
        values = [getattr(point, label) for point in plan.curve]
        axis.plot(numbers, values, style, markersize=4, linewidth=1.1, label=label)
    if plan.threshold is not None:
        axis.axhline(plan.threshold, color="#8a9099", linewidth=0.8, linestyle="--")
    axis.axvline(len(plan.groups), color="#d55e00", linewidth=0.9)
    axis.annotate(
        f"Ĝ = {len(plan.groups)}",
        (len(plan.groups), axis.get_ylim()[1]),
        xytext=(4, -10),
        textcoords="offset points",
        color="#d55e00",
    )
    axis.set_xticks(numbers)
    axis.set_xlabel("groups")
    axis.set_title("AMAD (half turns)")
    axis.legend(frameon=False)


def table(results: Path) -> None:
    lines = [
        "# Which layers are alike",
        "",
        "Made by `python experiments/plans.py`: mean angle between the residual streams of two "
        "layers, in half turns; groups by complete linkage on the raw distances, the fewest whose "
        "AMAD is below the threshold. The last layer is left out (but for the model that has two).",
        "",
        "| model | layers | tokens | Ĝ | groups | AMAD by G | the same, centred |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(results.glob("*.json")):
        plan = Plan.read(path)
        groups = "; ".join(
            ", ".join(site.rpartition(".")[2] for site in sites) for sites in plan.groups.values()
        )
        raw = " ".join(f"{point.amad:.3f}" for point in plan.curve)
        lines.append(
            f"| {path.stem} | {len(plan.sites)} | {plan.tokens:,} | {len(plan.groups)} | {groups} "
            f"| {raw} | {centred(plan)} |"
        )
    names = [path.stem for path in sorted(results.glob("*.json"))]
    lines += ["", *(f"![{name}](plans/{name}.svg)" for name in names)]
    (results.parent / "plans.md").write_text("\n".join(lines) + "\n")
    print(results.parent / "plans.md")


def centred(plan: Plan) -> str:
    """The curve that the centred distances would give."""
    from saeworks.groups.partition import curve as curve_of

    return " ".join(f"{point.amad:.3f}" for point in curve_of(plan.distances.centred))


if __name__ == "__main__":
    main()
