"""Figures as their studies declare them, as data of charts and tables for one suite or several.

A chart is {id, title, description, better, x: axis, y: axis, series: [...]}; a series has name,
x, y, low and high (or null), `suite` and `site` numbers for its colour, and `shape`, `kind`. A
chart of one suite has the suite's number as its `panel` where there are several to choose from.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saeworks.errors import UserError
from saeworks.report.baseline import site_axis
from saeworks.report.numbers import decimals, measured, number, rounded
from saeworks.report.summary import Cell, Column, Row, Table
from saeworks.results.figure import Axis, Figure, Trace
from saeworks.results.metric import Metric, Value
from saeworks.results.names import command
from saeworks.results.result import Result
from saeworks.results.section import Section

Chart = dict[str, Any]
Point = tuple[int | float | str, str, Value | None]
"""x (in a table: a head), what to call it, y."""

NO_TICKS: Chart = {"values": [], "text": []}
"""Of an axis along which suites stand in the order of the legend."""
MARKS = {"bar": "bars", "stack": "bars", "scatter": "points", "histogram": "steps"}
SHOWN_AT_ONCE = 4
"""Suites whose charts stand side by side where a figure asks for it; of more, one at a time."""
MANY_SCATTERS, SMALL_SAMPLE = 12, 150
"""Of more scatters than that, each has no more points than that."""


@dataclass(frozen=True)
class FigureSource:
    """The sections, or the results, of one suite that figures are drawn of.

    Attributes:
        index: the suite's number in the report.
        file: that holds all sections; where each is a result of its own, their folder.
    """

    index: int
    label: str
    sites: list[str]
    sections: Mapping[str, Section | Result]
    file: Path

    def value(self, site: str, section: str, metric: str) -> Value | None:
        """A number, or None where it was not measured or is undefined; `metric` may name another
        section before a dot."""
        if "." in metric:
            section, _, metric = metric.partition(".")
        known = self.sections.get(section)
        value = known.sites.get(site, {}).get(metric) if known else None
        return value if value is not None and value.value is not None else None

    def metric(self, section: str, key: str) -> Metric | None:
        """The metric that a key names."""
        known = self.sections.get(section)
        return known.metrics.get(key) if known else None

    def entries(self, site: str, section: str, key: str) -> list[Any] | None:
        """A list of a site's series, None where there is none.

        Raises:
            UserError: if it is no list of finite numbers, nulls or words.
        """
        known = self.sections.get(section)
        value: Any = known.series.get(site) if known else None
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None:
            return None
        if not isinstance(value, list) or not all(_drawable(entry) for entry in value):
            raise UserError(self.broken(site, section, key, "no list of finite numbers"))
        return value

    def broken(self, site: str, section: str, key: str, why: str) -> str:
        """The error for a series that is not what it should be."""
        file, place, again = self.file, f"series.{site}.{key}", command(section)
        if isinstance(self.sections[section], Section):
            place, again = f"sections.{section}.{place}", "saeworks audit"
        else:
            file = file / f"{section}.json"
        return f"{file}: {place!r} is {why}; run `{again}` again"


def _drawable(entry: Any) -> bool:
    if isinstance(entry, float):
        return math.isfinite(entry)
    return entry is None or (isinstance(entry, str | int) and not isinstance(entry, bool))


def declared(sources: Sequence[FigureSource]) -> list[tuple[str, Figure]]:
    """Every figure once, with the section that declares it."""
    first = {
        figure.id: (name, figure)
        for source in reversed(sources)
        for name, section in source.sections.items()
        for figure in section.figures
    }
    return list(first.values())


def charts(section: str, figure: Figure, sources: Sequence[FigureSource]) -> list[Chart]:
    """The charts of a figure that is not a table.

    Raises:
        UserError: if a list that it draws is not what it should be.
    """
    known = [source for source in sources if section in source.sections]
    drawn: Iterable[Chart]
    if figure.lines == "suites":
        lists = bool(figure.traces[0].y)
        drawn = (
            _suites_of_lists(section, figure, known) if lists else _suites(section, figure, known)
        )
    else:
        draw = _of_traces if figure.lines == "traces" else _of_sites
        scatters = sum(len(source.sites) for source in known)
        most = SMALL_SAMPLE if len(sources) > 1 and scatters > MANY_SCATTERS else None
        panels = len(sources) > (SHOWN_AT_ONCE if figure.beside else 1)
        drawn = [
            chart | ({"panel": source.index} if panels else {})
            for source in known
            for chart in draw(section, figure, source, most)
        ]
    drawn = [chart for chart in drawn if chart["series"]]
    return _on_one_scale(drawn) if figure.beside else drawn


def _of_traces(
    section: str, figure: Figure, source: FigureSource, most: int | None
) -> Iterator[Chart]:
    """A line per trace: metrics over the sites, or lists in a chart per site."""
    if any(trace.y for trace in figure.traces):
        for at, site in enumerate(source.sites):
            lines = [
                line_of(trace, _points(section, figure, trace, source, site, most), figure.kind)
                for trace in figure.traces
            ]
            chart = _chart(section, figure, [source], lines, f"{source.index}-{at}")
            yield chart | {"title": f"{figure.title}, {site}"}
        return
    sites = source.sites
    if figure.above_zero:
        sites = [s for s in sites if _above_zero(source.value(s, section, figure.above_zero))]
    lines = [
        line_of(trace, _over(sites, section, trace, source), figure.kind) for trace in figure.traces
    ]
    yield _chart(section, figure, [source], lines, str(source.index), site_axis(sites))


def _of_sites(
    section: str, figure: Figure, source: FigureSource, most: int | None
) -> Iterator[Chart]:
    """A line per site: over the traces, or of the lists of one."""
    axis: Chart = {}
    if figure.traces[0].y:
        of_site = {
            site: _points(section, figure, figure.traces[0], source, site, most)
            for site in source.sites
        }
    else:
        known = [
            t
            for t in figure.traces
            if any(source.value(s, section, t.metric) for s in source.sites)
        ]
        of_site = {
            site: [
                (at if t.at is None else t.at, t.label, source.value(site, section, t.metric))
                for at, t in enumerate(known)
            ]
            for site in source.sites
        }
        if all(t.at is None for t in known):
            ticks = {"values": list(range(len(known))), "text": [t.label for t in known]}
            axis = {"title": figure.x.title, "ticks": ticks}
    lines = [
        series_of(site, points) | {"site": at, "shape": at}
        for at, (site, points) in enumerate(of_site.items())
    ]
    yield _chart(section, figure, [source], lines, str(source.index), axis)


def _suites(section: str, figure: Figure, sources: Sequence[FigureSource]) -> Iterator[Chart]:
    """A metric over the sites, a line per suite; at a lone site a point per suite."""
    trace = figure.traces[0]
    sites = list(dict.fromkeys(site for source in sources for site in source.sites))
    beside = len(sites) == 1 and len(sources) > 1
    lines = []
    for source in sources:
        of_source = Trace(source.label, trace.metric, ink=source.index)
        line = line_of(of_source, _over(sites, section, of_source, source), figure.kind)
        lines.append(line | {"x": [source.index for _ in line["x"]]} if beside else line)
    axis = {"title": sites[0], "ticks": NO_TICKS} if beside else site_axis(sites)
    yield _chart(section, figure, sources, lines, "", axis)


def _suites_of_lists(
    section: str, figure: Figure, sources: Sequence[FigureSource]
) -> Iterator[Chart]:
    """Lists, a line per suite, in a chart per site."""
    sites = list(dict.fromkeys(site for source in sources for site in source.sites))
    for at, site in enumerate(sites):
        lines = [
            line_of(
                Trace(source.label, ink=source.index),
                _points(section, figure, figure.traces[0], source, site, None),
                figure.kind,
            )
            for source in sources
        ]
        chart = _chart(section, figure, sources, lines, str(at))
        yield chart | {"title": ", ".join(filter(None, (figure.title, site)))}


def _over(sites: Sequence[str], section: str, trace: Trace, source: FigureSource) -> list[Point]:
    """A metric at every site, in the order of the axis."""

    def standing(site: str) -> Value | None:
        value = source.value(site, section, trace.metric)
        beneath = [source.value(site, section, metric) for metric in trace.on]
        return _raised(value, math.fsum(max(v.value or 0.0, 0.0) for v in beneath if v))

    return [(at, site, standing(site)) for at, site in enumerate(sites)]


def _raised(value: Value | None, base: float) -> Value | None:
    if value is None or value.value is None or not base:
        return value
    low, high = (None if end is None else base + end for end in (value.low, value.high))
    return Value(base + value.value, low, high)


def _above_zero(value: Value | None) -> bool:
    return value is not None and value.low is not None and value.low > 0


def _points(
    section: str, figure: Figure, trace: Trace, source: FigureSource, site: str, most: int | None
) -> list[Point]:
    """Two lists of a site's series; in a scatter the first of their points."""
    x, y = (source.entries(site, section, key) for key in (trace.x, trace.y))
    if x is None or y is None:
        return []
    if figure.kind == "histogram" and y:  # the last count reaches to the last edge
        y = [*y, y[-1]]
    if len(x) != len(y):
        why = f"{len(y)} numbers, for {len(x)} of {trace.x!r}"
        raise UserError(source.broken(site, section, trace.y, why))
    if figure.kind == "scatter":
        x, y = x[:most], y[:most]
    return [(a, _called(a, figure.x), Value(b)) for a, b in zip(x, y, strict=True) if a is not None]


