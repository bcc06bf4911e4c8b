"""What fewer active latents cost: FVU and ΔCE against L0, a line per kind of SAE; and against what
the SAEs cost to train.

Suites make one line where nothing but their sparsity (or their seed) differs: the same language
model, text and tokens, the same architecture, width and options.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from saeworks.report.costs import COSTS, cell
from saeworks.report.marks import Chart, chart_of
from saeworks.report.numbers import (
    count,
    decimals,
    measured,
    rounded,
)
from saeworks.report.suites import SuiteData
from saeworks.report.summary import all_metrics, all_sites
from saeworks.report.tables import Cell, Column, Row
from saeworks.results.headlines import DELTA_CE, FVU, L0
from saeworks.results.metric import Metric, Value
from saeworks.results.suite_meta import SuiteMeta

SPARSITY = ("k", "target_l0", "l1", "l0_coefficient")
"""Options that choose a point of a line, not a line."""
RECIPE = ("batch", "lr", "warmup", "decay", "betas", "eps", "clip")
"""Options of training that tell lines apart."""
METRICS = (FVU, DELTA_CE)


@dataclass(frozen=True)
class Line:
    """Suites that differ in sparsity or seed alone, by their numbers in the report."""

    name: str
    suites: tuple[int, ...]


@dataclass(frozen=True)
class _Point:
    """The suites of a line that differ in their seed alone, at one site."""

    l0: float
    value: Value
    label: str
    costs: dict[str, float | None]


def lines(suites: Sequence[SuiteData]) -> list[Line]:
    """The lines, named by their architecture and what else tells them apart."""
    kinds = [_kind(suite) for suite in suites]
    members: dict[str, list[int]] = {}
    for index, kind in enumerate(kinds):
        members.setdefault(json.dumps(kind, sort_keys=True, default=str), []).append(index)
    groups = list(members.values())
    return [Line(_name(kinds, group, groups), tuple(group)) for group in groups]


def _kind(suite: SuiteData) -> dict[str, Any]:
    meta = suite.meta
    options = {name: value for name, value in suite.options.items() if name not in SPARSITY}
    return {
        "arch": meta.arch,
        **options,
        "model": meta.model.fingerprint or meta.model.name,
        "text": meta.text.get("source"),
        "tokens": meta.tokens,
        **_recipe(meta),
        **_grouping(meta),
    }


def _grouping(meta: SuiteMeta) -> dict[str, Any]:
    """Which sites share an SAE; empty if none do."""
    groups = [group.sites for group in meta.groups.values()]
    if not any(len(sites) > 1 for sites in groups):
        return {}
    return {"groups": f"{len(groups)} {meta.grouping.get('method', '')}".strip(), "sharing": groups}


def _recipe(meta: SuiteMeta) -> dict[str, Any]:
    """How it was optimised: the run's options with the variant's own over them."""
    run = meta.config.get("train")
    options = {**(run if isinstance(run, dict) else {}), **meta.train}
    return {key: options[key] for key in RECIPE if key in options}


def _name(
    kinds: Sequence[dict[str, Any]], members: Sequence[int], groups: Sequence[list[int]]
) -> str:
    """`topk`, or `topk width 512` where there is another line of TopK with another width."""
    kind = kinds[members[0]]
    same = [kinds[group[0]] for group in groups if kinds[group[0]]["arch"] == kind["arch"]]
    keys = [key for key in kind if any(other.get(key) != kind[key] for other in same)]
    if "groups" in keys:
        keys.remove("sharing")  # it is long, and the number and the method say most of it
    return ", ".join([kind["arch"] or "SAE", *(_said(key, kind[key]) for key in keys)])


def _said(key: str, value: Any) -> str:
    if key == "tokens" and isinstance(value, int):
        return f"{count(value)} tokens"
    return f"{key} {str(value)[:24]}"


def charts(suites: Sequence[SuiteData]) -> list[Chart]:
    """Nothing where neither L0 nor what the SAEs cost varies. Of one line, a chart per metric with
    a line per site; of several, a chart per metric and site.

    A chart is against the first of its `axes`, each of which has a title and an `id`; the series
    have their places on each of them in `xs`, null where they are not known.
    """
    metrics = all_metrics(suites)
    if len(suites) < 2 or L0 not in metrics:
        return []
    sites, all_lines = all_sites(suites), lines(suites)
    names = [name for name in METRICS if name in metrics]
    if len(all_lines) == 1:
        drawn = [_by_site(suites, sites, all_lines[0], name, metrics) for name in names]
    else:
        drawn = [
            _of_site(suites, all_lines, at, name, metrics)
            for name in names
            for at in enumerate(sites)
        ]
    return [chart for chart in map(_with_axes, drawn) if chart["axes"]]


def _with_axes(chart: Chart) -> Chart:
    """The chart on the first of the axes along which its points differ."""
    titles = {L0: "active latents per token", **{c.id: c.axis for c in COSTS}}
    axes = [
        {"id": name, "title": title, "log": True}
        for name, title in titles.items()
        if _differs(name, [series["xs"][name] for series in chart["series"]])
    ]
    if not axes:
        return chart | {"axes": []}
    first = axes[0]["id"]
    series = [{**line, "x": line["xs"][first]} for line in chart["series"]]
    return chart | {"axes": axes, "x": axes[0], "series": series}


def _differs(name: str, places: Sequence[Sequence[float | None]]) -> bool:
    """Whether L0 varies along a line, or a cost varies among all points by more than rounding."""
    if name == L0:
        return any(len(set(line)) > 1 for line in places)
    known = [place for line in places for place in line if place]
    return bool(known) and max(known) > 1.02 * min(known)


def _by_site(
    suites: Sequence[SuiteData],
    sites: Sequence[str],
    line: Line,
    name: str,
    metrics: dict[str, Metric],
) -> Chart:
    by_site = [(i, site, _points(suites, line, site, name)) for i, site in enumerate(sites)]
    series = [
        _series(site, points) | {"site": i, "shape": i} for i, site, points in by_site if points
    ]
    about = "Each line is a site, each point a suite. Further down and to the left is better."
    title = f"{metrics[name].title} against {metrics[L0].title}"
    return _chart(f"frontier-{name}", title, about, metrics[name], series)


def _of_site(
    suites: Sequence[SuiteData],
    all_lines: Sequence[Line],
    at: tuple[int, str],
    name: str,
    metrics: dict[str, Metric],
) -> Chart:
    number, site = at
    by_line = [(i, line, _points(suites, line, site, name)) for i, line in enumerate(all_lines)]
    series = [
        _series(line.name, points) | {"suite": i, "shape": i}
        for i, line, points in by_line
        if points
    ]
    chart = _chart(f"frontier-{name}-{number}", site, "", metrics[name], series)
    return chart | {"title": f"{metrics[name].title}, {site}", "panel": number}


def _chart(identity: str, title: str, about: str, metric: Metric, series: Sequence[Chart]) -> Chart:
    ends = [v for s in series for v in (*s["y"], *s["low"]) if v is not None]
    y = {"title": metric.unit, "log": all(v > 0 for v in ends), "zero": True}
    return chart_of(identity, title, series, {"title": "", "log": True}, y, about)


def _series(name: str, points: Sequence[_Point]) -> Chart:
    return {
        "name": name,
        "x": [],
        "xs": {
            L0: [rounded(point.l0) for point in points],
            **{c.id: [rounded(point.costs[c.id]) for point in points] for c in COSTS},
        },
        "y": [rounded(point.value.value) for point in points],
        "low": [rounded(point.value.low) for point in points],
        "high": [rounded(point.value.high) for point in points],
        "text": [point.label for point in points],
        "kind": "both",
    }


def _points(suites: Sequence[SuiteData], line: Line, site: str, metric: str) -> list[_Point]:
    """The line's points at a site, by L0; of several seeds their mean and range."""
    all_points: list[_Point] = []
    for _, group in groupby(sorted((suites[i] for i in line.suites), key=_options), key=_options):
        known = [
            (
                suite.meta.seed,
                _Point(l0.value, value, suite.label, {c.id: c.at(suite, site) for c in COSTS}),
            )
            for suite in group
            if (l0 := suite.value(site, L0)) is not None
            and l0.value is not None
            and (value := suite.value(site, metric)) is not None
        ]
        points = [point for _, point in known]
        several = len({seed for seed, _ in known}) == len(known) > 1
        all_points += [_mean(points)] if several else points
    return sorted(all_points, key=lambda point: point.l0)


