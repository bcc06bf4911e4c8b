"""The figures of `darkmatter.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from darkmatter_claims import BASELINES, LADDER
from darkmatter_found import (
    Found,
    Number,
    Sae,
    by_arch,
    by_layer,
    by_width,
    number,
    of_seeds,
    over,
)
from darkmatter_tables import NAMES
from frontier_figures import COLOURS, MARKERS, save
from matplotlib import pyplot as plt

LINEAR, NONLINEAR, ENCODER, GREY = COLOURS[0], COLOURS[1], COLOURS[4], "#5d6670"
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


def mean(saes: Sequence[Sae | None], name: str) -> Number | None:
    """Over the seeds."""
    return over([number(sae, name) if sae else None for sae in saes])


def layers_of(found: Found) -> dict[str, list[Sae | None]]:
    """Site → its TopK SAE of every seed."""
    seeds = of_seeds(found)
    return {
        site: [by_layer(found, where).get(site) for where in seeds]
        for site in by_layer(found, seeds[0])
    }


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
    axis.plot([x, x], [value.low, value.high], color="#22262b", linewidth=0.8)


def bands(axis: Any, loc: str) -> None:
    """The legend of stacked bars."""
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (LINEAR, ENCODER, NONLINEAR)]
    names = ["linear in x", "nonlinear, gone with pursuit", "nonlinear"]
    axis.legend(handles, names, loc=loc)
    axis.set_ylabel("FVU")
    axis.grid(visible=False, axis="x")
    axis.set_axisbelow(True)
    axis.set_ylim(top=1.35 * axis.get_ylim()[1])


def per_layer(axis: Any, found: Found) -> None:
    rows = layers_of(found)
    at = np.arange(len(rows))
    control = by_layer(found, "random") if found["random"] else {}
    shift = 0.2 if control else 0.0
    stacked(axis, list(rows.values()), at - shift, 0.36 if control else 0.6)
    if control:
        stacked(axis, [[control.get(site)] for site in rows], at + shift, 0.36)
    axis.set_xticks(at, [site.rpartition(".")[2] for site in rows])
    axis.set_xlabel("layer" + (" (right of each pair: random weights)" if control else ""))
    axis.set_title("The error per layer, TopK", fontsize=9)
    bands(axis, "upper left")


def per_width(axis: Any, found: Found) -> None:
    lines: dict[str, list[list[Sae | None]]] = {"": []}
    first = by_width(found, of_seeds(found)[0])
    for at in range(len(first)):
        lines[""].append([by_width(found, where)[at] for where in of_seeds(found)])
    if control := by_width(found, "random"):
        lines[", random weights"] = [[sae] for sae in control]
    for (what, rows), style in zip(lines.items(), ("-", "--"), strict=False):
        for metric, colour, marker in (("fvu", GREY, "s"), ("fvu_nonlinear", NONLINEAR, "o")):
            points = [(saes[0]["width"], mean(saes, f"split.{metric}")) for saes in rows if saes[0]]
            known = [(width, value) for width, value in points if value is not None]
            label = f"{'FVU' if metric == 'fvu' else 'FVU_nl'}{what}"
            line(axis, known, colour, marker, style, label)
    axis.set_xscale("log", base=2)
    axis.set_xticks([sae["width"] for sae in first], [str(sae["width"]) for sae in first])
    axis.set_ylim(0, 1.3 * axis.get_ylim()[1])
    axis.set_xlabel("latents")
    axis.set_title(f"Width, TopK, {first[0]['site']}", fontsize=9)
    axis.legend(loc="upper right", ncols=2)


def line(
    axis: Any,
    points: Sequence[tuple[Any, Number]],
    colour: str,
    marker: str,
    style: str,
    label: str,
) -> None:
    x = [point[0] for point in points]
    y = [point[1].value for point in points]
    error = [
        [max(0.0, n.value - n.low) for _, n in points],
        [max(0.0, n.high - n.value) for _, n in points],
    ]
    axis.errorbar(
        x,
        y,
        yerr=error,
        color=colour,
        marker=marker,
        markersize=4,
        linestyle=style,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=1.5,
        label=label,
    )


def per_arch(axis: Any, found: Found) -> None:
    made = [by_arch(found, where) for where in of_seeds(found)]
    rows = {NAMES.get(arch, arch): [one.get(arch) for one in made] for arch in made[0]}
    at = np.arange(len(rows))
    stacked(axis, list(rows.values()), at, 0.6)
    axis.set_xticks(at, [name.replace(" in ", "\nin ") for name in rows], fontsize=7.5)
    axis.set_title(f"Architectures, {next(iter(made[0].values()))['site']}", fontsize=9)
    bands(axis, "upper left")


def downstream(axis: Any, found: Found) -> None:
    """What ℓ and u put back recover of the CE gap, beside their shares of the error."""
    rows = layers_of(found)
    at = np.arange(len(rows))
    parts = (
        ("recovered by ℓ", LINEAR, lambda s: mean(s, "downstream.recovered_linear")),
        ("recovered by u", NONLINEAR, lambda s: mean(s, "downstream.recovered_nonlinear")),
    )
    for number_, (label, colour, value) in enumerate(parts):
        shares = []
        for x, saes in zip(at, rows.values(), strict=True):
            found_ = value(saes)
            share = mean(saes, "downstream.squared_share_linear")
            if found_ is None or share is None:
                continue
            place = x + (number_ - 0.5) * 0.38
            axis.bar(place, found_.value, 0.36, color=colour, label=label if x == 0 else None)
            interval(axis, place, found_)
            shares.append((place, share.value if number_ == 0 else 1 - share.value))
        for place, share_ in shares:
            axis.plot([place - 0.18, place + 0.18], [share_, share_], color="#22262b", linewidth=2)
    axis.plot([], [], color="#22262b", linewidth=2, label="its share of ‖e‖²")
    axis.set_xticks(at, [site.rpartition(".")[2] for site in rows])
    axis.set_xlabel("layer")
    axis.set_ylabel("share of the CE gap")
    axis.set_ylim(-0.25, 1.7)  # where the gap is next to nothing, so are its shares
    axis.set_title("Put back into the model, TopK (wider intervals are cut)", fontsize=9)
    axis.grid(visible=False, axis="x")
    axis.set_axisbelow(True)
    axis.legend(loc="upper left", ncols=2)


def shrinkage(axis: Any, found: Found) -> None:
    """R² of the error at every rung, per architecture."""
    made = [by_arch(found, where) for where in of_seeds(found)]
    for index, arch in enumerate(made[0]):
        saes = [one.get(arch) for one in made]
        values = [
            (i, mean(saes, f"shrinkage.r2_error_{rung}")) for i, rung in enumerate(RUNG_NAMES)
        ]
        known = [(i + (index - 3) * 0.05, value) for i, value in values if value is not None]
        name = NAMES.get(arch, arch)
        line(axis, known, COLOURS[index], MARKERS[index], "-", name)
    axis.set_xticks(range(len(RUNG_NAMES)), list(RUNG_NAMES.values()))
    axis.set_ylabel("R² of e")
    axis.set_ylim(bottom=0)
    axis.set_title(f"Shrinkage ladder, {next(iter(made[0].values()))['site']}", fontsize=9)
    axis.legend(ncols=2, fontsize=7.5)


def norms(axis: Any, found: Found) -> None:
    """R² of every squared norm, a line per layer."""
    rows = layers_of(found)
    for index, (site, saes) in enumerate(rows.items()):
        values = [(i, mean(saes, f"ladder.r2_norm_{key}")) for i, key in enumerate(LADDER)]
        known = [(i, value) for i, value in values if value is not None]
        ink = plt.get_cmap("viridis")(0.9 * index / max(1, len(rows) - 1))
        line(axis, known, ink, "o", "-", site)
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
        values = [(i, mean(saes, f"norm.{metric}")) for i, saes in enumerate(rows.values())]
        known = [(i, value) for i, value in values if value is not None]
        line(axis, known, COLOURS[index], MARKERS[index], "-", label)
    axis.set_xticks(range(len(rows)), [site.rpartition(".")[2] for site in rows])
    axis.set_xlabel("layer")
    axis.set_ylabel("R² of ‖e‖²")
    axis.set_title("Norm of the error, TopK", fontsize=9)
    axis.legend(fontsize=7.5)