def _called(value: Any, axis: Axis) -> str:
    words = value if isinstance(value, str) else number(value)
    return axis.each.replace("{}", words) if axis.each else f"{words} {axis.title}"


def _chart(
    section: str,
    figure: Figure,
    sources: Sequence[FigureSource],
    lines: Sequence[Chart],
    at: str,
    axis: Chart | None = None,
) -> Chart:
    """A chart of lines; a line without points is left out."""
    lines = [line for line in lines if line["x"]]
    metrics = [_meaning(section, trace, sources) for trace in figure.traces]
    first = metrics[0] or Metric("", "")
    better = {metric.better for metric in metrics if metric}
    x: Chart = axis or {"title": figure.x.title} | ({"log": True} if figure.x.log else {})
    y: Chart = {"title": figure.y.title or first.unit, "zero": figure.y.zero}
    if figure.y.least:
        values = [v for line in lines for v in line["y"]]
        low, high = figure.y.least
        room = 0.1 * (high - low)
        y["range"] = [rounded(min(low, *values) - room), rounded(max(high, *values) + room)]
    title = figure.title or first.title
    if figure.beside:  # each chart is a suite's
        title, y["title"] = sources[0].label, title
    caption = figure.caption or (first.description if figure.lines == "suites" else "")
    id_ = "-".join(filter(None, (figure.id, at)))
    chart = chart_of(id_, title, stacked(lines) if figure.kind == "stack" else lines, x, y)
    return (
        chart
        | {"description": caption, "better": better.pop() if len(better) == 1 else None}
        | ({"stack": True} if figure.kind == "stack" else {})
        | ({"wide": True} if figure.wide else {})
    )


