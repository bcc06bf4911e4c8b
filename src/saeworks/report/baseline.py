"""Suites beside their baseline: bars per layer, differences, cost, spread of shared latents.

All of it is what `saeworks compare` left in results/comparison.json.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from saeworks.report.contests import Compared, Contest, contests
from saeworks.report.costs import flops_of, seconds_of
from saeworks.report.marks import Chart, chart_of, series_of, site_axis
from saeworks.report.numbers import count, number
from saeworks.report.suites import SuiteData
from saeworks.report.tables import Column, Row, RowPlace, rows_of
from saeworks.results.comparison import Comparison, Paired
from saeworks.results.headlines import DELTA_CE, FVU, MMCO, MMCS
from saeworks.results.metric import Metric, Value
from saeworks.results.names import MEAN

BARS = (FVU, DELTA_CE)
"""Metrics with bars per layer."""


def charts(suites: Sequence[SuiteData]) -> list[Chart]:
    """The charts of every contest: bars per layer, differences per layer, cost against mean FVU."""
    several = len(contests(suites)) > 1
    out = []
    for number_, contest in enumerate(contests(suites)):
        of_contest = [*_bars(contest), *_differences(contest), *_costs(contest)]
        for chart in of_contest:
            title = f"{chart['title']}, beside {contest.name}" if several else chart["title"]
            out.append({**chart, "id": f"{chart['id']}-{number_}", "title": title})
    return out


def is_cost(chart: Chart) -> bool:
    """Whether a chart is one of cost."""
    return str(chart["id"]).startswith("cost-")


def _sites(contest: Contest) -> list[str]:
    return list(dict.fromkeys(site for m in contest.members for site in m.comparison.sites))


def _metrics(contest: Contest, names: Sequence[str]) -> Iterator[tuple[str, Metric]]:
    for name in names:
        metric = next(
            (m.comparison.metrics[name] for m in contest.members if name in m.comparison.metrics),
            None,
        )
        if metric is not None:
            yield name, metric


def _bars(contest: Contest) -> list[Chart]:
    """Each metric's values: the baseline's bar first, then each suite's."""
    sites = _sites(contest)
    out = []
    for name, metric in _metrics(contest, BARS):
        baseline = {
            site: pairs[name].baseline
            for m in contest.members
            for site, pairs in m.comparison.sites.items()
            if name in pairs
        }
        series = [_series(_named(contest), sites, baseline, "bars", contest.ink)]
        for m in contest.members:
            values = {s: p[name].suite for s, p in m.comparison.sites.items() if name in p}
            series.append(_series(m.suite.label, sites, values, "bars", m.ink))
        y = {"title": metric.unit, "zero": True}
        chart = chart_of(
            f"bars-{name}", metric.title, series, site_axis(sites), y, better=metric.better
        )
        out.append(chart | {"wide": True})
    return out


def _differences(contest: Contest) -> list[Chart]:
    """FVU relative to the baseline's, and ΔCE less the baseline's: intervals of the pairs."""
    sites = _sites(contest)
    out = []
    for name, metric in _metrics(contest, BARS):
        relative = name == FVU
        level = {site: Value(value=float(relative)) for site in sites}
        series = [_series(_named(contest), sites, level, "lines", contest.ink)]
        for m in contest.members:
            pairs = {s: p[name] for s, p in m.comparison.sites.items() if name in p}
            values = {
                site: value
                for site, pair in pairs.items()
                if (value := pair.ratio if relative else pair.difference) is not None
            }
            series.append(_series(m.suite.label, sites, values, "both", m.ink))
        title = f"{metric.title} / baseline's" if relative else f"{metric.title} − baseline's"
        about = "Intervals of the pairs: the same documents are drawn for both."
        y = {"title": "" if relative else metric.unit, "zero": not relative}
        x = site_axis(sites)
        out.append(chart_of(f"difference-{name}", title, series, x, y, about, metric.better))
    return out


def _series(
    name: str, sites: Sequence[str], values: dict[str, Value], kind: str, ink: Chart
) -> Chart:
    points = [(at, site, values.get(site)) for at, site in enumerate(sites)]
    return series_of(name, points, kind, **ink)


def _named(contest: Contest) -> str:
    return f"{contest.name} (baseline)"


def _costs(contest: Contest) -> list[Chart]:
    """Mean FVU against the cost of training, if the suites differ in it."""
    suites = [m.suite for m in contest.members] + ([contest.baseline] if contest.baseline else [])
    out = []
    for cost in (flops_of(suites), seconds_of(suites)):
        series = []
        if contest.baseline and (x := cost.values.get(contest.baseline.path)):
            value = contest.members[0].comparison.mean[FVU].baseline
            series.append(_point(_named(contest), x, cost.unit, value, contest.ink))
        for m in contest.members:
            if x := cost.values.get(m.suite.path):
                mean = m.comparison.mean[FVU].suite
                series.append(_point(m.suite.label, x, cost.unit, mean, m.ink))
        known = [line["x"][0] for line in series]
        if known and max(known) > 1.02 * min(known):
            title = f"Mean FVU against {cost.name}"
            axis = {"title": cost.unit, "log": max(known) > 10 * min(known), "zero": True}
            about = f"{cost.about} Intervals are over documents."
            y = {"title": "", "zero": False}
            out.append(chart_of(f"cost-{cost.id}", title, series, axis, y, about))
    return out


