"""Suites beside their baselines over several seeds: means with Student's intervals."""

from collections.abc import Sequence

from saeworks.report.baseline import BARS, metric_columns, value_of
from saeworks.report.contests import Compared, contests
from saeworks.report.suites import SuiteData
from saeworks.report.tables import Column, Row, RowPlace, rows_of
from saeworks.results.metric import Value
from saeworks.results.names import MEAN
from saeworks.results.statistics import student


def table(suites: Sequence[SuiteData]) -> tuple[list[Column], list[Row]]:
    """A row per site and variant of which several seeds were compared, then those of the means."""
    variants = _variants(suites)
    columns = _columns([member for members in variants for member in members])
    sites = list(dict.fromkeys(s for members in variants for m in members for s in _sites(m)))
    rows = [
        (RowPlace(order, site, members[0].index, _label(members)), members)
        for order, site in enumerate([*sites, MEAN])
        for members in variants
        if site == MEAN or all(site in m.comparison.sites for m in members)
    ]
    values = [[_over(members, place.site, c.id) for c in columns] for place, members in rows]
    return columns, rows_of([place for place, _ in rows], values)


def _label(members: Sequence[Compared]) -> str:
    return f"{members[0].suite.meta.variant}, {len(members)} seeds"


def _variants(suites: Sequence[SuiteData]) -> list[list[Compared]]:
    """The suites that differ in their seed alone, and whose baselines do, two or more of each."""
    by_variants: dict[tuple[str, str], list[Compared]] = {}
    for contest in contests(suites):
        for member in contest.members:
            key = (member.suite.meta.variant, member.comparison.baseline.variant)
            by_variants.setdefault(key, []).append(member)
    return [
        m
        for m in by_variants.values()
        if 1 < len(m) == len({member.suite.meta.seed for member in m})
    ]


def _columns(members: Sequence[Compared]) -> list[Column]:
    out: dict[str, Column] = {}
    for member in members:
        for name in BARS:
            if name in member.comparison.metrics:
                out |= metric_columns(name, member.comparison)
    return list(out.values())


def _sites(member: Compared) -> list[str]:
    return list(member.comparison.sites)


def _over(members: Sequence[Compared], site: str, column: str) -> Value | None:
    values = [value_of(member, site, column) for member in members]
    known = [value.value for value in values if value is not None and value.value is not None]
    if len(known) < len(members):
        return None
    mean, low, high = student(known)
    return Value(value=mean, low=low, high=high)
