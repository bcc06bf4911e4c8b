"""The page on cost: operations, seconds and parameters, and how the training went."""

from collections.abc import Sequence

from saeworks.report import baseline, charts, costs
from saeworks.report.beside import trained_flops
from saeworks.report.figures import NO_TICKS
from saeworks.report.marks import Chart, chart_of, series_of
from saeworks.report.numbers import count, number
from saeworks.report.page import CHARTS, OverviewVerdict, Page, Report
from saeworks.report.suites import SuiteData
from saeworks.results.metric import Value


def page(report: Report) -> Page | None:
    """None where neither cost nor training was recorded."""
    suites = report.suites
    trained = ((f"training-{at}", charts.training(suite)) for at, suite in enumerate(suites))
    curves = {name: of_suite for name, of_suite in trained if of_suite}
    told = [line for suite in suites if (line := _sentence(suite))]
    table = costs.table(suites)
    if not (curves or told or table.columns):
        return None
    drawn = [chart for chart in baseline.charts(suites) if baseline.is_cost(chart)]
    sections = [("spent", "What was spent")] if table.columns else []
    sections += [("training", "Training")] if curves else []
    return Page(
        "Cost",
        "What the SAEs cost",
        sections=sections,
        context={"sentences": told, "table_": table, "has_training": bool(curves)},
        data={"costs": drawn},
        scripts=(*CHARTS, "training.js"),
        files=curves.items(),
        loads=list(curves),
        verdict=OverviewVerdict(told if len(told) < 2 else _range(suites), _bars(suites)),
    )


def _sentence(suite: SuiteData) -> str:
    told = []
    if saes := trained_flops(suite):
        told.append(f"{scientific(saes)} FLOPs for the SAEs")
    if isinstance(lm := suite.meta.cost.get("flops_lm"), int | float) and lm:
        told.append(f"{scientific(lm)} for reading with the language model")
    if suite.meta.seconds:
        told.append(
            f"{number(suite.meta.seconds)} s of the training loop, which all SAEs of a run share"
        )
    if not told:
        return ""
    return f"{suite.label}, on {count(suite.meta.tokens)} tokens: {'; '.join(told)}."


def _range(suites: Sequence[SuiteData]) -> list[str]:
    """The dearest and the cheapest suite."""
    known = {suite.label: flops for suite in suites if (flops := trained_flops(suite))}
    if not known:
        return []
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    return [
        f"Training the SAEs took from {scientific(known[low])} FLOPs ({low}) to "
        f"{scientific(known[high])} ({high}), besides the language model's reading."
    ]


def _bars(suites: Sequence[SuiteData]) -> Chart | None:
    """FLOPs of each suite's SAEs; None of one suite."""
    known = [
        (at, suite, flops) for at, suite in enumerate(suites) if (flops := trained_flops(suite))
    ]
    if len(known) < 2:
        return None
    series = [
        series_of(suite.label, [(x, suite.label, Value(spent))], "bars", suite=at)
        for x, (at, suite, spent) in enumerate(known)
    ]
    y = {"title": "FLOPs", "zero": True}
    return chart_of("flops", "Training the SAEs", series, {"title": "", "ticks": NO_TICKS}, y)


def scientific(value: float) -> str:
    """`4.1·10¹²`."""
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{mantissa}·10{str(int(power)).translate(str.maketrans('0123456789-', '⁰¹²³⁴⁵⁶⁷⁸⁹⁻'))}"
