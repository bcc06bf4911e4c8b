"""The page on layers: what is lost at each site, and how often latents fire."""

from saeworks.report import charts, summary
from saeworks.report.beside import routed
from saeworks.report.marks import Chart
from saeworks.report.page import CHARTS, OverviewVerdict, Page, Report
from saeworks.report.pages import experts
from saeworks.results.headlines import DEAD_SHARE, DELTA_CE, FVU, L0, LOSS_RECOVERED_ZERO

FIRST = (FVU, DELTA_CE, LOSS_RECOVERED_ZERO, L0, DEAD_SHARE)
"""Metrics that are drawn without being asked for, where there is something to see."""


def page(report: Report) -> Page | None:
    """None where nothing was measured at the sites."""
    suites = report.suites
    headline = summary.columns(suites, headline=True)
    rows = summary.rows(suites, headline)
    every = summary.columns(suites, headline=False)
    by_layer = charts.by_layer(suites)
    if not by_layer:
        return None
    drawn = {chart["id"].removeprefix("metric-"): chart for chart in by_layer}
    first = [drawn[name] for name in FIRST if name in drawn]
    histograms = charts.histograms(suites)
    alike = experts.section(suites) if not any(map(routed, suites)) else None
    sentences = [(suite.label, summary.about(suite)) for suite in suites]
    data = {
        "by_layer": first,
        "more": [chart for chart in by_layer if chart not in first],
        "histograms": histograms,
    }
    sections = [("losses", "What is lost"), ("numbers", "All numbers")]
    sections += [("frequencies", "How often latents fire")] if histograms else []
    sections += [("alike", "How alike latents are")] if alike else []
    return Page(
        "Layers",
        "What is lost at every layer",
        "Every metric at every site, on held-out documents. Bars are 95% intervals.",
        sections=sections,
        context={
            "sentences": sentences,
            "caution": summary.caution(suites),
            "headline": headline,
            "headline_rows": rows,
            "every": every,
            "every_rows": summary.rows(suites, every),
            "alike": alike,
        },
        data=data | (alike.data if alike else {}),
        scripts=(*CHARTS, *(("experts.js",) if alike else ())),
        files=alike.files.items() if alike else (),
        loads=list(alike.files) if alike else (),
        verdict=_verdict(report, first),
    )


def _verdict(report: Report, first: list[Chart]) -> OverviewVerdict:
    """Of one suite what its numbers say; of several, of each the range of its FVU."""
    suites = report.suites
    if len(suites) == 1:
        sentences = summary.about(suites[0])[:3]
    else:
        spans = (summary.span(suite, FVU) for suite in suites)
        sentences = [
            f"{suite.label}: FVU {span}." for suite, span in zip(suites, spans, strict=True) if span
        ]
    return OverviewVerdict(sentences, next((chart for chart in first if not chart["flat"]), None))
