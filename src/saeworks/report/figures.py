"""Figures as their studies declare them, as data of charts for one suite or several.

A chart of one suite has the suite's number as its `panel` where there are several to choose from.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from saeworks.report.marks import (
    Chart,
    Point,
    chart_of,
    line_of,
    series_of,
    site_axis,
    stacked,
    ticks,
)
from saeworks.report.numbers import rounded
from saeworks.report.sources import FigureSource, points
from saeworks.results.figure import Figure, Trace
from saeworks.results.metric import Metric, Value

NO_TICKS: Chart = {"values": [], "text": []}
"""Of an axis along which suites stand in the order of the legend."""
SHOWN_AT_ONCE = 4
"""Suites whose charts stand side by side where a figure asks for it; of more, one at a time."""
MANY_SCATTERS, SMALL_SAMPLE = 12, 150
"""Of more scatters than that, each has no more points than that."""


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
                line_of(trace, points(section, figure, trace, source, site, most), figure.kind)
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
            site: points(section, figure, figure.traces[0], source, site, most)
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
            axis = ticks([t.label for t in known], figure.x.title)
    lines = [
        series_of(site, marks, site=at, shape=at)
        for at, (site, marks) in enumerate(of_site.items())
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
                points(section, figure, figure.traces[0], source, site, None),
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
    drawn = stacked(lines) if figure.kind == "stack" else lines
    agreed = better.pop() if len(better) == 1 else None
    return (
        chart_of(id_, title, drawn, x, y, caption, agreed)
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
