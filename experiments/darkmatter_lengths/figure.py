"""FVU and its two parts, over the length of training and over widths."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from experiments.criteria import over_seeds
from experiments.darkmatter_lengths.table import WIDTH
from experiments.figures import line, save, ticks
from experiments.runs import Found

PARTS = {"fvu": "FVU", "fvu_linear": "FVU_ℓ", "fvu_nonlinear": "FVU_nl"}


def figure(found: Found, path: Path) -> None:
    drawing, axes = plt.subplots(1, 2, figsize=(7.6, 3.4), sharey=True, layout="constrained")
    lengths = [int(n) / WIDTH for n in found["lengths"]]
    draw(axes[0], lengths, found["lengths"], f"tokens per latent (M = {WIDTH})")
    ticks(axes[0].xaxis, (100, 1000, 10_000), ",g")
    draw(axes[1], [int(n) for n in found["widths"]], found["widths"], "M, 4,000 tokens per latent")
    ticks(axes[1].xaxis, [int(n) for n in found["widths"]], ",g")
    axes[0].legend(fontsize=8)
    save(drawing, path)


def draw(axis: plt.Axes, x: Sequence[float], of: Found, label: str) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    for ink, (metric, name) in enumerate(PARTS.items()):
        line(axis, x, [over_seeds(values[metric]) for values in of.values()], ink, label=name)
    axis.set_xlabel(label)
    ticks(axis.yaxis, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5))
