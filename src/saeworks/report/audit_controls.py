"""The audit's controls as figures: where the error may come from, and what passes for noise."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

from pydantic import Field, model_validator

from saeworks.report.audit_charts import (
    ABSENT,
    ENCODER,
    GREY,
    LINEAR,
    NONLINEAR,
    Get,
    chart_of,
    number_at,
    over,
    panelled,
    series_of,
    stacked,
)
from saeworks.report.audit_inputs import Audited, Record, Widths
from saeworks.report.audit_tables import Table, places
from saeworks.report.baseline import site_axis
from saeworks.report.numbers import number
from saeworks.report.summary import Cell, Column, Row
from saeworks.results.metric import Metric, Value

Chart = dict[str, Any]
Grid = list[list[list[float | None]]]

ATTRIBUTED = {"coefficients": ENCODER, "scale": ABSENT, "choice": LINEAR, "rest": GREY}
"""From below; coefficients first, so that the mark of their chance share is read from 0."""
CHANCE = "chance share of coefficients"
CHOICE_CHANCE = "chance share of choice"
NOISE = {"activation": "σ_a", "reconstruction": "σ_r"}


class Dense(Record):
    """The grid's column σ_r = 0 with a dense part that is not noise."""

    recovered_activation: list[float | None] = Field(default_factory=list)


class Zeroing(Record):
    """Noise that the synthetic test infers, [share zeroed][σ_a][σ_r]."""

    zeroed: list[float]
    sigmas: list[float]
    recovered_activation: Grid
    recovered_reconstruction: Grid
    dense: dict[str, Dense] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _full(self) -> Self:
        sides = len(self.sigmas)
        for grid in (self.recovered_activation, self.recovered_reconstruction):
            planes = [
                len(plane) == sides and {len(row) for row in plane} == {sides} for plane in grid
            ]
            if len(grid) != len(self.zeroed) or not all(planes):
                raise ValueError("the grid has not one number per share and noise")
        return self

    def recovered(self, kind: str, share: int, sigma: int) -> float | None:
        """The mean over the other noise of what is inferred of one."""
        if kind == "activation":
            cells = self.recovered_activation[share][sigma]
        else:
            cells = [row[sigma] for row in self.recovered_reconstruction[share]]
        known = [cell for cell in cells if cell is not None]
        return sum(known) / len(known) if known else None


def attribution(audits: Sequence[Audited]) -> list[Chart]:
    """FVU by what one correction after another takes away."""
    out = []
    for audit in audits:
        get = partial(number_at, audit, "attribution")
        bars = [over(audit.sites, name, ink, get(name), "bars") for name, ink in ATTRIBUTED.items()]
        chances = [
            over(audit.sites, CHANCE, NONLINEAR, get("coefficients_chance"), "points"),
            over(audit.sites, CHOICE_CHANCE, NONLINEAR, partial(_choice_by_chance, get), "points"),
        ]
        marks = [
            one | {"size": 8, "shape": shape}
            for one, shape in zip(chances, (2, 3), strict=True)
            if one["x"]
        ]
        series = [*stacked([bar for bar in bars if bar["x"]]), *marks]
        chart = chart_of(
            f"attribution-{audit.index}",
            "FVU by what takes it away",
            series,
            site_axis(audit.sites),
            {"title": "", "zero": True},
        )
        if bars[-1]["x"]:
            out.append(panelled(chart | {"stack": True, "wide": True}, audit, audits))
    return out


def _choice_by_chance(get: Callable[[str], Get], site: str) -> Value | None:
    """Where the bar of choice would end by chance: on those of coefficients and scale."""
    chance, parts = get("choice_chance")(site), [get(name)(site) for name in list(ATTRIBUTED)[:2]]
    if chance is None or chance.value is None:
        return None
    base = sum(max(part.value or 0.0, 0.0) for part in parts if part is not None)
    ends = (None if end is None else base + end for end in (chance.low, chance.high))
    low, high = ends
    return Value(value=base + chance.value, low=low, high=high)


