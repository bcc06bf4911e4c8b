"""The pages on what latents mean and do: a section for each evaluation of
`results.names.ON_LATENTS`.

A section has what its results say of themselves: title, findings, declared figures, metrics; and
views, which a script of their own draws of a series.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any

from saeworks.files.seals import RESULTS
from saeworks.report.figure_tables import lists_table, metrics_table
from saeworks.report.figures import Group, charts, groups
from saeworks.report.marks import Chart
from saeworks.report.numbers import count
from saeworks.report.page import CHARTS, OverviewVerdict, Page, Report
from saeworks.report.sources import FigureSource, declared
from saeworks.report.suites import SuiteData
from saeworks.report.tables import Table
from saeworks.results.names import CONCEPTS, EXPLANATIONS, question
from saeworks.results.records import plain
from saeworks.results.series import GRAPH, STEERED, CircuitGraph, SteeredConcepts

PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "circuits": ("Circuits", "What tasks run through", ("circuits_*",)),
    "meaning": ("Meaning", "What latents mean", (CONCEPTS, "concepts_*", EXPLANATIONS, "study")),
    "steering": ("Steering", "What pushing a latent does", ("steer",)),
}
"""Page → its title, its heading, and the evaluations that stand on it, `*` for any name."""

SHOWN, FEW = 4, 2
"""Findings of a suite that are not folded away; where there are more than two suites."""


@dataclass(frozen=True)
class SectionView:
    """What a section shows beside its declared figures.

    Attributes:
        name: of the view; its script is `assets/NAME.js`, which calls
            `saeworks.view(NAME, draw)` (see `assets/views.js`).
        evaluation: whose section it stands in, `*` for any name.
        series: the key of each site's series that it draws.
        record: the series is read as.
        title, lead: heading, and what to look for.
    """

    name: str
    evaluation: str
    series: str
    record: Any
    title: str
    lead: str


VIEWS: tuple[SectionView, ...] = (
    SectionView(
        "circuit",
        "circuits_*",
        GRAPH,
        CircuitGraph,
        "The circuit as a graph",
        "Each circle is a latent at one position, the larger the more patching it changes m; each "
        "curve is what of that goes through a later latent, by paths that meet no third one, or "
        "straight to the answer. What leaves a latent adds up to its effect.",
    ),
    SectionView(
        "steer",
        "steer",
        STEERED,
        SteeredConcepts,
        "Concepts pushed up and down",
        "How often the concept is in what the model writes, against what the push costs in the "
        "loss of held-out text. The steeper a curve rises, the better the handle; latents must "
        "beat the mean difference, which needs no SAE.",
    ),
)
"""A new one is a line here, and its script."""


@dataclass(frozen=True)
class Findings:
    """What a result says of a suite; of all of them where `suite` is None, before or after that."""

    suite: int | None
    label: str
    first: Sequence[str]
    more: Sequence[str]


@dataclass(frozen=True)
class ShownView:
    """A view and what can be chosen: number and name of suites and sites.

    Attributes:
        prefix: of the data files, `PREFIX-SUITE-SITE`.
    """

    view: SectionView
    prefix: str
    suites: list[tuple[int, str]]
    sites: list[tuple[int, str]]


@dataclass(frozen=True)
class StudySection:
    """One section.

    Attributes:
        id: its address on the page.
        suites: to choose between, where not all are shown at once.
        files: what is loaded when a view is looked at, by name.
    """

    id: str
    title: str
    measured: str
    findings: list[Findings]
    suites: list[tuple[int, str]]
    figures: list[Group]
    tables: list[Table]
    views: list[ShownView]
    files: dict[str, Any]

    @property
    def choice_at(self) -> int:
        """The group of figures before which a suite is chosen: the first that shows one at a
        time."""
        panels = (any("panel" in chart for chart in group.charts) for group in self.figures)
        return next((at for at, has in enumerate(panels) if has), 0)


def page(name: str, report: Report) -> Page | None:
    """A page of `PAGES`; None where nothing on it was measured."""
    title, heading, evaluations = PAGES[name]
    shown = sections(report.suites, evaluations)
    if not shown:
        return None
    files = {name: value for section in shown for name, value in section.files.items()}
    views = dict.fromkeys(f"{one.view.name}.js" for section in shown for one in section.views)
    return Page(
        title,
        heading,
        template="studies",
        sections=[(section.id, section.title) for section in shown],
        context={"studies": shown},
        data={group.id: group.charts for section in shown for group in section.figures},
        scripts=(*CHARTS, *(("views.js", *views) if views else ())),
        files=files.items(),
        loads=list(files),
        verdict=_verdict(shown),
    )


def _verdict(shown: Sequence[StudySection]) -> OverviewVerdict:
    """What each section finds first of all suites and of the first, and the first chart."""
    told = [
        f"{findings.label}: {findings.first[0]}" if findings.label else findings.first[0]
        for section in shown
        for findings in section.findings[:2]
    ]
    drawn = (chart for section in shown for group in section.figures for chart in group.charts)
    return OverviewVerdict(told, next(drawn, None))


def sections(
    suites: Sequence[SuiteData], evaluations: Sequence[str] = ("*",)
) -> list[StudySection]:
    """A section for each of the evaluations that some suite has.

    Raises:
        UserError: if what a figure or a view draws is not what it should be.
    """
    names = {name: None for suite in suites for name in suite.studies}
    ordered = sorted(names, key=lambda name: (question(name) or 0, name))
    return [
        _section(name, at, suites)
        for at, name in enumerate(ordered)
        if any(fnmatchcase(name, evaluation) for evaluation in evaluations)
    ]


def _section(name: str, at: int, suites: Sequence[SuiteData]) -> StudySection:
    sources = [
        FigureSource(
            index,
            suite.label,
            _sites(suite, name),
            {name: suite.studies[name]},
            suite.path / RESULTS,
        )
        for index, suite in enumerate(suites)
        if name in suite.studies
    ]
    figures = [figure for _, figure in declared(sources)]
    drawn = [(f, _once(charts(name, f, sources))) for f in figures if f.kind != "table"]
    tables = [metrics_table(name, sources)]
    tables += [lists_table(name, f, sources) for f in figures if f.kind == "table"]
    shown = groups(f"study{at}", drawn)
    panels = any("panel" in chart for group in shown for chart in group.charts)
    files: dict[str, Any] = {}
    views = [
        _view(view, f"view-{at}-{place}", name, suites, files)
        for place, view in enumerate(VIEWS)
        if fnmatchcase(name, view.evaluation)
    ]
    return StudySection(
        name,
        suites[sources[0].index].studies[name].title,
        _measured(name, suites),
        list(_findings(name, suites)),
        [(source.index, source.label) for source in sources] if panels else [],
        shown,
        [table for table in tables if table],
        [view for view in views if view.suites],
        files,
    )


def _sites(suite: SuiteData, name: str) -> list[str]:
    """A result's sites: those of the suite in its order, then what else it has entries for."""
    result = suite.studies[name]
    known = result.sites.keys() | result.series.keys()
    of_suite = [site for site in suite.meta.sites if site in known]
    return list(dict.fromkeys([*of_suite, *result.sites, *result.series]))


