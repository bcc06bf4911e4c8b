"""The first page: what the others say, in words, with one figure each."""

from collections.abc import Sequence

from saeworks.report import summary
from saeworks.report.marks import Chart
from saeworks.report.numbers import count
from saeworks.report.page import CHARTS, Page, Report

MOST = 12
"""Lines of a figure of the overview."""


def page(report: Report, pages: Sequence[Page]) -> Page:
    """The overview of pages."""
    told = [page for page in pages if page.verdict and page.verdict.sentences]
    told.sort(key=lambda page: _chart(page) is None)
    drawn = {page.name: chart for page in told if (chart := _chart(page))}
    return Page(
        "Overview",
        f"Sparse autoencoders on {report.title}",
        _about(report),
        name="index",
        template="overview",
        context={
            "verdicts": told,
            "figure_of": {name: at for at, name in enumerate(drawn)},
            "caution": summary.caution(report.suites),
        },
        data={"overview": list(drawn.values())},
        scripts=CHARTS,
    )


def _chart(page: Page) -> Chart | None:
    """The figure of a page's verdict, unless its lines are too many to be told apart."""
    chart = page.verdict.chart if page.verdict else None
    return chart if chart and len({line["name"] for line in chart["series"]}) <= MOST else None


def _about(report: Report) -> str:
    """Of one suite which; of several how many, of how many sites."""
    suites = report.suites
    tokens = sorted({suite.meta.tokens for suite in suites if suite.meta.tokens})
    trained = (
        " to ".join(count(n) for n in dict.fromkeys((tokens[0], tokens[-1]))) if tokens else ""
    )
    which = suites[0].label if len(suites) == 1 else f"{len(suites)} suites"
    sites = f"{len(report.sites)} site{'s' if len(report.sites) != 1 else ''}"
    return ", ".join(
        filter(None, (which, sites, f"trained on {trained} tokens" if trained else ""))
    )
