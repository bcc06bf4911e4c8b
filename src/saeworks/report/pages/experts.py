"""The page on experts: how the work is shared, how alike latents are, over N and k.

SAEs without experts stand beside the others as if cut into blocks of latents.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saeworks.report import charts, frontier
from saeworks.report.beside import beside, compared, routed, sentences, shares
from saeworks.report.marks import Chart
from saeworks.report.numbers import number, rounded
from saeworks.report.page import CHARTS, OverviewVerdict, Page, Report
from saeworks.report.suites import SuiteData
from saeworks.report.summary import all_sites
from saeworks.report.tables import Column, RowPlace, Table, rows_of
from saeworks.results.metric import Metric, Value
from saeworks.results.names import CONCEPTS, CONSISTENCY, EXPERTS, GEOMETRY, ON_EXPERTS
from saeworks.results.records import plain
from saeworks.results.result import PLACEHOLDER, TABLE
from saeworks.results.series import (
    CONFIDENCE,
    QUEEN,
    CodedConcepts,
    Domains,
    Duplicates,
    Histogram,
    Load,
    Nearest,
    OverlapMatrix,
    Queen,
    Similarity,
    Tsne,
)

SERIES: dict[str, tuple[str, Any]] = {
    "load": (EXPERTS, Load),
    "similarity": (GEOMETRY, Similarity),
    "tsne": (GEOMETRY, Tsne),
    "duplicates": (GEOMETRY, Duplicates),
    "domains": (EXPERTS, Domains),
    "overlap": (EXPERTS, OverlapMatrix),
    CONFIDENCE: (EXPERTS, Histogram),
    "nearest": (GEOMETRY, Nearest),
    QUEEN: (CONSISTENCY, Queen),
    CONCEPTS: (CONSISTENCY, CodedConcepts),
}
"""What is drawn of a suite at a site: name of the series → the evaluation that has it, and its
record."""


@dataclass(frozen=True)
class ExpertsSection:
    """All that the page shows of experts.

    Attributes:
        suites, sites: numbers and names of those that can be chosen.
        depth: charts over the layers.
        duplicates: the heat map over experts and k.
        files: what is loaded when a suite and a site are chosen, by its name.
    """

    suites: list[tuple[int, str]]
    sites: list[tuple[int, str]]
    depth: list[Chart]
    duplicates: Chart | None
    tables: list[Table]
    files: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        """The section's data for the page's scripts."""
        return {"experts_depth": self.depth, "duplicates": self.duplicates}


def page(report: Report) -> Page | None:
    """None where no suite has experts."""
    suites = report.suites
    with_experts = {at for at, suite in enumerate(suites) if routed(suite)}
    shown = section(suites) if with_experts else None
    if shown is None:
        return None
    told = [one for one in beside(suites) if one.index in with_experts]
    plain = sentences([one for one in told if not shares(one.suite)])
    drawn = compared(suites, with_experts)
    sections = [("saved", "What experts save")] if drawn else []
    sections += [("work", "Work and duplicates")]
    sections += [("detail", "One SAE in detail")] if shown.files else []
    return Page(
        "Experts",
        "How experts share the work",
        sections=sections,
        context={"alike": shown, "sentences": sentences(told)},
        data={"expert_ratios": drawn} | shown.data,
        scripts=(*CHARTS, "experts.js"),
        files=shown.files.items(),
        loads=list(shown.files),
        verdict=OverviewVerdict(plain or _counts(suites), next(iter([*drawn, *shown.depth]), None)),
    )


def _counts(suites: Sequence[SuiteData]) -> list[str]:
    counts = (f"{s.options[EXPERTS]} ({s.label})" for s in suites if routed(s))
    return [f"Each token goes to some of the experts of an SAE: {', '.join(counts)}."]


def section(suites: Sequence[SuiteData]) -> ExpertsSection | None:
    """What was measured of experts and of duplicates; None if nothing was.

    Raises:
        UserError: if a series of a result is not what it should be.
    """
    sites = all_sites(suites)
    files = {
        f"experts-{s}-{i}": details
        for s, suite in enumerate(suites)
        for i, site in enumerate(sites)
        if (details := _details(suites, s, site))
    }
    tables = [table for name in ON_EXPERTS if (table := _table(suites, name))]
    if not files and not tables:
        return None
    chosen = [name.split("-")[1:] for name in files]
    with_experts = [suite for suite in suites if EXPERTS in suite.results]
    drawn = _drawn(suites)
    metrics = {k: m for k, m in _metrics(suites, *ON_EXPERTS).items() if k in drawn}
    return ExpertsSection(
        [
            (s, suites[s].label)
            for s in sorted({int(s) for s, _ in chosen}, key=_experts_first(with_experts, suites))
        ],
        [(i, sites[i]) for i in sorted({int(i) for _, i in chosen})],
        charts.by_layer(suites, metrics),
        _duplicates(suites, sites),
        tables,
        files,
    )


def _experts_first(with_experts: Sequence[SuiteData], suites: Sequence[SuiteData]) -> Any:
    """A sort key that puts suites with experts before those without."""
    return lambda s: (suites[s] not in with_experts, s)


def _drawn(suites: Sequence[SuiteData]) -> set[str]:
    """Metrics that the results draw over the layers, a line per suite."""
    return {
        figure.traces[0].metric
        for suite in suites
        for name, result in suite.results.items()
        if name in ON_EXPERTS
        for figure in result.figures
        if figure.lines == "suites"
    }


def _metrics(suites: Sequence[SuiteData], *evaluations: str) -> dict[str, Metric]:
    return {
        name: metric
        for suite in suites
        for result in suite.results.values()
        if result.evaluation in evaluations
        for name, metric in result.metrics.items()
    }


def _details(suites: Sequence[SuiteData], number_: int, site: str) -> Chart:
    """All data drawn for one suite at one site."""
    suite = suites[number_]
    details: Chart = {}
    for name, (evaluation, cls) in SERIES.items():
        record = suite.series(evaluation, site, name, cls)
        if isinstance(record, Nearest):
            record = Histogram(record.edges, record.counts)
        if record is not None:
            details[name] = plain(record)
    if details:
        details["about"] = _about(suites, suite, site)
        details["beside"] = _beside(suites, number_, site)
    return details


def _beside(suites: Sequence[SuiteData], number_: int, site: str) -> int | None:
    """An SAE without experts, cut into blocks, as wide and as sparse if there is one."""
    if _kind(suites[number_], site) != EXPERTS:
        return None
    options = suites[number_].options
    candidates = [
        (
            *(suite.options.get(name) != options.get(name) for name in ("width", "k")),
            suite.meta.seed != suites[number_].meta.seed,
            at,
        )
        for at, suite in enumerate(suites)
        if _kind(suite, site) == "cut"
    ]
    return min(candidates)[-1] if candidates else None


def _kind(suite: SuiteData, site: str) -> str | None:
    """The kind of a suite's blocks, read unchecked: it is needed for every pair of suites."""
    result = suite.results.get(GEOMETRY)
    similarity = None if result is None else result.series.get(site, {}).get("similarity")
    return similarity.get("kind") if isinstance(similarity, dict) else None


