"""What a suite costs and loses beside the one with an SAE of its own for every site."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from saeworks.report.contests import contests
from saeworks.report.numbers import number
from saeworks.report.suites import SuiteData
from saeworks.results.headlines import FVU
from saeworks.results.metric import Value
from saeworks.results.names import EXPERTS


def shares(suite: SuiteData) -> bool:
    """Whether several sites have one SAE."""
    return any(len(group.sites) > 1 for group in suite.meta.groups.values())


def routed(suite: SuiteData) -> bool:
    """Whether a router sends each token to some of several experts."""
    experts = suite.options.get(EXPERTS)
    return isinstance(experts, int) and experts > 1


@dataclass(frozen=True)
class Beside:
    """A suite beside the reference; `fvu` and `flops` are ratios, None where they are unknown."""

    index: int
    suite: SuiteData
    reference: SuiteData
    fvu: Value | None
    flops: float | None

    @property
    def sentence(self) -> str:
        """In words."""
        told = []
        if shares(self.suite) and not shares(self.reference):
            told.append(
                f"{len(self.suite.meta.groups)} SAEs for {len(self.suite.meta.sites)} sites"
            )
        if self.flops is not None:
            told.append(f"{_times(self.flops)} the FLOPs of training")
        if self.fvu is not None and self.fvu.value is not None:
            span = (
                ""
                if self.fvu.low is None
                else f" ({number(self.fvu.low)} to {number(self.fvu.high)})"
            )
            told.append(f"{_times(self.fvu.value)} the FVU{span}")
        return f"{self.suite.label}: {', '.join(told)} of {self.reference.label}."


def _times(ratio: float) -> str:
    return f"{number(ratio)} times"


def reference(suites: Sequence[SuiteData]) -> SuiteData | None:
    """The baseline that suites were compared with; else the first without groups and experts."""
    if len(suites) < 2:
        return None
    compared = [contest.baseline for contest in contests(suites) if contest.baseline]
    plain = [suite for suite in suites if not shares(suite) and not routed(suite)]
    return next(iter([*compared, *plain]), None)


def beside(suites: Sequence[SuiteData]) -> list[Beside]:
    """Every other suite beside the reference, if there is one."""
    first = reference(suites)
    if first is None:
        return []
    return [
        Beside(at, suite, first, _fvu(suite, first), _flops(suite, first))
        for at, suite in enumerate(suites)
        if suite is not first
    ]


def _fvu(suite: SuiteData, first: SuiteData) -> Value | None:
    """With the interval of the comparison, if that is with this reference."""
    for contest in contests([suite, first]):
        pair = contest.members[0].comparison.mean[FVU]
        if contest.baseline is first and pair.ratio is not None:
            return pair.ratio
    both = [(suite.value(site, FVU), first.value(site, FVU)) for site in suite.meta.sites]
    known = [(a.value, b.value) for a, b in both if a and b and a.value is not None and b.value]
    if not known:
        return None
    return Value(fmean(a for a, _ in known) / fmean(b for _, b in known))


def _flops(suite: SuiteData, first: SuiteData) -> float | None:
    """Of the SAEs' training, without the language model's reading."""
    own, other = (s.meta.cost.get("flops_saes") for s in (suite, first))
    known = isinstance(own, int | float) and isinstance(other, int | float) and other > 0
    return own / other if known else None
