"""Each arm's FVU over that of one SAE per layer, over the length of training."""

from pathlib import Path

from matplotlib import pyplot as plt

from experiments.figures import GREY, line, save, ticks
from experiments.groups_lengths.table import relative
from experiments.runs import Found


def figure(found: Found, path: Path) -> None:
    lengths = found["lengths"]
    drawing, axis = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    names = [name for name in next(iter(lengths.values())) if name != "per layer"]
    for ink, name in enumerate(names):
        y = [relative(arms, name, "per layer").map(shift=1.0) for arms in lengths.values()]
        style = "--" if name.endswith("all layers") else "-"
        line(axis, [int(n) for n in lengths], y, ink, label=name, linestyle=style)
    axis.axhline(1.0, color=GREY, linewidth=0.8)
    axis.set_xscale("log")
    ticks(axis.xaxis, [int(n) for n in lengths], ",g")
    axis.set_xlabel("vectors per SAE")
    axis.set_ylabel("FVU over that of one SAE per layer")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(drawing, path)