def _measured(name: str, suites: Sequence[SuiteData]) -> str:
    """On how many tokens and documents; nothing where a study has prompts of its own."""
    results = (suite.studies[name] for suite in suites if name in suite.studies)
    told = (
        f"{count(r.tokens)} held-out tokens of {count(r.documents)} documents"
        for r in results
        if r.tokens and r.documents
    )
    return "; ".join(dict.fromkeys(told))


def _findings(name: str, suites: Sequence[SuiteData]) -> Iterator[Findings]:
    """What is said of all suites in the same words before anything else, then what is said of
    each, then the rest of what is said of all."""
    of_suite = {at: s.studies[name].findings for at, s in enumerate(suites) if name in s.studies}
    first, *others = of_suite.values()
    shared = set(first).intersection(*others)
    before = list(takewhile(shared.__contains__, first))
    most = SHOWN if len(of_suite) <= 2 else FEW
    if before:
        yield Findings(None, "", before[:SHOWN], before[SHOWN:])
    for at, lines in of_suite.items():
        if rest := [line for line in lines if line not in shared]:
            yield Findings(at, suites[at].label, rest[:most], rest[most:])
    if after := [line for line in first if line in shared and line not in before]:
        yield Findings(None, "", after, [])


def _once(drawn: Sequence[Chart]) -> list[Chart]:
    """Charts of one figure, whose caption stands under the first of those seen together."""
    seen: set[tuple[Any, str]] = set()
    out = []
    for chart in drawn:
        place = (chart.get("panel"), chart["description"])
        out.append(chart | {"description": ""} if place in seen else chart)
        seen.add(place)
    return out


def _view(
    view: SectionView, prefix: str, name: str, suites: Sequence[SuiteData], files: dict[str, Any]
) -> ShownView:
    """A view of all suites; what it draws is put into `files`."""
    sites = list(
        dict.fromkeys(site for s in suites if name in s.studies for site in _sites(s, name))
    )
    with_suite, with_site = {}, {}
    for index, suite in enumerate(suites):
        for place, site in enumerate(sites):
            record = suite.series(name, site, view.series, view.record)
            if record is not None:
                files[f"{prefix}-{index}-{place}"] = plain(record)
                with_suite[index], with_site[place] = suite.label, site
    return ShownView(view, prefix, list(with_suite.items()), sorted(with_site.items()))