def _point(name: str, x: float, unit: str, value: Value, ink: Chart) -> Chart:
    where = [(x, f"{number(x)} {unit}", value)]
    return series_of(name, where, "points", size=10, **ink)


def table(suites: Sequence[SuiteData]) -> tuple[list[Column], list[Row]]:
    """A row per site and suite, then the means: value, difference, ratio of every metric."""
    all_contests = contests(suites)
    columns = _columns(all_contests)
    pairs = [
        (site, m)
        for c in all_contests
        for site in [*_sites(c), MEAN]
        for m in c.members
        if _has(m, site)
    ]
    order = {site: at for at, site in enumerate(dict.fromkeys(site for site, _ in pairs))}
    order[MEAN] = len(order)
    places = [RowPlace(order[site], site, m.index, m.suite.label) for site, m in pairs]
    values = [[value_of(m, site, column.id) for column in columns] for site, m in pairs]
    return columns, rows_of(places, values)


def _has(member: Compared, site: str) -> bool:
    return site == MEAN or site in member.comparison.sites


def _columns(all_contests: Sequence[Contest]) -> list[Column]:
    """FVU and ΔCE, how latents are matched, then the other metrics."""
    members = [member for contest in all_contests for member in contest.members]
    first: dict[str, Column] = {}
    rest: dict[str, Column] = {}
    for member in members:
        for name in member.comparison.metrics:
            columns = first if name in BARS else rest
            columns |= metric_columns(name, member.comparison)
    matches: dict[str, Column] = {}
    for member in members:
        if alignment := member.comparison.alignment:
            several = any(site.seeds for site in alignment.sites.values())
            for name, metric in alignment.metrics.items():
                matches[name] = Column(name, metric)
                if several:
                    title = f"{metric.title} of the baseline's other seeds"
                    column = Column(f"{name} seeds", replace(metric, title=title))
                    matches[column.id] = column
    return [*first.values(), *matches.values(), *rest.values()]


def metric_columns(name: str, comparison: Comparison) -> dict[str, Column]:
    """The suite's value, less the baseline's, and where there is one the ratio."""
    metric, pair = comparison.metrics[name], comparison.mean.get(name)
    less = replace(metric, title=f"{metric.title} − baseline's")
    columns = [Column(name, metric), Column(f"{name} difference", less)]
    if pair is not None and pair.ratio is not None:
        ratio = replace(metric, title=f"{metric.title} / baseline's", unit="")
        columns.append(Column(f"{name} ratio", ratio))
    return {column.id: column for column in columns}


def value_of(member: Compared, site: str, column: str) -> Value | None:
    """The value in a column of `table`, at a site or for the mean over the sites."""
    name, _, part = column.partition(" ")
    if name in (MMCS, MMCO):
        return _match(member, site, name, part == "seeds")
    comparison = member.comparison
    pair: Paired | None = (comparison.mean if site == MEAN else comparison.sites[site]).get(name)
    if pair is None:
        return None
    return {"": pair.suite, "difference": pair.difference, "ratio": pair.ratio}.get(part)


def _match(member: Compared, site: str, name: str, seeds: bool) -> Value | None:
    alignment = member.comparison.alignment
    if alignment is None:
        return None
    at_site = alignment.sites.get(site)
    sites = alignment.sites.values() if site == MEAN else [at_site] if at_site else []
    matched = [m for s in sites for m in (s.seeds if seeds else [s.suite])]
    known = [value for m in matched if (value := getattr(m, name)) is not None]
    return Value(value=fmean(known)) if known else None


def spreads(suites: Sequence[SuiteData]) -> list[Chart]:
    """A heat map per SAE that several sites share: latents by their centre of mass, and sites."""
    return [
        {
            "suite": suite.label,
            "group": group,
            "about": _about(spread.live, spread.effective, len(spread.sites), spread.lives_at),
            "sites": spread.sites,
            "short": site_axis(spread.sites)["ticks"]["text"],
            "share": spread.share,
            "latents": spread.latents,
        }
        for suite in suites
        if suite.comparison and suite.comparison.alignment
        for group, spread in suite.comparison.alignment.spread.items()
        if spread.share
    ]


def _about(live: int, effective: float | None, sites: int, lives_at: Sequence[int]) -> str:
    at_one, at_all = lives_at[0] / max(1, live), lives_at[-1] / max(1, live)
    return (
        f"{count(live)} live latents; on average each fires at {number(effective)} of the {sites} "
        f"sites, effectively. {at_one:.0%} live at one site, {at_all:.0%} at all of them."
    )
