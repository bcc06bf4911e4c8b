"""The figures and tables of `frontier.py`."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, NullLocator

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
NAMES = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "relu": "ReLU",
}
SHOWN = {"fvu": "FVU", "delta_ce": "ΔCE (nats)"}

Found = dict[str, Any]


def frontier_figure(found: Found, path: Path) -> None:
    """FVU and ΔCE against L0, a column per site, a line per architecture."""
    sites, archs = distinct(found, "site"), distinct(found, "arch")
    figure, axes = panels(len(sites), 5.4)
    for column, site in enumerate(sites):
        for row, metric in enumerate(SHOWN):
            for arch in archs:
                draw(axes[row][column], of(found, site, arch), metric)
            logarithmic(axes[row][column], found["points"], metric)
    name(axes, sites, "L0 (active latents per token)", list(SHOWN.values()))
    handles, _ = axes[0][0].get_legend_handles_labels()
    labels = [NAMES.get(arch, arch) for arch in archs]
    figure.legend(handles, labels, loc="outside right center")
    save(figure, path)


def panels(sites: int, height: float) -> tuple[Figure, Any]:
    """Two rows and a column per site; of one site, two panels side by side."""
    if sites == 1:
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
        return figure, axes[:, None]
    size = (1.4 + 2.8 * sites, height)
    return plt.subplots(2, sites, figsize=size, sharex="col", squeeze=False, layout="constrained")


def name(axes: Any, sites: Sequence[str], x: str, y: Sequence[str]) -> None:
    """Titles of the columns, and of the outer axes."""
    for column, site in enumerate(sites):
        axes[0][column].set_title(site, fontsize=9)
        for row in axes if len(sites) == 1 else axes[1:]:
            row[column].set_xlabel(x)
    for row, label in enumerate(y):
        axes[row][0].set_ylabel(label)


def draw(axes: Axes, points: Sequence[Found], metric: str) -> None:
    """One architecture's line with its intervals."""
    known = [*NAMES, points[0]["arch"]]
    number = known.index(points[0]["arch"])
    x = [point["l0"]["value"] for point in points]
    y = [point[metric]["value"] for point in points]
    axes.errorbar(
        x,
        y,
        yerr=[spread(points, metric, -1), spread(points, metric, 1)],
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)],
        markersize=4,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=1.5,
        label=points[0]["arch"],
    )


def spread(points: Sequence[Found], metric: str, side: int) -> list[float]:
    """How far the interval reaches below or above each value."""
    end = "low" if side < 0 else "high"
    values = [point[metric] for point in points]
    return [max(0.0, side * (v[end] - v["value"])) if v[end] is not None else 0.0 for v in values]


