"""The figures of the frontiers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from experiments.criteria import known
from experiments.figures import line, save, ticks
from experiments.frontier.table import SHOWN, distinct, frontier
from experiments.runs import Found
from experiments.tables import ARCHS


def frontier_figure(found: Found, path: Path) -> None:
    """FVU and ΔCE against L0, a column per site, a line per architecture."""
    sites, archs = distinct(found, "site"), distinct(found, "arch")
    figure, axes = panels(len(sites), 5.4)
    for column, site in enumerate(sites):
        for row, metric in enumerate(SHOWN):
            for arch in archs:
                draw(axes[row][column], frontier(found, site, arch), metric)
            logarithmic(axes[row][column], found["points"], metric)
    name(axes, sites, "L0 (active latents per token)", list(SHOWN.values()))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    save(figure, path)


def panels(sites: int, height: float) -> tuple[Figure, Any]:
    """Two rows and a column per site; of one site, two panels side by side."""
    if sites == 1:
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
        return figure, axes[:, None]
    size, shared = (1.4 + 2.8 * sites, height), {"sharex": "col", "squeeze": False}
    figure, axes = plt.subplots(2, sites, figsize=size, layout="constrained", **shared)
    return figure, axes


def name(axes: Any, sites: Sequence[str], x: str, y: Sequence[str]) -> None:
    """Titles of the columns, and of the outer axes."""
    for column, site in enumerate(sites):
        axes[0][column].set_title(site, fontsize=9)
        for row in axes if len(sites) == 1 else axes[1:]:
            row[column].set_xlabel(x)
    for row, label in enumerate(y):
        axes[row][0].set_ylabel(label)


def draw(axes: Any, points: Sequence[Found], metric: str) -> None:
    """One architecture's line with its intervals."""
    arch = points[0]["arch"]
    x = [point["l0"]["value"] for point in points]
    y = [known(point[metric]) for point in points]
    line(axes, x, y, list(ARCHS).index(arch), label=ARCHS[arch])


def logarithmic(axes: Any, points: Sequence[Found], metric: str) -> None:
    """Both axes in logarithms; the ticks of L0 are the targets."""
    axes.set_xscale("log", base=2)
    ticks(axes.xaxis, sorted({point["target"] for point in points}))
    if all(known(point[metric]).low > 0 for point in points):
        axes.set_yscale("log")
        ticks(axes.yaxis, LogLocator(subs=(1, 2, 3, 5), numticks=12))


def controller_figure(found: Found, path: Path, arch: str = "jumprelu") -> None:
    """L0 over its target, and the coefficient, during training; a column per site."""
    curves = [
        c for c in found["controller"] if c["arch"] == arch and c["seed"] == found["seeds"][0]
    ]
    if not curves:
        return
    sites = list(dict.fromkeys(curve["site"] for curve in curves))
    targets = sorted({curve["target"] for curve in curves})
    figure, axes = panels(len(sites), 4.4)
    for curve in curves:
        column = axes[:, sites.index(curve["site"])]
        ink = mpl.colormaps["viridis"](0.85 * targets.index(curve["target"]) / len(targets))
        style = {"color": ink, "linewidth": 1.1, "label": f"{curve['target']:g}"}
        millions = [tokens / 1e6 for tokens in curve["tokens"]]
        column[0].plot(millions, [l0 / curve["target"] for l0 in curve["l0"]], **style)
        column[1].plot(millions, curve["coefficient"], **style)
    for column in range(len(sites)):
        axes[0][column].axhspan(0.95, 1.05, color="#dfe2e6", zorder=0, linewidth=0)
        axes[0][column].set_yscale("log")
        axes[0][column].set_ylim(0.5, 4)
        ticks(axes[0][column].yaxis, [0.5, 1, 2, 4])
    name(axes, sites, "million tokens", ["L0 / target", "coefficient"])
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, title="target L0", loc="outside right center")
    save(figure, path)
