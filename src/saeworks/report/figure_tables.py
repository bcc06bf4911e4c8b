"""The numbers behind figures as tables: every metric of a section, lists of its series."""

from collections.abc import Sequence
from typing import Any

from saeworks.report.numbers import number
from saeworks.report.sources import FigureSource, called, places, points
from saeworks.report.tables import Cell, Column, Row, Table, rows_of
from saeworks.results.figure import Figure, Trace
from saeworks.results.metric import Metric


def metrics_table(section: str, sources: Sequence[FigureSource]) -> Table | None:
    """Every metric of a section; None where nothing was measured."""
    known = [source.sections[section] for source in sources if section in source.sections]
    rows = places(sources)
    columns = [
        Column(key, metric)
        for key, metric in {k: m for part in known for k, m in part.metrics.items()}.items()
        if any(source.value(place.site, section, key) for place, source in rows)
    ]
    if not columns:
        return None
    values = [
        [source.value(place.site, section, column.id) for column in columns]
        for place, source in rows
    ]
    return Table(known[0].title, columns, rows_of([place for place, _ in rows], values))


def lists_table(section: str, figure: Figure, sources: Sequence[FigureSource]) -> Table | None:
    """A figure of kind `table`: lists of the series, a column per head.

    Raises:
        UserError: if a list is not what it should be.
    """
    shown, *beneath = figure.traces
    filled = []
    for place, source in places(sources):
        cells = dict(_cells(section, figure, shown, source, place.site))
        under = dict(_cells(section, figure, beneath[0], source, place.site)) if beneath else {}
        if cells:
            filled.append((place, cells, under))
    heads = list(dict.fromkeys(head for _, cells, _ in filled for head in cells))
    if all(isinstance(head, int | float) for head in heads):
        heads.sort()
    if not heads:
        return None
    rows = [
        Row(
            place.site,
            place.order,
            place.suite,
            place.label,
            [
                Cell(
                    number(cells.get(head)),
                    f"{number(under.get(head))} {beneath[0].label}" if head in under else "",
                    cells.get(head),
                )
                for head in heads
            ],
        )
        for place, cells, under in filled
    ]
    columns = [Column(str(head), Metric(called(head, figure.x), "")) for head in heads]
    return Table(figure.title, columns, rows)


def _cells(
    section: str, figure: Figure, trace: Trace, source: FigureSource, site: str
) -> list[tuple[Any, float | None]]:
    return [
        (head, value.value)
        for head, _, value in points(section, figure, trace, source, site, None)
        if value is not None
    ]
