"""The audit over widths: what is lost by SAEs of several widths, the law, errors token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from saeworks.report.audit_charts import (
    ABSENT,
    ENCODER,
    GREY,
    LINEAR,
    NONLINEAR,
    chart_of,
    series_of,
    stacked,
)
from saeworks.report.audit_inputs import Audited, Record
from saeworks.report.audit_tables import Table, places
from saeworks.report.numbers import measured, number
from saeworks.report.summary import Cell, Column, Row
from saeworks.results.metric import Metric, Value

Chart = dict[str, Any]


class Sized(Record):
    """One SAE of a family."""

    suite: str
    width: int
    l0: float
    fvu: Value
    fvu_nonlinear: Value
    bands: dict[str, float | None] = Field(default_factory=dict)


class Curve(Record):
    """A law as drawn."""

    width: list[float] = Field(default_factory=list)
    fvu: list[float] = Field(default_factory=list)


class Law(Record):
    """FVU = c + a·W^(−m)."""

    c: Value
    a: Value
    m: Value
    identified: bool
    why: str = ""
    curve: Curve


class Pair(Record):
    """‖e‖ at one width from that at another; indices of the family's SAEs."""

    start: int = Field(alias="from")
    end: int = Field(alias="to")
    r2: Value
    r2_with_nonlinear: Value
    added_percent: Value


class LeftOut(Record):
    """An SAE that is not compared."""

    suite: str
    why: str


class Scaling(Record):
    """SAEs of one architecture, several widths and about equal L0 at one site."""

    arch: str
    saes: list[Sized]
    law: Law | None = None
    per_token: list[Pair] = Field(default_factory=list)
    left_out: list[LeftOut] = Field(default_factory=list)


@dataclass(frozen=True)
class Family:
    """A family at a site; `order` is the site's number."""

    order: int
    site: str
    audit: Audited
    scaling: Scaling

    @property
    def title(self) -> str:
        """Where, and of what."""
        return f"{self.site}, {self.scaling.arch}"


def families(audits: Sequence[Audited]) -> list[Family]:
    """Every family once, whichever of its suites tells of it first."""
    found: dict[tuple[Any, ...], Family] = {}
    for order, site, audit in places(audits):
        scaling = audit.series(site, "scaling", Scaling)
        if scaling is not None and len(scaling.saes) > 1:
            key = (site, scaling.arch, tuple((one.suite, one.width) for one in scaling.saes))
            found.setdefault(key, Family(order, site, audit, scaling))
    return list(found.values())


def stacks(found: Sequence[Family]) -> list[Chart]:
    """FVU per width, its parts on one another."""
    out = []
    for at, family in enumerate(found):
        saes = family.scaling.saes
        parts = [_parts(one) for one in saes]
        names = (
            ("nonlinear", NONLINEAR),
            ("encoder", ENCODER),
            ("linear", LINEAR),
            ("absent", ABSENT),
        )
        series = [
            series_of(name, [(w, str(saes[w].width), p.get(name)) for w, p in enumerate(parts)])
            | {"suite": ink, "shape": ink, "kind": "bars"}
            for name, ink in names
        ]
        ticks = {"values": list(range(len(saes))), "text": [str(one.width) for one in saes]}
        chart = chart_of(
            f"widths-{at}",
            family.title,
            stacked([one for one in series if one["x"]]),
            {"title": "latents", "ticks": ticks},
            {"title": "FVU", "zero": True},
        )
        out.append(chart | {"stack": True})
    return out


def _parts(one: Sized) -> dict[str, Value]:
    """What adds up to an SAE's FVU; the interval of FVU_nl is on its part, that of FVU on top."""
    fvu, nonlinear = one.fvu.value, one.fvu_nonlinear.value
    if fvu is None or nonlinear is None:
        return {}
    encoder = one.bands.get("encoder") or 0.0
    encoder = encoder if 0 < encoder < nonlinear else 0.0
    absent = one.bands.get("absent")
    linear = fvu - nonlinear - (absent or 0.0)
    found = {"nonlinear": _about(nonlinear - encoder, one.fvu_nonlinear)}
    if encoder:
        found["encoder"] = Value(value=encoder)
    found["linear"] = _about(linear, one.fvu) if absent is None else Value(value=linear)
    if absent is not None:
        found["absent"] = _about(absent, one.fvu)
    return found


def _about(part: float, whole: Value) -> Value:
    """A part, with the interval of the whole about it."""
    assert whole.value is not None
    shift = part - whole.value
    low, high = (None if end is None else end + shift for end in (whole.low, whole.high))
    return Value(value=part, low=low, high=high)


