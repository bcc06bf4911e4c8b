"""Suites beside their baseline: bars per layer, differences, cost, spread of shared latents.

All of it is what `saeworks compare` left in results/comparison.json.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from saeworks.report.numbers import (
    count,
    decimals,
    measured,
    number,
    rounded,
)
from saeworks.report.suites import SuiteData
from saeworks.report.summary import Cell, Column, Row
from saeworks.results.comparison import Comparison, Paired
from saeworks.results.headlines import DELTA_CE, FVU, MMCO, MMCS
from saeworks.results.metric import Metric, Value
from saeworks.results.names import MEAN

Chart = dict[str, Any]

BARS = (FVU, DELTA_CE)
"""Metrics with bars per layer."""
COLOURS = 8
"""Suites that have a colour of their own."""


@dataclass(frozen=True)
class Compared:
    """A suite that was compared."""

    index: int
    """Its number in the report."""
    suite: SuiteData
    comparison: Comparison
    ink: Chart
    """Its colour and sign: as everywhere in the report; of too many suites for colours of their
    own, a place on the scale from the fewest groups (`shade` 0) to the most (1)."""


@dataclass(frozen=True)
class Contest:
    """Suites that were compared with one and the same baseline."""

    name: str
    """The baseline's label."""
    baseline: SuiteData | None
    """Where it is in the report."""
    ink: Chart
    members: list[Compared]


def contests(suites: Sequence[SuiteData]) -> list[Contest]:
    """The suites that were compared, by their baseline, from the fewest groups to the most."""
    places = {suite.path.resolve(): index for index, suite in enumerate(suites)}
    by_baseline: dict[Path, list[int]] = {}
    for index, suite in enumerate(suites):
        if suite.comparison and FVU in suite.comparison.mean and not _is_baseline(suite):
            by_baseline.setdefault(_baseline_path(suite), []).append(index)
    return [_contest(suites, places.get(path), indices) for path, indices in by_baseline.items()]


def _contest(suites: Sequence[SuiteData], at: int | None, indices: Sequence[int]) -> Contest:
    ordered = sorted(indices, key=lambda i: (len(suites[i].meta.groups), suites[i].label))
    scaled = len(suites) > COLOURS
    members = []
    for place, index in enumerate(ordered):
        comparison = suites[index].comparison
        assert comparison is not None
        ink: Chart = {"suite": index, "shape": index}
        if scaled:
            ink["shade"] = round(place / max(1, len(ordered) - 1), 4)
        members.append(Compared(index, suites[index], comparison, ink))
    grey: Chart = {"suite": COLOURS - 2, "shape": COLOURS - 2}
    coloured = at is not None and not scaled
    return Contest(
        members[0].comparison.baseline.variant if at is None else suites[at].label,
        None if at is None else suites[at],
        {"suite": at, "shape": at} if coloured else grey,
        members,
    )


def _baseline_path(suite: SuiteData) -> Path:
    assert suite.comparison is not None
    return (suite.path / suite.comparison.baseline.path).resolve()


def _is_baseline(suite: SuiteData) -> bool:
    return _baseline_path(suite) == suite.path.resolve()


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


def ratios(suites: Sequence[SuiteData], only: Collection[int]) -> list[Chart]:
    """The chart of each contest's FVU over its baseline's, of some suites."""
    out = []
    for chart in charts(suites):
        kept = [s for s in chart["series"] if s["suite"] in only or s["kind"] == "lines"]
        if chart["id"].startswith(f"difference-{FVU}-") and len(kept) > 1:
            out.append(chart | {"series": kept})
    return out


def _sites(contest: Contest) -> list[str]:
    return list(dict.fromkeys(site for m in contest.members for site in m.comparison.sites))


def site_axis(sites: Sequence[str]) -> Chart:
    """The axis of sites, labelled by number if numbers tell the sites apart, else by name."""
    numbers = [match.group() for site in sites if (match := re.search(r"\d+", site))]
    plain = len(set(numbers)) == len(sites)
    text = numbers if plain else list(sites)
    title = "layer" if plain else "site"
    return {"title": title, "ticks": {"values": list(range(len(sites))), "text": text}}


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
        out.append(
            {
                "id": f"bars-{name}",
                "title": metric.title,
                "description": "",
                "better": metric.better,
                "wide": True,
                "x": site_axis(sites),
                "y": {"title": metric.unit, "zero": True},
                "series": series,
            }
        )
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
        out.append(
            {
                "id": f"difference-{name}",
                "title": title,
                "description": about,
                "better": metric.better,
                "x": site_axis(sites),
                "y": {"title": "" if relative else metric.unit, "zero": not relative},
                "series": series,
            }
        )
    return out


