"""The effect of experts over tokens per latent: a panel for each width of an expert and k."""

from pathlib import Path

from matplotlib import pyplot as plt

from experiments.figures import GREY, line, save, ticks
from experiments.runs import Found
from experiments.switch_lengths.arms import lines, pairs


def figure(found: Found, path: Path) -> None:
    by_line = lines(pairs(found))
    panels = sorted({(k, expert) for expert, k, _ in by_line}, key=lambda at: (at[1], at[0]))
    drawing, axes = plt.subplots(
        1, len(panels), figsize=(2.6 * len(panels), 3.2), sharey=True, layout="constrained"
    )
    for axis, (k, expert) in zip(axes, panels, strict=True):
        of_panel = {n: of for (e, at, n), of in by_line.items() if (e, at) == (expert, k)}
        for ink, (n, of) in enumerate(of_panel.items()):
            x = [pair.switch.tokens_per_latent for pair in of]
            line(axis, x, [pair.effect().map(shift=1.0) for pair in of], ink, label=f"{n} experts")
        axis.axhline(1.0, color=GREY, linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(f"experts of {expert}, k {k}")
        axis.set_xlabel("tokens per latent")
        ticks(axis.xaxis, (10, 100, 1000, 10_000), ",g")
    ticks(axes[0].yaxis, (0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0))
    axes[0].set_ylabel("FVU over TopK's at equal FLOPs")
    axes[-1].legend(fontsize=8)
    save(drawing, path)
