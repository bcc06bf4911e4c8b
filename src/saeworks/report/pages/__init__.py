"""The pages of the report, each a module that says what it shows, or that there is nothing."""

from collections.abc import Callable
from functools import partial

from saeworks.report.page import Page, Report
from saeworks.report.pages import (
    compare,
    cost,
    experts,
    groups,
    latents,
    layers,
    missed,
    overview,
    reproduce,
    studies,
)

PAGES: dict[str, Callable[[Report], Page | None]] = {
    "compare": compare.page,
    "layers": layers.page,
    "groups": groups.page,
    "experts": experts.page,
    "missed": missed.page,
    **{name: partial(studies.page, name) for name in studies.PAGES},
    "latents": latents.page,
    "cost": cost.page,
    "reproduce": reproduce.page,
}
"""Name of the file → what makes it, in the order of the navigation. A new page is a line here,
its module and its template."""
NAMES = ("index", *PAGES)


def made(report: Report) -> list[Page]:
    """The pages that have something to say; the overview, which speaks of the others, first."""
    pages = [page for make in PAGES.values() if (page := make(report))]
    return [overview.page(report, pages), *pages]
