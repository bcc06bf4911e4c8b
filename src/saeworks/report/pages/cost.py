"""The page on cost: operations, seconds and parameters, and how the training went."""

from saeworks.report import baseline, charts, costs
from saeworks.report.numbers import count, number
from saeworks.report.page import CHARTS, Page, Report, Verdict
from saeworks.report.suites import SuiteData


def page(report: Report) -> Page | None:
    """None where neither cost nor training was recorded."""
    suites = report.suites
    curves = {
        f"training-{at}": drawn
        for at, suite in enumerate(suites)
        if (drawn := charts.training(suite))
    }
    told = [line for suite in suites if (line := _sentence(suite))]
    table = costs.table(suites)
    if not (curves or told or table.columns):
        return None
    drawn = [chart for chart in baseline.charts(suites) if chart["id"].startswith("cost-")]
    sections = [("spent", "What was spent")] if table.columns else []
    sections += [("training", "Training")] if curves else []
    return Page(
        "cost",
        "Cost",
        "What the SAEs cost",
        sections=sections,
        context={"sentences": told, "table_": table, "has_training": bool(curves)},
        data={"costs": drawn},
        scripts=(*CHARTS, "training.js"),
        files=curves.items(),
        loads=list(curves),
        verdict=Verdict(told[:3], None if not drawn else drawn[-1]) if told else None,
    )


def _sentence(suite: SuiteData) -> str:
    cost, told = suite.meta.cost, []
    if isinstance(saes := cost.get("flops_saes"), int | float) and saes:
        told.append(f"{scientific(saes)} FLOPs for the SAEs")
    if isinstance(lm := cost.get("flops_lm"), int | float) and lm:
        told.append(f"{scientific(lm)} for reading with the language model")
    if suite.meta.seconds:
        told.append(
            f"{number(suite.meta.seconds)} s of the training loop, which all SAEs of a run share"
        )
    if not told:
        return ""
    return f"{suite.label}, on {count(suite.meta.tokens)} tokens: {'; '.join(told)}."


def scientific(value: float) -> str:
    """`4.1·10¹²`."""
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{mantissa}·10{str(int(power)).translate(str.maketrans('0123456789-', '⁰¹²³⁴⁵⁶⁷⁸⁹⁻'))}"
