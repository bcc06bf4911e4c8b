"""The figures of the study of dark matter."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from experiments.criteria import Number
from experiments.darkmatter.claims import BASELINES, LADDER
from experiments.darkmatter.saes import (
    Sae,
    arch_name,
    archs_of,
    by_layer,
    by_width,
    layers_of,
    mean,
    of_seeds,
    widths_of,
)
from experiments.figures import COLOURS, DARK, GREY, line, no_vertical_grid, save
from experiments.runs import Found
from experiments.tables import layer

LINEAR, NONLINEAR, ENCODER = COLOURS[0], COLOURS[1], COLOURS[4]
RUNG_NAMES = {
    "as_is": "x̂",
    "scaled": "α*x̂ + c",
    "per_latent": "per latent",
    "affine": "affine",
}
NORM_NAMES = dict(zip(LADDER, ("x", "x̂", "x̂ + u", "e", "ℓ", "u"), strict=True))


def figures(found: Found, base: Path) -> None:
    """What the error is made of; and the ladders."""
    drawing, axes = plt.subplots(2, 2, figsize=(10.4, 7), layout="constrained")
    per_layer(axes[0][0], found)
    per_width(axes[0][1], found)
    per_arch(axes[1][0], found)
    downstream(axes[1][1], found)
    save(drawing, base.with_suffix(".svg"))
    drawing, axes = plt.subplots(1, 3, figsize=(12.4, 3.9), layout="constrained")
    shrinkage(axes[0], found)
    norms(axes[1], found)
    probes(axes[2], found)
    save(drawing, base.with_name(f"{base.name}_ladders.svg"))


def stacked(axis: Any, rows: Sequence[Sequence[Sae | None]], at: Any, width: float) -> None:
    """FVU, nonlinear part below; what pursuit takes off the nonlinear part hatched."""
    for x, saes in zip(at, rows, strict=True):
        fvu, rest = (mean(saes, f"split.{name}") for name in ("fvu", "fvu_nonlinear"))
        if fvu is None or rest is None:
            continue
        encoder = mean(saes, "pursuit.encoder_error")
        taken = min(max(encoder.value, 0.0), rest.value) if encoder else 0.0
        axis.bar(x, rest.value - taken, width, color=NONLINEAR)
        axis.bar(x, taken, width, bottom=rest.value - taken, color=ENCODER)
        axis.bar(x, fvu.value - rest.value, width, bottom=rest.value, color=LINEAR)
        interval(axis, x, rest)
        interval(axis, x, fvu)


def interval(axis: Any, x: float, value: Number) -> None:
    axis.plot([x, x], [value.low, value.high], color=DARK, linewidth=0.8)


def bands(axis: Any, loc: str) -> None:
    """The legend of stacked bars."""
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (LINEAR, ENCODER, NONLINEAR)]
    names = ["linear in x", "nonlinear, gone with pursuit", "nonlinear"]
    axis.legend(handles, names, loc=loc)
    axis.set_ylabel("FVU")
    no_vertical_grid(axis)
    axis.set_ylim(top=1.35 * axis.get_ylim()[1])


def per_layer(axis: Any, found: Found) -> None:
    rows = layers_of(found)
    at = np.arange(len(rows))
    control = by_layer(found, "random") if found["random"] else {}
    shift = 0.2 if control else 0.0
    stacked(axis, list(rows.values()), at - shift, 0.36 if control else 0.6)
    if control:
        stacked(axis, [[control.get(site)] for site in rows], at + shift, 0.36)
    axis.set_xticks(at, [layer(site) for site in rows])
    axis.set_xlabel("layer" + (" (right of each pair: random weights)" if control else ""))
    axis.set_title("The error per layer, TopK", fontsize=9)
    bands(axis, "upper left")


def per_width(axis: Any, found: Found) -> None:
    first = by_width(found, of_seeds(found)[0])
    lines = {"": widths_of(found)}
    if control := by_width(found, "random"):
        lines[", random weights"] = [[sae] for sae in control]
    for (what, rows), style in zip(lines.items(), ("-", "--"), strict=False):
        for metric, colour, marker in (("fvu", GREY, "s"), ("fvu_nonlinear", NONLINEAR, "o")):
            points = [(saes[0]["width"], mean(saes, f"split.{metric}")) for saes in rows if saes[0]]
            label = f"{'FVU' if metric == 'fvu' else 'FVU_nl'}{what}"
            through(axis, points, colour, marker=marker, linestyle=style, label=label)
    axis.set_xscale("log", base=2)
    axis.set_xticks([sae["width"] for sae in first], [str(sae["width"]) for sae in first])
    axis.set_ylim(0, 1.3 * axis.get_ylim()[1])
    axis.set_xlabel("latents")
    axis.set_title(f"Width, TopK, {first[0]['site']}", fontsize=9)
    axis.legend(loc="upper right", ncols=2)


def through(axis: Any, points: Sequence[tuple[Any, Number | None]], ink: Any, **more: Any) -> None:
    """A line through the points that have a value."""
    measured = [(x, y) for x, y in points if y is not None]
    line(axis, [x for x, _ in measured], [y for _, y in measured], ink, **more)


def per_arch(axis: Any, found: Found) -> None:
    rows = {arch_name(arch): saes for arch, saes in archs_of(found).items()}
    at = np.arange(len(rows))
    stacked(axis, list(rows.values()), at, 0.6)
    axis.set_xticks(at, [name.replace(" in ", "\nin ") for name in rows], fontsize=7.5)
    axis.set_title(f"Architectures, {site_of(rows)}", fontsize=9)
    bands(axis, "upper left")


def site_of(rows: Mapping[str, Sequence[Sae | None]]) -> str:
    return next(str(sae["site"]) for saes in rows.values() for sae in saes if sae)


def downstream(axis: Any, found: Found) -> None:
    """What ℓ and u put back recover of the CE gap, beside their shares of the error."""
    rows = layers_of(found)
    at = np.arange(len(rows))
    for side, (label, colour, part) in enumerate(
        (("ℓ", LINEAR, "linear"), ("u", NONLINEAR, "nonlinear"))
    ):
        for x, saes in zip(at, rows.values(), strict=True):
            recovered = mean(saes, f"downstream.recovered_{part}")
            share = mean(saes, "downstream.squared_share_linear")
            if recovered is None or share is None:
                continue
            place = x + (side - 0.5) * 0.38
            name = f"recovered by {label}" if x == 0 else None
            axis.bar(place, recovered.value, 0.36, color=colour, label=name)
            interval(axis, place, recovered)
            height = share.value if side == 0 else 1 - share.value
            axis.plot([place - 0.18, place + 0.18], [height] * 2, color=DARK, linewidth=2)
    axis.plot([], [], color=DARK, linewidth=2, label="its share of ‖e‖²")
    axis.set_xticks(at, [layer(site) for site in rows])
    axis.set_xlabel("layer")
    axis.set_ylabel("share of the CE gap")
    axis.set_ylim(-0.25, 1.7)  # where the gap is next to nothing, so are its shares
    axis.set_title("Put back into the model, TopK (wider intervals are cut)", fontsize=9)
    no_vertical_grid(axis)
    axis.legend(loc="upper left", ncols=2)


def shrinkage(axis: Any, found: Found) -> None:
    """R² of the error at every rung, per architecture."""
    rows = archs_of(found)
    for index, (arch, saes) in enumerate(rows.items()):
        points = [
            (i + (index - 3) * 0.05, mean(saes, f"shrinkage.r2_error_{rung}"))
            for i, rung in enumerate(RUNG_NAMES)
        ]
        through(axis, points, index, label=arch_name(arch))
    axis.set_xticks(range(len(RUNG_NAMES)), list(RUNG_NAMES.values()))
    axis.set_ylabel("R² of e")
    axis.set_ylim(bottom=0)
    axis.set_title(f"Shrinkage ladder, {site_of(rows)}", fontsize=9)
    axis.legend(ncols=2, fontsize=7.5)


def norms(axis: Any, found: Found) -> None:
    """R² of every squared norm, a line per layer."""
    rows = layers_of(found)
    for index, (site, saes) in enumerate(rows.items()):
        points = [(i, mean(saes, f"ladder.r2_norm_{key}")) for i, key in enumerate(LADDER)]
        ink = plt.get_cmap("viridis")(0.9 * index / max(1, len(rows) - 1))
        through(axis, points, ink, marker="o", label=site)
    axis.set_xticks(range(len(LADDER)), [f"‖{name}‖²" for name in NORM_NAMES.values()])
    axis.set_ylabel("R² of the norm")
    axis.set_title("Norm ladder, TopK", fontsize=9)
    axis.legend(fontsize=7.5)


def probes(axis: Any, found: Found) -> None:
    """The norm probe and its baselines, per layer."""
    rows = layers_of(found)
    names: Mapping[str, str] = {"probe on x": "r2_error_norm"} | {
        f"by {name}": metric for name, metric in BASELINES.items()
    }
    for index, (label, metric) in enumerate(names.items()):
        points = [(i, mean(saes, f"norm.{metric}")) for i, saes in enumerate(rows.values())]
        through(axis, points, index, label=label)
    axis.set_xticks(range(len(rows)), [layer(site) for site in rows])
    axis.set_xlabel("layer")
    axis.set_ylabel("R² of ‖e‖²")
    axis.set_title("Norm of the error, TopK", fontsize=9)
    axis.legend(fontsize=7.5)
