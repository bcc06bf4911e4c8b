"""Charts as data: what is drawn, without colours or sizes, which the page chooses by its theme.

A chart is {id, title, description, better, x: axis, y: axis, series: [...]}; a series has name,
x, y, low and high (or null), `suite` or `site` numbers for its colour, and `shape`, `kind`.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from saeworks.report.numbers import rounded
from saeworks.results.figure import Trace
from saeworks.results.metric import Value

Chart = dict[str, Any]
Point = tuple[int | float | str, str, Value | None]
"""x (in a table: a head), what to call it, y."""

MARKS = {"bar": "bars", "stack": "bars", "scatter": "points", "histogram": "steps"}
"""Kind of figure → kind of its series; lines with points by default."""


def chart_of(
    id_: str,
    title: str,
    series: Iterable[Chart],
    x: Chart,
    y: Chart,
    description: str = "",
    better: str | None = None,
) -> Chart:
    """A chart."""
    return {
        "id": id_,
        "title": title,
        "description": description,
        "better": better,
        "x": x,
        "y": y,
        "series": list(series),
    }


def series_of(name: str, points: Iterable[Point], kind: str = "both", **ink: Any) -> Chart:
    """Marks at points, whose `ink` is their colour and shape; those without a value are left
    out."""
    known = [(x, text, v) for x, text, v in points if v is not None and v.value is not None]
    return {
        "name": name,
        "x": [rounded(x) if isinstance(x, float) else x for x, _, _ in known],
        "y": [rounded(v.value) for _, _, v in known],
        "low": [rounded(v.low) for _, _, v in known],
        "high": [rounded(v.high) for _, _, v in known],
        "text": [text for _, text, _ in known],
        "kind": kind,
        **ink,
    }


def line_of(trace: Trace, points: Iterable[Point], kind: str) -> Chart:
    """The marks of a trace in a figure of a kind."""
    ink: Chart = {"suite": trace.ink, "shape": trace.ink if trace.shape is None else trace.shape}
    if trace.shade is not None:
        ink["shade"] = trace.shade
    if trace.size:
        ink["size"] = trace.size
    return series_of(trace.label, points, trace.mark or MARKS.get(kind, "both"), **ink)


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


def ticks(names: Sequence[str], title: str = "") -> Chart:
    """An axis of names, at 0, 1, …"""
    return {"title": title, "ticks": {"values": list(range(len(names))), "text": list(names)}}


def site_axis(sites: Sequence[str]) -> Chart:
    """The axis of sites, labelled by number if numbers tell the sites apart, else by name."""
    names = short_names(sites)
    return ticks(names, "layer" if names != list(sites) else "site")


def short_names(sites: Sequence[str]) -> list[str]:
    """The number in each name, where those tell the sites apart; else the names."""
    numbers = [match.group() for site in sites if (match := re.search(r"\d+", site))]
    return numbers if len(set(numbers)) == len(sites) else list(sites)
