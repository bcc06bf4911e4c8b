"""One measurement of an audit at every site."""

from dataclasses import field
from typing import Any

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.results.figure import Chapter, Figure
from saeworks.results.metric import Metric, Value
from saeworks.results.records import check_described


@dataclass(frozen=True, config=STRICT)
class Section:
    """One measurement at every site."""

    title: str
    about: str
    """What it answers, and what it rests on."""
    chapter: Chapter
    """Where the report shows it."""
    metrics: dict[str, Metric] = field(default_factory=dict)
    """What the keys of `sites` mean."""
    sites: dict[str, dict[str, Value]] = field(default_factory=dict)
    """Site → metric → value."""
    series: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Site → lists for charts, as plain JSON."""
    figures: tuple[Figure, ...] = ()
    """How it is drawn."""

    def __post_init__(self) -> None:
        check_described(self.sites.values(), self.metrics)
