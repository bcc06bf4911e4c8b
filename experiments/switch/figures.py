"""The figures of the study of Switch SAEs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator

from experiments.criteria import known
from experiments.figures import COLOURS, GREY, MARKERS, line, save, ticks
from experiments.runs import Found
from experiments.tables import ARCHS

METRICS = {"fvu": "FVU", "delta_ce": "ΔCE (nats)"}
Entries = Sequence[Found]


def figures(found: Found, folder: Path) -> None:
    """All of them."""
    arms = [arm for arm in found["arms"] if arm["part"] in ("seeds", "sweeps")]
    usual = [arm for arm in arms if plain(arm)]
    frontiers(found, usual, folder / "frontiers.svg")
    costs(found, usual, folder / "cost.svg")
    sweeps(found, folder / "sweeps.svg")
    routers(found, folder / "routers.svg")


def plain(arm: Found) -> bool:
    """TopK, or the router switch at the default balance."""
    options = arm["options"]
    usual = options.get("router") == "switch" and options["balance"] == 0.03
    return bool(arm["arch"] == "topk" or usual)


def experts(arm: Found) -> int:
    return int(arm["options"].get("experts", 1))


def wide(arm: Found) -> int:
    return int(arm["options"]["width"])


def drawn(
    axis: Axes, ink: int, entries: Entries, x: Callable[[Found], float], metric: str, **more: Any
) -> None:
    """A metric of the entries with its intervals, in the order of x."""
    shown = sorted(entries, key=x)
    line(axis, [x(e) for e in shown], [known(e[metric]) for e in shown], ink, **more)


def l0(arm: Found) -> float:
    return float(arm["l0"]["value"])


def frontiers(found: Found, usual: Entries, path: Path) -> None:
    """FVU and ΔCE against L0: a fixed width on the left, equal FLOPs on the right."""
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 6.2), sharey="row", layout="constrained")
    penalised = {
        arch: [arm for arm in found["arms"] if arm["arch"] == arch] for arch in ("relu", "gated")
    }
    for row, metric in zip(axes, METRICS, strict=True):
        for column, axis in enumerate(row):
            for number, n in enumerate((1, 4, 16, 64) if column == 0 else (1, 2, 4, 8)):
                width = 4096 if column == 0 else 4096 * n
                own = [a for a in usual if experts(a) == n and wide(a) == width]
                label = "TopK" if n == 1 else f"{n} experts" + (f", M = {width:,}" * column)
                ink = number if n == 1 else number + 3 * column
                drawn(axis, ink, own, l0, metric, label=label)
            if column == 0:
                for number, (arch, own) in enumerate(penalised.items(), 6):
                    if own:
                        drawn(axis, number, own, l0, metric, label=ARCHS[arch], linestyle=":")
            both_logarithmic(axis)
            axis.set_xlabel("L0 (active latents per token)" if metric == "delta_ce" else "")
        row[0].set_ylabel(METRICS[metric])
    axes[0][0].set_title("M = 4,096", fontsize=9)
    axes[0][1].set_title("equal FLOPs: 4,096 latents per expert", fontsize=9)
    axes[0][0].legend()
    axes[0][1].legend()
    save(figure, path)


def both_logarithmic(axis: Axes) -> None:
    axis.set_xscale("log", base=2)
    ticks(axis.xaxis, [8, 16, 32, 64])
    logarithmic_y(axis)


def logarithmic_y(axis: Axes) -> None:
    axis.set_yscale("log")
    ticks(axis.yaxis, LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))


def costs(found: Found, usual: Entries, path: Path) -> None:
    """FVU and ΔCE at k = 32 against FLOPs per token, seconds per step and parameters."""
    timing = (found["timing"] or {"arms": {}})["arms"]
    axes_of: dict[str, Callable[[Found], float]] = {
        "MFLOP per token of a training step": lambda a: a["flops"] / 1e6,
        "seconds per step, one thread": lambda a: timing[a["variant"]]["seconds"],
        "parameters (millions)": lambda a: a["parameters"] / 1e6,
    }
    at = [a for a in usual if a["options"]["k"] == 32 and a["variant"] in timing]
    families = {
        "TopK, M = 1,024 … 16,384": [a for a in at if a["arch"] == "topk"],
        "8 experts, M = 1,024 … 16,384": [a for a in at if experts(a) == 8 and wide(a) < 2**15],
        "64 experts, M = 2,048 … 16,384": [a for a in at if experts(a) == 64],
        "4, 16, 64 experts, M = 4,096": [
            a for a in at if experts(a) in (4, 16, 64) and wide(a) == 4096
        ],
        "2, 4, 8 experts of 4,096": [a for a in at if wide(a) == 4096 * experts(a) > 4096],
    }
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.6), sharey="row", layout="constrained")
    for row, metric in zip(axes, METRICS, strict=True):
        for axis, (title, x) in zip(row, axes_of.items(), strict=True):
            for number, (label, own) in enumerate(families.items()):
                style = "" if number > 2 else "-"
                drawn(axis, number, own, x, metric, label=label, linestyle=style)
            axis.set_xscale("log")
            ticks(axis.xaxis, LogLocator(subs=(1, 2, 5)))
            logarithmic_y(axis)
            axis.set_xlabel(title if metric == "delta_ce" else "")
        row[0].set_ylabel(METRICS[metric])
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    save(figure, path)


def sweeps(found: Found, path: Path) -> None:
    """FVU over TopK's against width, batch size and experts at two learning rates; against α."""
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 6.0), layout="constrained")
    (width_axis, alpha_axis), (batch_axis, rate_axis) = axes
    arms = [a for a in found["arms"] if a["part"] in ("seeds", "sweeps")]
    arms = [a for a in arms if a["options"]["k"] == 32]
    over_width(width_axis, [a for a in arms if plain(a)])
    over_alpha(alpha_axis, found)
    for number, n in enumerate((16, 64)):
        points = sorted(batch_ratios(found, n).items())
        dots(batch_axis, number, [p[0] for p in points], [p[1] for p in points], f"{n} experts")
    batch_axis.set_xlabel("tokens per batch")
    batch_axis.set_ylabel("FVU over TopK's of that batch")
    powers(batch_axis, [1024, 2048, 4096, 8192])
    over_rates(rate_axis, found)
    for axis in axes.flat:
        axis.legend()
    save(figure, path)


