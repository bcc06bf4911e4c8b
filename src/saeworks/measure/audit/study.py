"""What a study of the error says of itself: its metrics, how they are drawn, what they mean."""

from collections.abc import Mapping
from typing import Any, ClassVar

from saeworks.measure.audit.words import Sections, value_of
from saeworks.results.figure import Chapter, Figure
from saeworks.results.metric import Metric, Value
from saeworks.results.section import Section


class AuditStudy:
    """A question about the error of an SAE, and the section that answers it."""

    name: ClassVar[str]
    """The key of its section in the result."""
    title: ClassVar[str]
    about: ClassVar[str]
    """What it answers, and on what it rests, in a sentence or two."""
    metrics: ClassVar[Mapping[str, Metric]]
    headline: ClassVar[Mapping[str, str]] = {}
    """Its metrics in the table of `saeworks audit`, with the heads of their columns."""
    chapter: ClassVar[Chapter]
    """The chapter of the report's page that it stands in."""
    figures: ClassVar[tuple[Figure, ...]] = ()

    @classmethod
    def value(cls, sections: Sections, metric: str) -> Value:
        """One of its numbers at a site; `Value(None)` where it was not measured."""
        return value_of(sections, cls.name, metric)

    @classmethod
    def sentences(cls, sections: Sections) -> tuple[str, ...]:
        """What its numbers at a site say, for the verdict."""
        return ()

    @classmethod
    def section(
        cls, sites: Mapping[str, Mapping[str, Value]], series: Mapping[str, Mapping[str, Any]]
    ) -> Section:
        """Its section, from site → metric → value; a metric that no site has is left out."""
        known = {metric for values in sites.values() for metric in values}
        return Section(
            title=cls.title,
            about=cls.about,
            chapter=cls.chapter,
            metrics={key: metric for key, metric in cls.metrics.items() if key in known},
            sites={site: dict(values) for site, values in sites.items()},
            series={site: dict(lists) for site, lists in series.items()},
            figures=cls.figures,
        )
