"""The page that puts suites side by side: beside their baseline, over seeds, over sparsity."""

from saeworks.report import baseline, frontier, over_seeds, summary
from saeworks.report.beside import beside, cost_chart
from saeworks.report.beside import sentences as beside_sentences
from saeworks.report.contests import contests
from saeworks.report.page import CHARTS, OverviewVerdict, Page, Report


def page(report: Report) -> Page | None:
    """None of one suite that was compared with none."""
    suites = report.suites
    drawn = [chart for chart in baseline.charts(suites) if not baseline.is_cost(chart)]
    over_sparsity = frontier.charts(suites)
    sentences = [] if report.many and len(report.lines) > 1 else summary.comparison(suites)
    told = beside_sentences(beside(suites))
    cost = cost_chart(report)
    if not (drawn or over_sparsity or sentences or told):
        return None
    columns, rows = frontier.table(suites)
    sections = [("price", "Loss against cost")] if cost else []
    sections += [("baseline", "Beside the baseline")] if drawn else []
    sections += [("frontier", "Over sparsity and cost")] if over_sparsity else []
    beside_columns, beside_rows = baseline.table(suites)
    seeds_columns, seeds_rows = over_seeds.table(suites)
    axes = {axis["id"]: axis["title"] for chart in over_sparsity for axis in chart["axes"]}
    return Page(
        "Side by side",
        "Suites side by side",
        sections=sections,
        context={
            "sentences": [*told, *sentences],
            "baselines": list(dict.fromkeys(contest.name for contest in contests(suites))),
            "beside_columns": beside_columns,
            "beside_rows": beside_rows,
            "seeds_columns": seeds_columns,
            "seeds_rows": seeds_rows,
            "frontier_axes": axes,
            "frontier_columns": columns,
            "frontier_rows": rows,
        },
        data={"price": [cost] if cost else [], "baseline": drawn, "frontier": over_sparsity},
        scripts=(*CHARTS, "frontier.js"),
        verdict=OverviewVerdict(
            (told or sentences)[:5], cost or next(iter([*drawn, *over_sparsity]), None)
        ),
    )