def powers(axis: Axes, at: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    ticks(axis.xaxis, at, ",.0f")


def over_width(axis: Axes, usual: Entries) -> None:
    dense = {wide(a): a["first_seed_fvu"] for a in usual if a["arch"] == "topk"}
    for number, n in enumerate((8, 64), 1):
        own = sorted((a for a in usual if experts(a) == n and wide(a) in dense), key=wide)
        ratio = [a["first_seed_fvu"] / dense[wide(a)] for a in own]
        dots(axis, number, [wide(a) for a in own], ratio, f"{n} experts")
    axis.set_xlabel("width M")
    axis.set_ylabel("FVU over TopK's of that width")
    powers(axis, [w for w in sorted(dense) if w >= 1024])


def over_alpha(axis: Axes, found: Found) -> None:
    """FVU over that at α = 0.03, where it is 1, of one seed."""
    claim = next(c for c in found["claims"] if c["number"] == 9)
    ratio = {0.03: 1.0}
    for part in claim["parts"]:
        alpha = float(part["name"].split()[2])
        if alpha:
            ratio[alpha] = 1 + part["found"]["value"]
    x = sorted(ratio)
    dots(axis, 0, x, [ratio[alpha] for alpha in x], "16 experts, M = 4,096")
    axis.set_xscale("log")
    axis.set_xlabel("α, weight of the balance loss")
    axis.set_ylabel("FVU over that at α = 0.03")


def over_rates(axis: Axes, found: Found) -> None:
    """SAEs of equal FLOPs at the trainer's learning rate, and at that of an expert's width."""
    usual = by_variant(found, "seeds")
    dense = usual[DENSE]["first_seed_fvu"]
    numbers = (2, 4, 8)
    names = [f"switch-w{4096 * n}-k32-experts{n}" for n in numbers]
    y = [usual[name]["first_seed_fvu"] / dense for name in names]
    dots(axis, 0, numbers, y, "learning rate by M")
    claim = next(c for c in found["claims"] if c["number"] == 18)
    over = {part["name"]: 1 + part["found"]["value"] for part in claim["parts"]}
    y = [over[f"{n} experts at equal FLOPs, over TopK"] for n in numbers]
    dots(axis, 1, numbers, y, "learning rate by M/N")
    axis.axhline(1, color=GREY, linewidth=0.8)
    axis.set_xlabel("experts of 4,096 latents (equal FLOPs)")
    axis.set_ylabel("FVU over TopK's")
    powers(axis, numbers)


DENSE = "topk-w4096-k32"


def by_variant(found: Found, part: str) -> dict[str, Found]:
    return {arm["variant"]: arm for arm in found["arms"] if arm["part"] == part}


def dots(axis: Axes, number: int, x: Sequence[float], y: Sequence[float], label: str) -> None:
    ink, marker = COLOURS[number], MARKERS[number]
    axis.plot(x, y, color=ink, marker=marker, markersize=4, linewidth=1.2, label=label)


def batch_ratios(found: Found, n: int) -> dict[int, float]:
    """Batch size → FVU of that many experts over TopK's."""
    ratios = {}
    for size in (1024, 2048, 4096, 8192):
        part = "seeds" if size == 4096 else f"batch/batch-{size}"
        own = by_variant(found, part)
        if own:
            one, dense = own[f"switch-w4096-k32-experts{n}"], own[DENSE]
            ratios[size] = one["first_seed_fvu"] / dense["first_seed_fvu"]
    return ratios


def routers(found: Found, path: Path) -> None:
    """FVU and ΔCE of every router relative to switch, with intervals."""
    parts = next(claim for claim in found["claims"] if claim["number"] == 13)["parts"]
    values = {part["name"]: known(part["found"]).map(100) for part in parts}
    names = [name.removesuffix(": FVU") for name in values if name.endswith("FVU")]
    names.sort(key=lambda name: values[f"{name}: FVU"].value)
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.0), sharey=True, layout="constrained")
    for axis, metric in zip(axes, ("FVU", "ΔCE"), strict=True):
        for place, name in enumerate(names):
            n = values[f"{name}: {metric}"]
            error = [[n.value - n.low], [n.high - n.value]]
            axis.errorbar(
                n.value, place, xerr=error, fmt="o", color=COLOURS[0], markersize=4, capsize=2
            )
        axis.axvline(0, color=GREY, linewidth=0.8)
        axis.set_xscale("symlog", linthresh=20)
        axis.xaxis.set_major_locator(FixedLocator([-100, -20, -10, 0, 10, 20, 100, 500]))
        axis.tick_params(axis="x", labelsize=7)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:+.0f}%" if v else "0"))
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel(f"{metric} relative to switch, α = 0.03")
    axes[0].invert_yaxis()
    save(figure, path)
