"""Charts over the layers, histograms, and curves of the training."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saeworks.files.seals import RESULTS
from saeworks.report import figures
from saeworks.report.marks import Chart, chart_of, series_of, ticks
from saeworks.report.numbers import number, rounded
from saeworks.report.sources import FigureSource, declared
from saeworks.report.suites import SuiteData
from saeworks.report.summary import all_metrics, all_sites
from saeworks.results.headlines import DELTA_CE, FVU, L0
from saeworks.results.log import LogLine
from saeworks.results.metric import Metric
from saeworks.results.names import ON_EXPERTS

POINTS = 300
"""Points of a training curve that are kept: more than a chart's pixels can tell apart."""

SAME, FIXED = 1e-6, 0.01
"""Relative differences up to which numbers are one, and an L0 is a k of which some slots hold 0."""

CURVES = (FVU, L0, "dead", "lr", "tokens_per_second")
HELD_OUT = ("held_out_fvu", DELTA_CE)


def by_layer(
    suites: Sequence[SuiteData], metrics: Mapping[str, Metric] | None = None
) -> list[Chart]:
    """One chart per metric: its value and interval at every site, a line per suite.

    Args:
        metrics: all by default.
    """
    sites = all_sites(suites)
    axis, places = _layer_axis(sites)
    charts = [
        chart_of(
            f"metric-{name}",
            metric.title,
            [
                series
                for index, suite in enumerate(suites)
                for series in _layer_series(suite, index, name, places)
            ],
            axis,
            {"title": metric.unit, "zero": _from_zero(suites, name, metric)},
            metric.description,
            metric.better,
        )
        for name, metric in (all_metrics(suites) if metrics is None else metrics).items()
    ]
    return [chart | {"flat": _flat(chart)} for chart in charts]


def _flat(chart: Chart) -> str:
    """What there is to say of a chart on which there is nothing to see: one number everywhere, or
    an L0 that k fixes. Empty where it is worth drawing."""
    lines = [[y for y in series["y"] if y is not None] for series in chart["series"]]
    values = [y for line in lines for y in line]
    if not values:
        return "not measured"
    low, high = min(values), max(values)
    if high == low == 0 or (len(values) > 1 and high - low <= SAME * abs(high)):
        return f"{number(high)} everywhere"
    fixed = [round(max(line)) for line in lines if line]
    near = all(abs(y - k) <= FIXED * k for k, line in zip(fixed, lines, strict=False) for y in line)
    if chart["id"] == "metric-l0" and near:
        return " or ".join(str(k) for k in sorted(set(fixed))) + " at every site"
    return ""


def _from_zero(suites: Sequence[SuiteData], name: str, metric: Metric) -> bool:
    """Whether the axis starts at 0: not where 1 is the goal, nor where 0 would flatten the line."""
    if metric.better in ("higher", "one"):
        return False
    at_sites = [suite.value(site, name) for suite in suites for site in all_sites(suites)]
    values = [v.value for v in at_sites if v is not None and v.value is not None]
    flat = bool(values) and min(values) == max(values)
    return flat or not values or max(values) > 1.5 * min(values)


def _layer_axis(sites: Sequence[str]) -> tuple[Chart, dict[str, tuple[str, float]]]:
    """The axis and each site's (family, place on it).

    Sites that differ in one number (`layers.3`) stand at that number, a line per family
    (`layers.*`, `layers.*.mlp`); where a name has no number all stand in a row, by name.
    """
    numbers = {site: re.search(r"\d+", site) for site in sites}
    families = {site: re.sub(r"\d+", "*", site, count=1) for site in sites}
    if all(numbers.values()):
        distinct = sorted(set(families.values()))
        title = f"layer ({distinct[0]})" if len(distinct) == 1 else "layer"
        places = {s: (families[s], float(n.group())) for s, n in numbers.items() if n}
        return {"title": title, "whole": True}, places
    return ticks(sites, "site"), {s: ("", float(i)) for i, s in enumerate(sites)}


def _layer_series(
    suite: SuiteData, index: int, metric: str, places: dict[str, tuple[str, float]]
) -> Iterable[Chart]:
    families = list(dict.fromkeys(family for family, _ in places.values()))
    for shape, family in enumerate(families):
        points = sorted(
            (place, site, value)
            for site, (family_of_site, place) in places.items()
            if family_of_site == family and (value := suite.value(site, metric)) is not None
        )
        if points:
            alone = len(families) == 1
            name = suite.label if alone else f"{suite.label} {family}"
            yield series_of(name, points, suite=index, shape=index if alone else shape)


def histograms(suites: Sequence[SuiteData]) -> list[Chart]:
    """What results without a section of their own declare of lists: a chart per site.

    Raises:
        UserError: if a list is not what it should be.
    """
    sites = all_sites(suites)
    sources = [
        FigureSource(
            index,
            suite.label,
            sites,
            {name: r for name, r in suite.results.items() if name not in ON_EXPERTS},
            suite.path / RESULTS,
        )
        for index, suite in enumerate(suites)
    ]
    return [
        chart
        for name, figure in declared(sources)
        if figure.kind == "histogram"
        for chart in figures.charts(name, figure, sources)
    ]


def training(suite: SuiteData) -> dict[str, Any]:
    """Curves by site: {site: {"train": {name: [...]}, "held_out": {name: [...]}}}.

    Every group has `tokens`, and `flops` where they were logged; names without a number are left
    out.
    """
    out: dict[str, Any] = {}
    for site in all_sites([suite]):
        lines = [line for line in suite.logged if line.site == site]
        spent = {line.step: line.flops for line in lines if line.kind == "train"}
        train = _thinned([line for line in lines if line.kind == "train"])
        held_out = [line for line in lines if line.kind == "held_out"]
        losses = dict.fromkeys(name for line in train for name in line.loss)
        curves = {name: [getattr(line, name) for line in train] for name in CURVES}
        curves |= {f"loss: {name}": [line.loss.get(name) for line in train] for name in losses}
        checks = {name: [getattr(line, name) for line in held_out] for name in HELD_OUT}
        if lines:
            out[site] = {
                "train": _with_axes(curves, train, spent),
                "held_out": _with_axes(checks, held_out, spent),
            }
    return out


def _thinned(lines: Sequence[LogLine]) -> list[LogLine]:
    """Every n-th point, counted from the end so that the last point is kept."""
    stride = -(-len(lines) // POINTS) or 1
    return list(lines[::-1][::stride][::-1])


def _with_axes(
    curves: dict[str, list[Any]], lines: Sequence[LogLine], spent: dict[int, float | None]
) -> dict[str, list[Any]]:
    """With the tokens and operations of each line; operations are in proportion to the steps where
    a held-out check is not at a logged one."""
    known = {k: [rounded(v) for v in c] for k, c in curves.items() if any(v is not None for v in c)}
    if not known:
        return {}
    flops = [_at(spent, line.step) for line in lines]
    axes: dict[str, list[Any]] = {"tokens": [line.tokens for line in lines]}
    if all(value is not None for value in flops):
        axes["flops"] = [rounded(value) for value in flops]
    return {**axes, **known}


def _at(spent: dict[int, float | None], step: int) -> float | None:
    """The cost up to a step, in proportion from the next logged step, or from the last."""
    if step in spent or not spent:
        return spent.get(step)
    near = min((s for s in spent if s > step), default=max(spent))
    spent_by_then = spent[near]
    return None if spent_by_then is None else spent_by_then * step / near
