"""Tables: a row per site and suite, a column per metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from saeworks.report.numbers import decimals, measured
from saeworks.results.metric import Metric, Value


@dataclass(frozen=True)
class Cell:
    """One number of a table: as text, as its interval, and as the key to sort by."""

    text: str
    interval: str
    key: float | None


@dataclass(frozen=True)
class Column:
    """One metric of a table."""

    id: str
    metric: Metric


@dataclass(frozen=True)
class Row:
    """One site of one suite."""

    site: str
    order: int
    suite: int
    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """A caption, columns, and a row per site and suite."""

    caption: str
    columns: list[Column]
    rows: list[Row]


class RowPlace(NamedTuple):
    """Where a row belongs: number of the site and its name, number of the suite and its label."""

    order: int
    site: str
    suite: int
    label: str


def rows_of(places: Sequence[RowPlace], values: Sequence[Sequence[Value | None]]) -> list[Row]:
    """The rows with any value; a column's numbers have the same decimals."""
    digits = [decimals(column) for column in zip(*values, strict=True)]
    return [
        Row(place.site, place.order, place.suite, place.label, list(map(cell, of_place, digits)))
        for place, of_place in zip(places, values, strict=True)
        if any(of_place)
    ]


def cell(value: Value | None, digits: int | None) -> Cell:
    """A value and its interval, with `digits` decimals if given."""
    return Cell(*measured(value, digits), value.value if value else None)
