"""One look for all figures: colours, lines with intervals, axes that show plain numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, NullLocator

from experiments.criteria import Number

mpl.rcParams |= {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7ea",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "saeworks",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0518a", "#c48a00", "#3a9ad9", "#5d6670", "#7a4b2a")
MARKERS = "os^DvPX*"
DARK, GREY = "#22262b", "#5d6670"


def save(figure: Any, path: Path) -> None:
    """Write it, with the same bytes each time."""
    figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
    plt.close(figure)


def line(axis: Any, x: Sequence[Any], y: Sequence[Number], ink: int | Any = 0, **more: Any) -> None:
    """Points with their intervals, and a line through them.

    Args:
        ink: a colour, or the number of one of ours, which then chooses the marker, too.
    """
    style: dict[str, Any] = {"color": ink}
    if isinstance(ink, int):
        style = {"color": COLOURS[ink % len(COLOURS)], "marker": MARKERS[ink % len(MARKERS)]}
    below, above = ([max(0.0, n.value - n.low) for n in y], [max(0.0, n.high - n.value) for n in y])
    axis.errorbar(
        x,
        [n.value for n in y],
        yerr=[below, above],
        markersize=4,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=1.5,
        **style | more,
    )


def ticks(axis: Axis, at: Locator | Sequence[float], form: str = "g") -> None:
    """Numbers as they are spoken, and no others between."""
    axis.set_major_locator(at if isinstance(at, Locator) else FixedLocator(list(at)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:{form}}"))
    axis.set_minor_locator(NullLocator())


def no_vertical_grid(axis: Any) -> None:
    """For bars: lines of the grid behind them, and none along them."""
    axis.grid(visible=False, axis="x")
    axis.set_axisbelow(True)