def _options(suite: SuiteData) -> str:
    """What identifies a point on a line; a suite without options is a point by itself."""
    return json.dumps(suite.options, sort_keys=True) if suite.options else suite.label


def _mean(points: Sequence[_Point]) -> _Point:
    """The mean over several seeds, with their range instead of an interval."""
    values = [point.value.value for point in points if point.value.value is not None]
    spread = Value(value=fmean(values), low=min(values), high=max(values))
    costs: dict[str, float | None] = {}
    for cost in COSTS:
        known = [x for point in points if (x := point.costs[cost.id]) is not None]
        costs[cost.id] = fmean(known) if len(known) == len(points) else None
    label = f"mean of {len(points)} seeds"
    return _Point(fmean(point.l0 for point in points), spread, label, costs)


def table(suites: Sequence[SuiteData]) -> tuple[list[Column], list[Row]]:
    """The suites' own numbers, by site, line and L0, and what they cost."""
    metrics = all_metrics(suites)
    columns = [Column(name, metrics[name]) for name in (L0, *METRICS) if name in metrics]
    places = list(_places(suites))
    costs = [
        cost for cost in COSTS if any(cost.at(suites[i], site) is not None for _, site, i in places)
    ]
    digits = [decimals([suites[i].value(site, c.id) for _, site, i in places]) for c in columns]
    rows = []
    for order, site, index in places:
        suite = suites[index]
        values = [suite.value(site, column.id) for column in columns]
        if any(values):
            cells = [
                Cell(*measured(v, d), v.value if v else None)
                for v, d in zip(values, digits, strict=True)
            ]
            cells += [cell(cost.at(suite, site)) for cost in costs]
            rows.append(Row(site, order, index, suite.label, cells))
    return [*columns, *(Column(cost.id, cost.metric) for cost in costs)], rows


def _places(suites: Sequence[SuiteData]) -> Iterator[tuple[int, str, int]]:
    """(number of the site, site, number of the suite)."""
    for order, site in enumerate(all_sites(suites)):
        for line in lines(suites):
            for index in sorted(line.suites, key=lambda index: _l0(suites[index], site)):
                yield order, site, index


def _l0(suite: SuiteData, site: str) -> float:
    l0 = suite.value(site, L0)
    return l0.value if l0 is not None and l0.value is not None else 0.0
