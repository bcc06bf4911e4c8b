"""A figure as its study declares it: which numbers are drawn, and how.

It names keys of the study's section and no colours or sizes, which the page chooses by its theme.
A trace takes either a metric at every site, or lists of the series of each site.
"""

from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat
from pydantic.dataclasses import dataclass

from saeworks.config import STRICT

LINEAR, NONLINEAR, ABSENT, ENCODER, GREY = 0, 1, 2, 4, 6
"""Colours of the parts of an error, the same in every figure; grey: what it is compared with."""


Chapter = Literal[
    "parts", "widths", "layers", "shrinkage", "norms", "effects", "sources", "controls"
]
"""Questions about the error, in the order of the report."""


@dataclass(frozen=True, config=STRICT)
class Axis:
    """What an axis shows."""

    title: str = ""
    """The unit of the first metric where it is empty."""
    each: str = ""
    """What a value on it is called, with {} for the number: `position {}`."""
    log: bool = False
    zero: bool = False
    """Whether it starts at 0."""
    least: tuple[FiniteFloat, FiniteFloat] | None = None
    """What it shows at least, so that a small difference does not look like much."""


@dataclass(frozen=True, config=STRICT)
class Trace:
    """One set of marks: a metric, or two lists of the series."""

    label: str = ""
    metric: str = ""
    """A key of the section's metrics, or `section.key` of another section."""
    x: str = ""
    """A key of the site's series; a dot leads into a mapping. In a table, the heads."""
    y: str = ""
    at: FiniteFloat | None = None
    """Its place on a numeric axis, where the traces stand side by side on it."""
    on: tuple[str, ...] = ()
    """Metrics on whose values, as far as they are above 0, it stands."""
    ink: int = 0
    """One of the page's colours."""
    shade: Annotated[float, Field(ge=0, le=1)] | None = None
    """A place from 0 to 1 on a scale of colours, where traces are in an order."""
    shape: int | None = None
    """Of its marks; that of its colour where it is None."""
    mark: Literal["", "both", "lines", "points"] = ""
    """What the kind of figure says where it is empty."""
    size: int = 0
    """Of a mark; 0: as usual."""


@dataclass(frozen=True, config=STRICT)
class Figure:
    """A figure of a section, for one suite or several."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    """Once in all sections."""
    kind: Literal["line", "bar", "stack", "scatter", "histogram", "table"]
    """A table has the first trace in its cells and the second, with its label, beneath."""
    traces: Annotated[tuple[Trace, ...], Field(min_length=1)]
    title: str = ""
    """The metric's where it is empty."""
    lines: Literal["traces", "sites", "suites"] = "traces"
    """What a line, or a colour of bars, stands for. The x axis is then: sites, where metrics are
    drawn over them; the traces, where a line is a site; the lists' x, where lists are drawn."""
    x: Axis = Axis()
    y: Axis = Axis(zero=True)
    caption: str = ""
    """What it shows and how to read it; the metric's description where a line is a suite and it is
    empty."""
    chapter: Chapter | None = None
    """Where it stands on the page; with its section where it is None."""
    above_zero: str = ""
    """A metric whose interval must lie above 0: other sites are left out."""
    wide: bool = False
    """As wide as the page."""
    small: bool = False
    """One of many."""
    beside: bool = False
    """Few suites stand side by side, on one scale."""


def without_defaults(record: Any) -> Any:
    """Records as plain data, without the fields that are at their defaults."""
    if is_dataclass(record):
        return {
            f.name: without_defaults(getattr(record, f.name))
            for f in fields(record)
            if f.default is MISSING or getattr(record, f.name) != f.default
        }
    return [without_defaults(part) for part in record] if isinstance(record, tuple) else record
