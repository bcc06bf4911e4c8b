"""A page of the report, and what all pages share: suites, sites, lines of suites, the frame."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from saeworks import __version__
from saeworks.report import frontier, summary
from saeworks.report.marks import Chart
from saeworks.report.numbers import count, number
from saeworks.report.suites import SuiteData

MANY = 8
"""Suites, sites: of more, not all are named or drawn at once. As many as there are colours."""
CHARTS = ("charts.js", "tables.js")
"""Scripts of a page with charts."""


@dataclass(frozen=True)
class Report:
    """The suites, and what every page says of them alike."""

    suites: Sequence[SuiteData]

    @cached_property
    def sites(self) -> list[str]:
        """Of all suites."""
        return summary.all_sites(self.suites)

    @cached_property
    def lines(self) -> list[frontier.Line]:
        """Suites that differ in their sparsity or seed alone."""
        return frontier.lines(self.suites)

    @property
    def many(self) -> bool:
        """Whether there are more suites than colours."""
        return len(self.suites) > MANY

    @cached_property
    def line_inks(self) -> dict[int, int]:
        """Suite → its line, by number."""
        return {suite: at for at, line in enumerate(self.lines) for suite in line.suites}

    @property
    def inks(self) -> dict[int, int]:
        """Suite → its colour: of too many suites, that of its line."""
        return self.line_inks if self.many else {at: at for at in range(len(self.suites))}

    @property
    def title(self) -> str:
        """The names of the models."""
        return ", ".join(dict.fromkeys(short(suite.meta.model.name) for suite in self.suites))


@dataclass(frozen=True)
class OverviewVerdict:
    """What the overview says of a page: sentences, the most important first, and one figure."""

    sentences: Sequence[str]
    chart: Chart | None = None


@dataclass(frozen=True)
class Page:
    """What a page says.

    Attributes:
        title: in the navigation.
        heading, lead: at its top.
        name: of its file, and of its template unless `template` names another; `PAGES` gives it.
        sections: id and title of each, for the navigation and the search.
        context: for the template.
        data: for the scripts.
        files: what the scripts load when it is looked at, by its name.
        loads: those names that the scripts ask for first; others follow from them.
    """

    title: str
    heading: str
    lead: str = ""
    name: str = ""
    template: str = ""
    sections: Sequence[tuple[str, str]] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    scripts: Sequence[str] = ()
    files: Iterable[tuple[str, Any]] = ()
    loads: Sequence[str] = ()
    verdict: OverviewVerdict | None = None

    @property
    def address(self) -> str:
        """Beside the other pages."""
        return f"{self.name}.html"


def rendered(report: Report, pages: Sequence[Page]) -> dict[str, str]:
    """File → the page in its frame."""
    return {
        page.address: environment()
        .get_template(f"{page.template or page.name}.html.jinja")
        .render(
            report=report,
            suites=report.suites,
            pages=pages,
            page=page,
            shown=page.data,
            embedded=embedded_json(dict(page.data)),
            **page.context,
        )
        for page in pages
    }


def shared(report: Report, pages: Sequence[Page]) -> dict[str, Any]:
    """What the scripts of all pages are given."""
    return {
        "suites": [suite.label for suite in report.suites],
        "sites": report.sites,
        "lines": [asdict(line) for line in report.lines],
        "files": [name for page in pages for name in page.loads],
        "search": list(_places(pages)),
        "latents": any(page.name == "latents" for page in pages),
    }


def _places(pages: Sequence[Page]) -> Iterable[tuple[str, str, str]]:
    """(address, title, page's title) of what the search finds: pages, sections, charts."""
    for page in pages:
        yield page.address, page.title, page.heading
        for identity, title in page.sections:
            yield f"{page.address}#{identity}", title, page.title
        for group, charts in page.data.items() if page.name != "index" else ():
            for at, chart in enumerate(charts if isinstance(charts, list) else ()):
                if isinstance(chart, dict) and chart.get("title") and not chart.get("flat"):
                    yield f"{page.address}#{group}-{at}", chart["title"], page.title


def environment() -> Environment:
    """The templates, with what all of them may say."""
    made = Environment(
        loader=PackageLoader("saeworks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"version": __version__, "count": count, "number": number, "short": short}
    return made


def short(name: str) -> str:
    """A model's id as it is; the last part of a folder's path."""
    return Path(name).name if name.startswith(("/", ".", "~")) or name.count("/") > 1 else name


def embedded_json(value: object) -> str:
    """JSON that may stand inside a <script> element and in JavaScript: no <, >, &, line ends."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
