"""Heat maps of a plan's distances, and its curve."""

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.figures import COLOURS, save
from experiments.tables import layer
from saeworks.results.plan import Plan


def figure(plan: Plan, path: Path) -> None:
    """Both matrices with their values, groups outlined on the one they follow from; the curve."""
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
    axis.set_xticks(ticks, map(layer, plan.sites))
    axis.set_yticks(ticks, map(layer, plan.sites))
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
                    axis.plot(x, y, color=COLOURS[1], linewidth=1.6, clip_on=False)


def curve(axis: Axes, plan: Plan) -> None:
    numbers = [point.groups for point in plan.curve]
    for label, style in (("amad", "o-"), ("weighted", "s:"), ("largest", "^:")):
        values = [getattr(point, label) for point in plan.curve]
        axis.plot(numbers, values, style, markersize=4, linewidth=1.1, label=label)
    if plan.threshold is not None:
        axis.axhline(plan.threshold, color="#8a9099", linewidth=0.8, linestyle="--")
    axis.axvline(len(plan.groups), color=COLOURS[1], linewidth=0.9)
    axis.annotate(
        f"Ĝ = {len(plan.groups)}",
        (len(plan.groups), axis.get_ylim()[1]),
        xytext=(4, -10),
        textcoords="offset points",
        color=COLOURS[1],
    )
    axis.set_xticks(numbers)
    axis.set_xlabel("groups")
    axis.set_title("AMAD (half turns)")
    axis.legend(frameon=False)
