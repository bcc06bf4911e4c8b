"""What figures and tables are drawn of: the sections, or the results, of a suite."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saeworks.errors import UserError
from saeworks.report.marks import Point
from saeworks.report.numbers import number
from saeworks.report.tables import RowPlace
from saeworks.results.figure import Axis, Figure, Trace
from saeworks.results.metric import Metric, Value
from saeworks.results.names import command
from saeworks.results.result import Result
from saeworks.results.section import Section


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


def places(sources: Sequence[FigureSource]) -> list[tuple[RowPlace, FigureSource]]:
    """A row of a table for every site of every source, site by site."""
    sites = list(dict.fromkeys(site for source in sources for site in source.sites))
    return [
        (RowPlace(order, site, source.index, source.label), source)
        for order, site in enumerate(sites)
        for source in sources
        if site in source.sites
    ]


def points(
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
    return [(a, called(a, figure.x), Value(b)) for a, b in zip(x, y, strict=True) if a is not None]


def called(value: Any, axis: Axis) -> str:
    words = value if isinstance(value, str) else number(value)
    return axis.each.replace("{}", words) if axis.each else f"{words} {axis.title}"
