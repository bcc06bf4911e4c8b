"""Suites and the baselines that `saeworks compare` put beside them, in results/comparison.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saeworks.report.marks import Chart
from saeworks.report.suites import SuiteData
from saeworks.results.comparison import Comparison
from saeworks.results.headlines import FVU

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