def _series(
    name: str,
    sites: Sequence[str],
    values: dict[str, Value],
    kind: str,
    ink: Chart,
) -> Chart:
    known = [(at, site, values[site]) for at, site in enumerate(sites) if site in values]
    return {
        "name": name,
        "x": [at for at, _, _ in known],
        "y": [rounded(v.value) for _, _, v in known],
        "low": [rounded(v.low) for _, _, v in known],
        "high": [rounded(v.high) for _, _, v in known],
        "text": [site for _, site, _ in known],
        "kind": kind,
        **ink,
    }


def _named(contest: Contest) -> str:
    return f"{contest.name} (baseline)"


def _costs(contest: Contest) -> list[Chart]:
    """Mean FVU against the cost of training, if the suites differ in it."""
    suites = [m.suite for m in contest.members] + ([contest.baseline] if contest.baseline else [])
    out = []
    for cost in (_flops_of(suites), _seconds_of(suites)):
        series = []
        if contest.baseline and (x := cost.values.get(contest.baseline.path)):
            value = contest.members[0].comparison.mean[FVU].baseline
            series.append(_point(_named(contest), x, value, contest.ink))
        for m in contest.members:
            if x := cost.values.get(m.suite.path):
                series.append(_point(m.suite.label, x, m.comparison.mean[FVU].suite, m.ink))
        known = [s["x"][0] for s in series]
        if known and max(known) > 1.02 * min(known):
            out.append(
                {
                    "id": f"cost-{cost.id}",
                    "title": f"Mean FVU against {cost.name}",
                    "description": f"{cost.about} Intervals are over documents.",
                    "better": None,
                    "x": {"title": cost.unit, "log": max(known) > 10 * min(known), "zero": True},
                    "y": {"title": "", "zero": False},
                    "series": series,
                }
            )
    return out


@dataclass(frozen=True)
class _Cost:
    """The cost of training each suite, by the suite's path."""

    id: str
    name: str
    unit: str
    about: str
    values: dict[Path, float]


def _point(name: str, x: float, value: Value, ink: Chart) -> Chart:
    return {
        "name": name,
        "x": [rounded(x)],
        "y": [rounded(value.value)],
        "low": [rounded(value.low)],
        "high": [rounded(value.high)],
        "kind": "points",
        "size": 10,
        **ink,
    }


def _flops_of(suites: Sequence[SuiteData]) -> _Cost:
    values = {suite.path: x for suite in suites if (x := _flops(suite))}
    largest = max(values.values(), default=0.0)
    size, prefix = next(
        ((size, p) for size, p in ((1e18, "E"), (1e15, "P"), (1e12, "T")) if largest >= size),
        (1e9, "G"),
    )
    about = "As recorded by the training."
    if not all("flops" in suite.meta.cost for suite in suites):
        about = (
            "By the paper's count: N·L·(24d² + 4·context·d) for the language model, shared by all "
            "suites of a run but counted for each, and 10·d·M·N for an SAE."
        )
    values = {path: x / size for path, x in values.items()}
    return _Cost("flops", "FLOPs of training", f"{prefix}FLOP", about, values)


def _seconds_of(suites: Sequence[SuiteData]) -> _Cost:
    values = {suite.path: suite.meta.seconds for suite in suites if suite.meta.seconds}
    about = "Wall-clock of the training loop, with whatever else was trained in the same run."
    return _Cost("seconds", "measured seconds", "seconds", about, values)


def _flops(suite: SuiteData) -> float | None:
    """As recorded; else by the paper's count: A + G·T with A = N·L·(24d² + 4·context·d) for the
    language model and T = 10·d·M·N for an SAE (Group-SAE, 2410.21508)."""
    recorded = suite.meta.cost.get("flops")
    if isinstance(recorded, int | float):
        return float(recorded)
    meta, width = suite.meta, suite.options.get("width")
    d = next((site.d for site in meta.sites.values()), None)
    if not (meta.tokens and meta.groups and d and isinstance(width, int)):
        return None
    context = meta.text.get("context")
    context = context if isinstance(context, int) else 1024
    lm = meta.tokens * (meta.model.layers or 0) * (24 * d**2 + 4 * context * d)
    return float(lm + len(meta.groups) * 10 * d * width * meta.tokens)


def table(suites: Sequence[SuiteData]) -> tuple[list[Column], list[Row]]:
    """A row per site and suite, then the means: value, difference, ratio of every metric."""
    all_contests = contests(suites)
    columns = _columns(all_contests)
    places = [
        (site, m)
        for c in all_contests
        for site in [*_sites(c), MEAN]
        for m in c.members
        if _has(m, site)
    ]
    values = [[value_of(m, site, column.id) for column in columns] for site, m in places]
    digits = [decimals(column) for column in zip(*values, strict=True)] if values else []
    order = {site: at for at, site in enumerate(dict.fromkeys(site for site, _ in places))}
    order[MEAN] = len(order)
    rows = []
    for (site, m), row in zip(places, values, strict=True):
        cells = [
            Cell(*measured(v, d), v.value if v else None) for v, d in zip(row, digits, strict=True)
        ]
        rows.append(Row(site, order[site], m.index, m.suite.label, cells))
    return columns, rows


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