def _meaning(section: str, trace: Trace, sources: Sequence[FigureSource]) -> Metric | None:
    known = (source.metric(section, trace.metric) for source in sources)
    return next((metric for metric in known if metric), None)


def _on_one_scale(drawn: list[Chart]) -> list[Chart]:
    """Stacks with one y axis: from 0 to a little above the highest of them."""
    tops = (
        top
        for chart in drawn
        for series in chart["series"]
        if series["kind"] == "whiskers"
        for key in ("y", "high")
        for top in series[key]
    )
    highest = max((top for top in tops if top is not None), default=1.0)
    scale = {"range": [0, rounded(1.05 * highest)]}
    return [chart | {"y": chart["y"] | scale} for chart in drawn]


def chart_of(id_: str, title: str, series: Sequence[Chart], x: Chart, y: Chart) -> Chart:
    """A chart without a description."""
    return {
        "id": id_,
        "title": title,
        "description": "",
        "better": None,
        "x": x,
        "y": y,
        "series": list(series),
    }


def line_of(trace: Trace, points: Iterable[Point], kind: str) -> Chart:
    """The marks of a trace in a figure of a kind."""
    shape = trace.ink if trace.shape is None else trace.shape
    line = series_of(trace.label, points) | {"suite": trace.ink, "shape": shape}
    line["kind"] = trace.mark or MARKS.get(kind, "both")
    if trace.shade is not None:
        line["shade"] = trace.shade
    return line | ({"size": trace.size} if trace.size else {})


def series_of(name: str, points: Iterable[Point]) -> Chart:
    """Marks at points; those without a value are left out."""
    known = [(x, text, v) for x, text, v in points if v is not None and v.value is not None]
    return {
        "name": name,
        "x": [rounded(x) if isinstance(x, float) else x for x, _, _ in known],
        "y": [rounded(v.value) for _, _, v in known],
        "low": [rounded(v.low) for _, _, v in known],
        "high": [rounded(v.high) for _, _, v in known],
        "text": [text for _, text, _ in known],
        "kind": "both",
    }


