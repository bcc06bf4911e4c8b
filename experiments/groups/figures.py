"""The figure of the study of groups."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from experiments.criteria import Number, known
from experiments.figures import COLOURS, DARK, GREY, no_vertical_grid, save
from experiments.groups.table import METRICS
from experiments.groups.variants import BASELINE, ladder
from experiments.runs import Found
from experiments.tables import layer


def figures(found: Found, base: Path) -> None:
    """FVU and ΔCE per layer for every G; mean FVU against the operations of training; transfer."""
    drawing, axes = plt.subplots(2, 2, figsize=(9.4, 6.2), layout="constrained")
    for axis, metric in zip(axes[0], METRICS, strict=True):
        per_layer(axis, found, metric)
    against_cost(axes[1][0], found)
    transfers(axes[1][1], found)
    axes[0][0].legend(frameon=False, ncols=3, loc="upper left")
    axes[0][0].set_ylim(top=1.2 * axes[0][0].get_ylim()[1])
    axes[1][0].legend(frameon=False)
    save(drawing, base.with_suffix(".svg"))


def per_layer(axis: Any, found: Found, metric: str) -> None:
    sites = found["sites"]
    shown = [name for name in ladder(len(sites)) if name in found["variants"]]
    some = found["variants"][shown[0]]["sites"]
    lines = [(f"G = {i + 1}", found["variants"][n]["sites"], "suite") for i, n in enumerate(shown)]
    for number, (label, values, key) in enumerate([*lines, ("per layer", some, "baseline")]):
        numbers = [known(values[site][metric][key]) for site in sites]
        bars(axis, number, numbers, label, len(lines) + 1)
    axis.set_xticks(range(len(sites)), map(layer, sites))
    axis.set_xlabel("layer")
    axis.set_title(METRICS[metric], fontsize=9)
    no_vertical_grid(axis)


def bars(axis: Any, place: int, numbers: Sequence[Number], label: str, of: int) -> None:
    x = np.arange(len(numbers)) + (place - (of - 1) / 2) * 0.8 / of
    y = [n.value for n in numbers]
    error = [[n.value - n.low for n in numbers], [n.high - n.value for n in numbers]]
    ink = GREY if label == "per layer" else plt.get_cmap("viridis")(0.9 * place / of)
    axis.bar(x, y, 0.8 / of, color=ink, label=label)
    axis.errorbar(x, y, yerr=error, fmt="none", ecolor=DARK, elinewidth=0.7)


def against_cost(axis: Any, found: Found) -> None:
    """Per-layer, grouped, smaller and fewer: FVU of the mean over layers against FLOPs."""
    usual = [name for name in ladder(len(found["sites"])) if name in found["variants"]]
    first = found["variants"][usual[0]]
    x = [found["cost"][name]["flops"] for name in [*usual, BASELINE]]
    y = [found["variants"][name]["mean"]["fvu"]["suite"]["value"] for name in usual]
    y.append(first["mean"]["fvu"]["baseline"]["value"])
    x_tera = [value / 1e12 for value in x]
    axis.plot(x_tera, y, "o-", color=COLOURS[0], label="complete linkage, G = 1 … L")
    others = {
        "even groups": [n for n in found["variants"] if n.endswith("-even")],
        "smaller SAEs per layer": [n for n in found["variants"] if n.startswith("topk-x1")],
        "per layer, fewer tokens": ["fewer"],
    }
    for (label, names), marker, ink in zip(others.items(), "s^D", COLOURS[1:], strict=False):
        points = [found["variants"][name] for name in names]
        axis.plot(
            [found["cost"][name]["flops"] / 1e12 for name in names],
            [p["mean"]["fvu"]["suite"]["value"] for p in points],
            marker,
            color=ink,
            label=label,
        )
    axis.set_xlabel("operations of the training, language model included (TFLOP)")
    axis.set_ylabel("mean FVU")


def transfers(axis: Any, found: Found) -> None:
    sites = found["sites"]
    cells = np.mean(
        [[[t["values"][i][j]["fvu"] for j in sites] for i in sites] for t in found["transfer"]],
        axis=0,
    )
    axis.imshow(np.log(cells), cmap="YlGnBu")
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            ink = "white" if np.log(value) > np.log(cells).mean() else "black"
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=7)
    axis.set_xticks(range(len(sites)), map(layer, sites))
    axis.set_yticks(range(len(sites)), map(layer, sites))
    axis.set_xlabel("applied to layer")
    axis.set_ylabel("SAE of layer")
    axis.set_title("FVU of one layer's SAE on another", fontsize=9)
    axis.grid(visible=False)