def _about(suites: Sequence[SuiteData], suite: SuiteData, site: str) -> dict[str, str]:
    """The sentence under each figure, with a suite's numbers; a dash for what it has not."""
    sentences = {
        name: (evaluation, sentence)
        for source in (*suites, suite)
        for evaluation in ON_EXPERTS
        if evaluation in source.results
        for name, sentence in source.results[evaluation].sentences.items()
        if name in SERIES
    }
    return {
        name: _filled(sentence, result.sites.get(site, {}) if result else {})
        for name, (evaluation, sentence) in sentences.items()
        for result in (suite.results.get(evaluation),)
    }


def _filled(sentence: str, values: Mapping[str, Value]) -> str:
    def text(place: re.Match[str]) -> str:
        value = values.get(place[1], Value(None)).value
        if place[2] and value is not None:
            return f"{value:.1%}".replace("-", "−")
        return number(value)

    return PLACEHOLDER.sub(text, sentence)


def _table(suites: Sequence[SuiteData], evaluation: str) -> Table | None:
    """A table with every metric of one evaluation."""
    metrics = _metrics(suites, evaluation)
    columns = [Column(name, metric) for name, metric in metrics.items()]
    rows = [
        (RowPlace(order, site, index, suite.label), suite.results[evaluation])
        for order, site in enumerate(all_sites(suites))
        for index, suite in enumerate(suites)
        if evaluation in suite.results and site in suite.results[evaluation].sites
    ]
    if not columns or not rows:
        return None
    values = [[result.sites[p.site].get(column.id) for column in columns] for p, result in rows]
    result = rows[0][1]
    caption = result.sentences.get(TABLE, result.title)
    return Table(caption, columns, rows_of([place for place, _ in rows], values))


def _duplicates(suites: Sequence[SuiteData], sites: Sequence[str]) -> Chart | None:
    """Duplicate shares, a row per kind of SAE and a column per k; None where there is one cell.

    `cells` are [row, column, number of the site, share by threshold], of several seeds the mean.
    """
    lines = frontier.lines(suites)
    order = sorted(range(len(lines)), key=lambda at: _rank(suites[lines[at].suites[0]]))
    ks = sorted({k for suite in suites if (k := _k(suite)) is not None})
    cells: dict[tuple[int, int, int], list[Duplicates]] = {}
    for row, at in enumerate(order):
        for index in lines[at].suites:
            k = _k(suites[index])
            for number_, site in enumerate(sites):
                duplicates = suites[index].series(GEOMETRY, site, "duplicates", Duplicates)
                if duplicates is not None and k is not None:
                    cells.setdefault((row, ks.index(k), number_), []).append(duplicates)
    if len({(row, column) for row, column, _ in cells}) < 2:
        return None
    thresholds = next(iter(cells.values()))[0].thresholds
    return {
        "rows": [lines[at].name for at in order],
        "columns": [str(k) for k in ks],
        "thresholds": thresholds,
        "cells": [
            [*place, _mean([d.shares for d in of_seeds if d.thresholds == thresholds])]
            for place, of_seeds in cells.items()
        ],
    }


def _mean(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    return [
        rounded(sum(known) / len(known))
        if (known := [v for v in column if v is not None])
        else None
        for column in zip(*rows, strict=True)
    ]


def _k(suite: SuiteData) -> int | None:
    k = suite.options.get("k")
    return k if isinstance(k, int) else None


def _rank(suite: SuiteData) -> tuple[Any, ...]:
    """A sort key: by width, then by number of experts; SAEs without experts come first."""
    options = suite.options
    sizes = [
        value if isinstance(value := options.get(name), int) else 0 for name in ("width", EXPERTS)
    ]
    return (*sizes, suite.label)