def extractors(audits: Sequence[Audited]) -> list[Chart]:
    """R² of u by the capacity of an MLP, and of a wide SAE without a penalty."""
    kinds = (
        ("mlp", "R² of u, by an MLP of x", "hidden units"),
        ("wide", "R² of u, by a wide SAE without penalty", "latents, times D"),
    )
    out = []
    for audit in audits:
        for section, title, unit in kinds:
            series = []
            for at, site in enumerate(audit.sites):
                made = audit.series(site, section, Widths)
                widths = made.widths if made else []
                points: list[tuple[int | float, str, Value | None]] = [
                    (w, f"{w} {unit}", audit.value(site, section, f"r2_u_{w}")) for w in widths
                ]
                series.append(series_of(site, points) | {"site": at, "shape": at})
            chart = chart_of(
                f"{section}-{audit.index}",
                title,
                [one for one in series if one["x"]],
                {"title": unit, "log": True},
                {"title": "", "zero": True},
            )
            if chart["series"]:
                out.append(panelled(chart, audit, audits))
    return out


def zeroing(audits: Sequence[Audited]) -> list[Chart]:
    """Noise put in against noise inferred, a line per share of latents left out."""
    out = []
    for audit in audits:
        for at, site in enumerate(audit.sites):
            grid = audit.series(site, "zeroing", Zeroing)
            if grid is None:
                continue
            for kind, symbol in NOISE.items():
                chart = chart_of(
                    f"zeroing-{kind}-{audit.index}-{at}",
                    f"{symbol}, {site}",
                    _lines(grid, kind),
                    {"title": f"{symbol} put in"},
                    {"title": f"{symbol} inferred", "zero": True},
                )
                out.append(panelled(chart, audit, audits))
    return out


def _lines(grid: Zeroing, kind: str) -> list[Chart]:
    """In units of the grid."""
    truth = [(sigma, "the truth", Value(value=sigma)) for sigma in grid.sigmas]
    lines = [series_of("truth", truth) | {"suite": GREY, "kind": "lines"}]
    for at, share in enumerate(grid.zeroed):
        points = [
            (sigma, f"{number(sigma)} put in", Value(value=grid.recovered(kind, at, s)))
            for s, sigma in enumerate(grid.sigmas)
        ]
        place = at / max(1, len(grid.zeroed) - 1)
        line = series_of(f"{share:.0%} zeroed", points)
        lines.append(line | {"suite": at, "shape": at, "shade": round(place, 3)})
    if kind == "activation":
        for at, (name, dense) in enumerate(grid.dense.items()):
            pairs = zip(grid.sigmas, dense.recovered_activation, strict=False)
            points = [(sigma, f"{number(sigma)} put in", Value(value=v)) for sigma, v in pairs]
            ink = {"suite": NONLINEAR, "shape": len(grid.zeroed) + at}
            lines.append(series_of(f"{name} dense part", points) | ink)
    return [line for line in lines if line["x"]]


def zeroing_table(audits: Sequence[Audited]) -> Table | None:
    """Noise inferred over noise put in, by the share of latents left out."""
    found = [
        (order, site, audit, grid)
        for order, site, audit in places(audits)
        if (grid := audit.series(site, "zeroing", Zeroing)) is not None
    ]
    if not found:
        return None
    shares = list(dict.fromkeys(share for *_, grid in found for share in grid.zeroed))
    columns = [Column(str(share), Metric(title=f"{share:.0%} zeroed")) for share in shares]
    rows = []
    for order, site, audit, grid in found:
        cells = [Cell("–", "", None)] * len(shares)
        for at, share in enumerate(grid.zeroed):
            own, other = (_ratio(grid, kind, at) for kind in NOISE)
            cells[shares.index(share)] = Cell(number(own), f"{number(other)} of σ_r", own)
        rows.append(Row(site, order, audit.index, audit.label, cells))
    caption = "σ_a inferred over σ_a put in (1: right), and the same of σ_r, by the latents zeroed"
    return Table(caption, columns, rows)


def _ratio(grid: Zeroing, kind: str, share: int) -> float | None:
    """Mean of inferred over put in, where something was put in."""
    ratios = [
        value / sigma
        for at, sigma in enumerate(grid.sigmas)
        if sigma > 0 and (value := grid.recovered(kind, share, at)) is not None
    ]
    return sum(ratios) / len(ratios) if ratios else None
