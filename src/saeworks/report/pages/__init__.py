"""The pages of the report, each a module that says what it shows, or that there is nothing."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType

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


def _named(*modules: ModuleType) -> dict[str, Callable[[Report], Page | None]]:
    return {module.__name__.rpartition(".")[2]: module.page for module in modules}


PAGES: dict[str, Callable[[Report], Page | None]] = {
    **_named(compare, layers, groups, experts, missed),
    **{name: partial(studies.page, name) for name in studies.PAGES},
    **_named(latents, cost, reproduce),
}
"""Name of the file → what makes it, in the order of the navigation. A new page is its module, named
here, and its template."""
NAMES = ("index", *PAGES)


def made(report: Report) -> list[Page]:
    """The pages that have something to say; the overview, which speaks of the others, first."""
    told = ((name, make(report)) for name, make in PAGES.items())
    pages = [replace(page, name=name) for name, page in told if page]
    return [overview.page(report, pages), *pages]