def stacked(lines: Sequence[Chart]) -> list[Chart]:
    """Bars without intervals, then whiskers at the tops of their parts: a bar would hide them.

    Parts of height below 0 hang from 0, as the page stacks them. Marks that are no bars stay."""
    bars = [line for line in lines if line["kind"] == "bars"]
    tops: dict[tuple[float, bool], float] = {}
    whiskers = []
    for bar in bars:
        whisker = bar | {"kind": "whiskers", "y": [], "low": [], "high": []}
        for x, y, low, high in zip(bar["x"], bar["y"], bar["low"], bar["high"], strict=True):
            base = tops.get((x, y < 0), 0.0)
            tops[x, y < 0] = base + y
            for key, value in (("y", y), ("low", low), ("high", high)):
                whisker[key].append(None if value is None else rounded(base + value))
        whiskers.append(whisker)
    none = [{"low": [None] * len(bar["x"]), "high": [None] * len(bar["x"])} for bar in bars]
    plain = [bar | without for bar, without in zip(bars, none, strict=True)]
    return [*plain, *whiskers, *(line for line in lines if line["kind"] != "bars")]


@dataclass(frozen=True)
class Group:
    """Charts with one legend, by their name in the page's data."""

    id: str
    style: str
    charts: list[Chart]
    suites: bool
    """Whether a line is a suite."""


def groups(prefix: str, drawn: Sequence[tuple[Figure, list[Chart]]]) -> list[Group]:
    """Neighbours whose legends go together, each under one."""
    made: list[tuple[Figure, set[Any], list[Chart]]] = []
    for figure, shown in drawn:
        if not shown:
            continue
        legend = _legend(figure)
        if made and _style(made[-1][0]) == _style(figure):
            last = made[-1][1]
            if made[-1][0].lines == figure.lines and (last <= legend or legend <= last):
                last.update(legend)
                made[-1][2].extend(shown)
                continue
        made.append((figure, legend, list(shown)))
    return [
        Group(f"{prefix}_{figure.id}", _style(figure), shown, figure.lines == "suites")
        for figure, _, shown in made
    ]


def _legend(figure: Figure) -> set[Any]:
    if figure.lines != "traces":
        return set()
    return {(trace.label, trace.ink, trace.shade) for trace in figure.traces}


def _style(figure: Figure) -> str:
    return "small" if figure.small else "beside" if figure.beside else ""


Place = tuple[int, str, FigureSource]


def places(sources: Sequence[FigureSource]) -> list[Place]:
    """(number of the site, site, source), site by site."""
    sites = list(dict.fromkeys(site for source in sources for site in source.sites))
    return [
        (order, site, source)
        for order, site in enumerate(sites)
        for source in sources
        if site in source.sites
    ]


def metrics_table(section: str, sources: Sequence[FigureSource]) -> Table | None:
    """Every metric of a section; None where nothing was measured."""
    known = [source.sections[section] for source in sources if section in source.sections]
    metrics = {key: metric for part in known for key, metric in part.metrics.items()}
    rows = places(sources)
    values = {
        key: [source.value(site, section, key) for _, site, source in rows] for key in metrics
    }
    values = {key: column for key, column in values.items() if any(column)}
    if not values:
        return None
    digits = [decimals(column) for column in values.values()]
    out = []
    for (order, site, source), row_values in zip(
        rows, zip(*values.values(), strict=True), strict=True
    ):
        if any(row_values):
            cells = [
                Cell(*measured(v, d), v.value if v else None)
                for v, d in zip(row_values, digits, strict=True)
            ]
            out.append(Row(site, order, source.index, source.label, cells))
    return Table(known[0].title, [Column(key, metrics[key]) for key in values], out)


def lists_table(section: str, figure: Figure, sources: Sequence[FigureSource]) -> Table | None:
    """A figure of kind `table`: lists of the series, a column per head.

    Raises:
        UserError: if a list is not what it should be.
    """
    shown, *beneath = figure.traces
    filled = []
    for order, site, source in places(sources):
        cells = dict(_cells(section, figure, shown, source, site))
        under = dict(_cells(section, figure, beneath[0], source, site)) if beneath else {}
        if cells:
            filled.append((order, site, source, cells, under))
    heads = list(dict.fromkeys(head for *_, cells, _ in filled for head in cells))
    if all(isinstance(head, int | float) for head in heads):
        heads.sort()
    if not heads:
        return None
    rows = [
        Row(
            site,
            order,
            source.index,
            source.label,
            [
                Cell(
                    number(cells.get(head)),
                    f"{number(under.get(head))} {beneath[0].label}" if head in under else "",
                    cells.get(head),
                )
                for head in heads
            ],
        )
        for order, site, source, cells, under in filled
    ]
    columns = [Column(str(head), Metric(_called(head, figure.x), "")) for head in heads]
    return Table(figure.title, columns, rows)


def _cells(
    section: str, figure: Figure, trace: Trace, source: FigureSource, site: str
) -> list[tuple[Any, float | None]]:
    return [
        (head, value.value)
        for head, _, value in _points(section, figure, trace, source, site, None)
        if value is not None
    ]
