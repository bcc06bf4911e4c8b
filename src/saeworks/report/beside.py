"""What a suite costs and loses beside the one with an SAE of its own for every site."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from saeworks.report import baseline
from saeworks.report.charts import by_layer
from saeworks.report.contests import contests
from saeworks.report.marks import Chart, chart_of, series_of
from saeworks.report.numbers import measured
from saeworks.report.page import Report
from saeworks.report.suites import SuiteData
from saeworks.report.summary import all_metrics
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
            sites = len(self.suite.meta.sites)
            told.append(f"has {len(self.suite.meta.groups)} SAEs for {sites} sites")
        if self.flops is not None:
            told.append(f"takes {_change(self.flops)} FLOPs of training")
        if self.fvu is not None and self.fvu.value is not None:
            value, span = measured(self.fvu, None)
            told.append(f"its FVU is {value} times as high{f' ({span})' if span else ''}")
        *first, last = told or ["was trained"]
        return f"{self.suite.label} {', '.join(first)}{' and ' if first else ''}{last}."


def _change(ratio: float) -> str:
    """`59% fewer`."""
    percent = round(100 * (ratio - 1))
    return "as many" if not percent else f"{abs(percent)}% {'more' if percent > 0 else 'fewer'}"


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


def sentences(told: Sequence[Beside]) -> list[str]:
    """What each suite costs and loses, with the reference named once."""
    return [f"Beside {told[0].reference.label}:", *(one.sentence for one in told)] if told else []


def cost_chart(report: Report) -> Chart | None:
    """Mean FVU against the FLOPs of training the SAEs, a point per suite, of many in the colour of
    its line; None where fewer than two are known."""
    series = []
    for at, suite in enumerate(report.suites):
        flops, values, ink = trained_flops(suite), list(fvus(suite).values()), report.inks[at]
        if flops and values:
            name = report.lines[ink].name if report.many else suite.label
            point = (flops, suite.label, Value(fmean(values)))
            series.append(series_of(name, [point], "points", suite=ink, shape=ink, size=10))
    if len(series) < 2:
        return None
    x = {"title": "FLOPs of training the SAEs", "log": True}
    return chart_of("cost-saes", "Mean FVU", series, x, {"title": "", "zero": True})


def compared(suites: Sequence[SuiteData], only: Collection[int]) -> list[Chart]:
    """FVU over the layers of some suites: over their baseline's where they were compared with one,
    else beside the reference's."""
    ratios = [c for c in baseline.charts(suites) if c["id"].startswith(f"difference-{FVU}-")]
    first = reference(suites)
    fvu = {key: metric for key, metric in all_metrics(suites).items() if key == FVU}
    both = {*only, *(at for at, suite in enumerate(suites) if suite is first)}
    drawn = ratios or (by_layer(suites, fvu) if first and fvu else [])
    kept = (
        chart
        | {"series": [s for s in chart["series"] if s["suite"] in both or s["kind"] == "lines"]}
        for chart in drawn
    )
    return [chart for chart in kept if len(chart["series"]) > 1]


def fvus(suite: SuiteData) -> dict[str, float]:
    """FVU by site."""
    known = ((site, suite.value(site, FVU)) for site in suite.meta.sites)
    return {site: v.value for site, v in known if v is not None and v.value is not None}


def _fvu(suite: SuiteData, first: SuiteData) -> Value | None:
    """With the interval of the comparison, if that is with this reference."""
    for contest in contests([suite, first]):
        pair = contest.members[0].comparison.mean[FVU]
        if contest.baseline is first and pair.ratio is not None:
            return pair.ratio
    own, other = fvus(suite), fvus(first)
    both = [site for site in own if other.get(site)]
    if not both:
        return None
    return Value(fmean(own[site] for site in both) / fmean(other[site] for site in both))


def trained_flops(suite: SuiteData) -> float | None:
    """FLOPs of the SAEs' training, without the language model's reading."""
    flops = suite.meta.cost.get("flops_saes")
    return float(flops) if isinstance(flops, int | float) and flops > 0 else None


def _flops(suite: SuiteData, first: SuiteData) -> float | None:
    own, other = trained_flops(suite), trained_flops(first)
    return own / other if own and other else None
