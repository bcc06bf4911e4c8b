"""The audit over widths: what the SAEs of a family lose, the law, errors token by token.

Every suite of a family tells the same of it, so it is drawn once, of the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from saeworks.report.figures import Group
from saeworks.report.marks import Chart, Point, chart_of, line_of, stacked, ticks
from saeworks.report.numbers import measured, number
from saeworks.report.sources import FigureSource, places
from saeworks.report.tables import Cell, Column, Row, Table
from saeworks.results.families import SECTION, Family, Law, NormPair
from saeworks.results.figure import GREY, LINEAR, NONLINEAR, Trace
from saeworks.results.metric import Metric, Value
from saeworks.results.records import parse


@dataclass(frozen=True)
class Told:
    """A family at a site, by the suite that tells of it; `order` is the site's number."""

    order: int
    site: str
    source: FigureSource
    family: Family

    @property
    def title(self) -> str:
        """The family's site and architecture."""
        return f"{self.site}, {self.family.arch}"

    def pair(self, pair: NormPair) -> str:
        """The two widths of a pair, as text."""
        saes = self.family.saes
        return f"{saes[pair.narrow].width} → {saes[pair.wide].width}"


def families(sources: Sequence[FigureSource]) -> list[Told]:
    """Every family of two or more SAEs once.

    Raises:
        UserError: if a series on scaling is not what it should be.
    """
    told: dict[tuple[object, ...], Told] = {}
    for (order, site, _, _), source in places(sources):
        section = source.sections.get(SECTION)
        series = section.series.get(site) if section else None
        if not series:
            continue
        place = ("sections", SECTION, "series", site)
        family = parse(Family, series, str(source.file), "run `saeworks audit` again", *place)
        if len(family.saes) > 1:
            key = (site, family.arch, *((sae.suite, sae.width) for sae in family.saes))
            told.setdefault(key, Told(order, site, source, family))
    return list(told.values())


def stacks(told: Sequence[Told]) -> list[Chart]:
    """FVU per width, its parts on one another."""
    out = []
    for at, family in enumerate(told):
        saes = family.family.saes
        traces = {part.label: Trace(part.label, ink=part.ink) for sae in saes for part in sae.parts}
        points: dict[str, list[Point]] = {label: [] for label in traces}
        for place, sae in enumerate(saes):
            for part in sae.parts:
                points[part.label].append((place, str(sae.width), part.value))
        bars = [line_of(trace, points[label], "stack") for label, trace in traces.items()]
        x, y = ticks([str(sae.width) for sae in saes], "latents"), {"title": "FVU", "zero": True}
        chart = chart_of(f"widths-{at}", family.title, stacked(bars), x, y)
        out.append(chart | {"stack": True})
    return out


def laws(told: Sequence[Told]) -> list[Chart]:
    """FVU and FVU_nl over width, and the law."""
    out = []
    for at, family in enumerate(told):
        saes, law = family.family.saes, family.family.law
        total = [(sae.width, f"{sae.width} latents", sae.fvu) for sae in saes]
        nonlinear = [(sae.width, f"{sae.width} latents", sae.fvu_nonlinear) for sae in saes]
        lines = [
            line_of(Trace("FVU", ink=LINEAR), total, "line"),
            line_of(Trace("FVU_nl", ink=NONLINEAR), nonlinear, "line"),
        ]
        if law is not None:
            pairs = zip(law.curve.width, law.curve.fvu, strict=True)
            curve = [(width, f"{number(width)} latents", Value(fvu)) for width, fvu in pairs]
            lines.append(line_of(Trace("law", ink=GREY, mark="lines"), curve, "line"))
        x, y = {"title": "latents", "log": True}, {"title": "", "log": True}
        out.append(chart_of(f"law-{at}", family.title, lines, x, y, _in_words(law)))
    return out


def _in_words(law: Law | None) -> str:
    if law is None:
        return "Too few widths for a law."
    return f"FVU = c + a·W⁻ᵐ, c = {number(law.c.value)}: {law.why}."


def per_token(told: Sequence[Told]) -> list[Chart]:
    """How well ‖e‖ at one width predicts ‖e‖ at another, and what ‖u‖ adds."""
    out = []
    for at, family in enumerate(told):
        pairs = family.family.per_token
        names = [family.pair(pair) for pair in pairs]
        alone = [(x, names[x], pair.r2) for x, pair in enumerate(pairs)]
        both = [(x, names[x], pair.r2_with_nonlinear) for x, pair in enumerate(pairs)]
        bars = [
            line_of(Trace("from ‖e‖", ink=LINEAR), alone, "bar"),
            line_of(Trace("from ‖e‖ and ‖u‖", ink=NONLINEAR), both, "bar"),
        ]
        x = ticks(names, "latents, from → of") | {"angle": -40}
        if pairs:
            y = {"title": "", "zero": True}
            out.append(chart_of(f"token-{at}", family.title, bars, x, y))
    return out


def parts_table(told: Sequence[Told]) -> Table:
    """A table with the parts of each SAE's FVU."""
    bands = list(
        dict.fromkeys(key for entry in told for sae in entry.family.saes for key in sae.bands)
    )
    titles = ["latents", "L0", "FVU", "FVU_nl", *(key.replace("_", " ") for key in bands)]
    rows = [
        Row(
            entry.title,
            entry.order,
            entry.source.index,
            sae.suite,
            [
                Cell(f"{sae.width:,}", "", float(sae.width)),
                Cell(number(sae.l0), "", sae.l0),
                *(Cell(*measured(v, 4), v.value) for v in (sae.fvu, sae.fvu_nonlinear)),
                *(Cell(*measured(Value(v), 4), v) for v in map(sae.bands.get, bands)),
            ],
        )
        for entry in told
        for sae in entry.family.saes
    ]
    columns = [Column(title, Metric(title, "")) for title in titles]
    return Table("The parts of FVU by width", columns, rows)


def pairs_table(told: Sequence[Told]) -> Table:
    """A table of how well ‖e‖ is predicted, a row for each pair of widths."""
    heads = {"R² from ‖e‖": "", "R² from ‖e‖ and ‖u‖": "", "added, of what was left": "%"}
    rows = []
    for entry in told:
        for pair in entry.family.per_token:
            values = ((pair.r2, 3), (pair.r2_with_nonlinear, 3), (pair.added_percent, 2))
            cells = [Cell(*measured(v, digits), v.value) for v, digits in values]
            site = f"{entry.title}, {entry.pair(pair)}"
            rows.append(Row(site, entry.order, entry.source.index, entry.source.label, cells))
    columns = [Column(title, Metric(title, "", unit)) for title, unit in heads.items()]
    return Table("‖e‖ of one width from that of another", columns, rows)


def notes(told: Sequence[Told]) -> list[str]:
    """Sentences on the SAEs that were left out, and why."""
    sites: dict[str, list[str]] = {}
    for entry in told:
        for sae in entry.family.left_out:
            sites.setdefault(f"{sae.suite} is left out: {sae.why}", []).append(entry.site)
    return [f"{why} ({', '.join(dict.fromkeys(at))})." for why, at in sites.items()]


def drawn(told: Sequence[Told]) -> list[Group]:
    """The charts of all families."""
    made = (
        Group("audit_widths", "", stacks(told), False),
        Group("audit_laws", "", laws(told), False),
        Group("audit_tokens", "beside", per_token(told), False),
    )
    return [group for group in made if group.charts]


def tables(told: Sequence[Told]) -> list[Table]:
    """The tables of all families."""
    return [table for table in (parts_table(told), pairs_table(told)) if table.rows]