def logarithmic(axes: Axes, points: Sequence[Found], metric: str) -> None:
    """Both axes in logarithms; the ticks of L0 are the targets."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted({point["target"] for point in points})))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    if all((v if (v := p[metric]["low"]) is not None else p[metric]["value"]) > 0 for p in points):
        axes.set_yscale("log")
        plain_ticks(axes, LogLocator(subs=(1, 2, 3, 5), numticks=12))


def plain_ticks(axes: Axes, locator: Locator) -> None:
    """Numbers as they are spoken, and no others between."""
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


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
        plain_ticks(axes[0][column], FixedLocator([0.5, 1, 2, 4]))
    name(axes, sites, "million tokens", ["L0 / target", "coefficient"])
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, title="target L0", loc="outside right center")
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
    plt.close(figure)


def write_markdown(found: Found, path: Path) -> None:
    """The tables, with the figures and what they depend on."""
    stem, config = path.stem, found["config"]
    held_out = "; ".join(
        f"{key}: {value['tokens']:,} tokens of {value['documents']} documents"
        for key, value in found["evaluation"].items()
    )
    widths = {key: v for key in ("expansion", "width") if (v := config["saes"][0].get(key))}
    parts = [
        f"# Frontiers of every architecture: {Path(config['model']['name']).name}",
        f"Made by `{found['command']}` from `experiments/{stem}.yaml`: "
        f"{len(found['points'])} SAEs ("
        + ", ".join(f"{key} {value}" for key, value in widths.items())
        + f") for each of the seeds {', '.join(map(str, found['seeds']))}, "
        f"{found['tokens']:,} tokens, whole epochs of the text: {found['epochs']}, "
        f"all SAEs of a seed on the same batches of one pass. "
        f"Held out: {held_out}. Intervals: {found['intervals']}.",
        f"![FVU and ΔCE against L0]({stem}.svg)",
        matched(found),
        *(site_table(found, site) for site in distinct(found, "site")),
        controller_table(found, stem),
        f"{', '.join(f'{k} {v}' for k, v in found['versions'].items())}; "
        f"{found['machine']['processor']}, {found['machine']['cores']} cores; training took "
        f"{', '.join(f'{s / 60:.0f}' for s in found['seconds'])} minutes.",
    ]
    path.write_text("\n\n".join(part for part in parts if part) + "\n")


def site_table(found: Found, site: str) -> str:
    """A row per architecture and target."""
    lines = [
        f"## {site}",
        "",
        "| architecture | target L0 | L0 | FVU | ΔCE (nats) | dead share |",
        "|---|---|---|---|---|---|",
    ]
    for arch in distinct(found, "arch"):
        for point in of(found, site, arch):
            cells = [cell(point[key]) for key in ("l0", "fvu", "delta_ce", "dead_share")]
            lines.append(
                f"| {NAMES.get(arch, arch)} | {point['target']:g} | " + " | ".join(cells) + " |"
            )
    return "\n".join(lines)


def matched(found: Found) -> str:
    """FVU and ΔCE at the same L0: interpolated along each frontier."""
    targets = sorted({point["target"] for point in found["points"]})[1:-1]
    if not targets:
        return ""
    places = [(site, l0) for site in distinct(found, "site") for l0 in targets]
    head = [f"{site}, L0 {l0:g}" for site, l0 in places]
    lines = [
        "## At the same L0",
        "",
        "FVU / ΔCE in nats, interpolated between neighbouring points of a frontier, linearly in "
        "the logarithms of L0 and of the value.",
        "",
        f"| architecture | {' | '.join(head)} |",
        "|---|" + "---|" * len(head),
    ]
    for arch in distinct(found, "arch"):
        cells = []
        for site, l0 in places:
            both = [interpolated(of(found, site, arch), metric, l0) for metric in SHOWN]
            cells.append(" / ".join("–" if value is None else f"{value:.3g}" for value in both))
        lines.append(f"| {NAMES.get(arch, arch)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def interpolated(points: Sequence[Found], metric: str, l0: float) -> float | None:
    """The value at an L0 between two points of a frontier."""
    known = sorted((p["l0"]["value"], p[metric]["value"]) for p in points)
    for (x0, y0), (x1, y1) in pairwise(known):
        if 0 < x0 <= l0 <= x1 and x0 < x1 and min(y0, y1) > 0:
            share = math.log(l0 / x0) / math.log(x1 / x0)
            return float(y0 * (y1 / y0) ** share)
    return None


def controller_table(found: Found, stem: str) -> str:
    """How near each steered SAE came, and when."""
    if not found["controller"]:
        return ""
    lines = [
        "## Sparsity targets",
        "",
        "L0 on held-out text of the SAEs that a controller steers to a target; the tokens from "
        "which on L0 in training, averaged over five lines of metrics.jsonl, stayed within 5%; and "
        "the coefficient at the end.",
        "",
        f"![JumpReLU's L0 and coefficient during training]({stem}_controller.svg)",
        "",
        "| architecture | site | seed | target | held-out L0 | deviation | settled | coefficient |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in found["controller"]:
        at = c["settled_at_tokens"]
        lines.append(
            f"| {NAMES.get(c['arch'], c['arch'])} | {c['site']} | {c['seed']} | {c['target']:g} | "
            f"{c['held_out_l0']:.4g} | {100 * c['deviation']:+.1f}% | "
            f"{'never' if at is None else f'{at:,} tokens'} | {c['coefficient'][-1]:.3g} |"
        )
    return "\n".join(lines)


def cell(value: dict[str, float | None]) -> str:
    """`0.123 [0.120, 0.126]`."""
    if value["value"] is None:
        return "–"
    text = f"{value['value']:.4g}"
    if value.get("low") is not None and value["low"] != value["high"]:
        text += f" [{value['low']:.4g}, {value['high']:.4g}]"
    return text


def distinct(found: Found, key: str) -> list[str]:
    return list(dict.fromkeys(point[key] for point in found["points"]))


def of(found: Found, site: str, arch: str) -> list[Found]:
    points = [p for p in found["points"] if p["site"] == site and p["arch"] == arch]
    return sorted(points, key=lambda point: point["l0"]["value"])
