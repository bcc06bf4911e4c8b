"""The page of a plan and the comparison of a run in a real browser."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.browsing import MARKS, errors, resize, unfold, visit, wait
from helpers.plans import measured
from helpers.toy_comparisons import SITES, comparison
from saeworks.groups.plan import make_plan
from saeworks.report.build import write_report
from saeworks.report.plan import write_plan_page

pytestmark = MARKS


@pytest.fixture
def plan_page(tmp_path: Path) -> str:
    make_plan(measured(), 2).write(tmp_path / "plan.json")
    return write_plan_page(tmp_path / "plan.json", tmp_path / "page").as_uri()


@pytest.fixture
def comparison_page(make_suite: Callable[..., Path], tmp_path: Path) -> str:
    """A baseline (k 16) and one SAE for all sites (k 32 stands for it)."""
    groups = {"all": list(SITES)}
    paths = [make_suite(k=k, sites=SITES) for k in (16, 32)]
    meta = json.loads((paths[1] / "suite.json").read_text())
    meta |= {"groups": {"all": {"sites": list(SITES)}}, "grouping": {"method": "even", "groups": 1}}
    (paths[1] / "suite.json").write_text(json.dumps(meta))
    comparison("topk-x8-k16", 0.02, groups).write(paths[1])
    return write_report(paths, tmp_path / "report").as_uri()


def fits(browser: Any) -> bool:
    root = "document.documentElement"
    return bool(browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth"))


@pytest.mark.parametrize("width", [1280, 390])
def test_a_plan_reads_well(browser: Any, plan_page: str, width: int) -> None:
    resize(browser, width)
    browser.get(plan_page)
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")  # draws them all
    wait(browser, "[...document.querySelectorAll('.plot')].every(p => p.children.length)")
    assert browser.execute_script("return document.querySelectorAll('.plot').length") == 4
    assert fits(browser)
    assert errors(browser) == []


def test_a_heat_map_of_a_plan_is_drawn_with_its_groups(browser: Any, plan_page: str) -> None:
    resize(browser, 1280)
    browser.get(plan_page)
    wait(browser, "document.querySelectorAll('[data-heat] svg').length >= 2")
    shapes = browser.execute_script(
        "return document.querySelectorAll('[data-heat] .shapelayer path').length"
    )
    assert shapes >= 2  # the outlines of the groups, on the distances that they follow from


@pytest.mark.parametrize("width", [1280, 390])
def test_a_comparison_reads_well(browser: Any, comparison_page: str, width: int) -> None:
    visit(browser, comparison_page, "compare", width)
    unfold(browser)
    wait(browser, "[...document.querySelectorAll('.plot')].every(p => p.children.length)")
    bars = "document.querySelectorAll('.barlayer .point path, .bars .point path').length"
    assert browser.execute_script(f"return {bars}") >= 2 * len(SITES)
    assert fits(browser)
    assert errors(browser) == []