def laws(found: Sequence[Family]) -> list[Chart]:
    """FVU and FVU_nl over width, and the law."""
    out = []
    for at, family in enumerate(found):
        saes, law = family.scaling.saes, family.scaling.law
        series = [
            series_of(name, [(s.width, f"{s.width} latents", getattr(s, key)) for s in saes])
            | {"suite": ink, "shape": ink}
            for name, key, ink in (("FVU", "fvu", LINEAR), ("FVU_nl", "fvu_nonlinear", NONLINEAR))
        ]
        if law is not None and len(law.curve.width) == len(law.curve.fvu):
            points = zip(law.curve.width, law.curve.fvu, strict=True)
            line = [(w, f"{number(w)} latents", Value(value=y)) for w, y in points]
            series.append(series_of("law", line) | {"suite": GREY, "kind": "lines"})
        chart = chart_of(
            f"law-{at}",
            family.title,
            series,
            {"title": "latents", "log": True},
            {"title": "", "log": True},
        )
        out.append(chart | {"description": _said(law)})
    return out


def _said(law: Law | None) -> str:
    if law is None:
        return "Too few widths for a law."
    return f"FVU = c + a·W⁻ᵐ, c = {number(law.c.value)}: {law.why}."


def per_token(found: Sequence[Family]) -> list[Chart]:
    """Does ‖e‖ at one width predict ‖e‖ at another, and what ‖u‖ adds."""
    out = []
    for at, family in enumerate(found):
        pairs = [pair for pair in family.scaling.per_token if _known(family, pair)]
        if not pairs:
            continue
        series = [
            series_of(name, [(x, _named(family, p), getattr(p, key)) for x, p in enumerate(pairs)])
            | {"suite": ink, "shape": ink, "kind": "bars"}
            for name, key, ink in (
                ("from ‖e‖", "r2", LINEAR),
                ("from ‖e‖ and ‖u‖", "r2_with_nonlinear", NONLINEAR),
            )
        ]
        ticks = {
            "values": list(range(len(pairs))),
            "text": [_named(family, pair) for pair in pairs],
        }
        x = {"title": "latents, from → of", "ticks": ticks, "angle": -40}
        out.append(chart_of(f"token-{at}", family.title, series, x, {"title": "", "zero": True}))
    return out


def _known(family: Family, pair: Pair) -> bool:
    return all(0 <= end < len(family.scaling.saes) for end in (pair.start, pair.end))


def _named(family: Family, pair: Pair) -> str:
    saes = family.scaling.saes
    return f"{saes[pair.start].width} → {saes[pair.end].width}"


def tables(found: Sequence[Family]) -> list[Table]:
    """Of every SAE its parts; of every pair how well it is predicted."""
    if not found:
        return []
    names = ("absent", "linear", "linear_or_absent", "encoder", "nonlinear")
    columns = [Column(n, Metric(title=n)) for n in ("latents", "L0", "FVU", "FVU_nl")]
    columns += [Column(n, Metric(title=n.replace("_", " "))) for n in names]
    rows, pairs = [], []
    for family in found:
        for one in family.scaling.saes:
            cells = [
                Cell(f"{one.width:,}", "", float(one.width)),
                Cell(number(one.l0), "", one.l0),
                *(Cell(*measured(v, 4), v.value) for v in (one.fvu, one.fvu_nonlinear)),
                *(Cell(*measured(Value(value=v), 4), v) for v in map(one.bands.get, names)),
            ]
            rows.append(Row(family.title, family.order, family.audit.index, one.suite, cells))
        for pair in family.scaling.per_token:
            if _known(family, pair):
                values = [(pair.r2, 3), (pair.r2_with_nonlinear, 3), (pair.added_percent, 2)]
                cells = [Cell(*measured(v, digits), v.value) for v, digits in values]
                site = f"{family.title}, {_named(family, pair)}"
                rows_of = Row(site, family.order, family.audit.index, family.audit.label, cells)
                pairs.append(rows_of)
    out = [Table("The parts of FVU by width", columns, rows)]
    if pairs:
        titles = ("R² from ‖e‖", "R² from ‖e‖ and ‖u‖", "added, of what was left")
        units = ("", "", "%")
        heads = [
            Column(t, Metric(title=t, unit=unit)) for t, unit in zip(titles, units, strict=True)
        ]
        out.append(Table("‖e‖ of one width from that of another", heads, pairs))
    return out


def notes(found: Sequence[Family]) -> list[str]:
    """What was not compared, and why."""
    sites: dict[str, list[str]] = {}
    for family in found:
        for one in family.scaling.left_out:
            sites.setdefault(f"{one.suite} is left out: {one.why}", []).append(family.site)
    return [f"{why} ({', '.join(dict.fromkeys(at))})." for why, at in sites.items()]
