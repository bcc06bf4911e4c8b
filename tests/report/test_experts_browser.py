"""The section on experts and the frontier's costs in a real browser."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.browsing import MARKS, errors, texts, unfold, visit, wait
from helpers.expert_results import as_switch, cost, write_consistency, write_experts, write_geometry
from saeworks.report.build import write_report

pytestmark = MARKS

SITES = ("layers.1",)
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(fake_suite: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """TopK and Switch with four experts at two sparsities; a domain and a concept are hostile."""
    root, paths = tmp_path_factory.mktemp("experts"), []
    for k in (16, 32):
        topk = fake_suite(root / "topk", k=k, sites=SITES, latents=1, parts=("reconstruction",))
        write_geometry(topk, 2, "cut", share=0.01)
        cost(topk, 8e5)
        switch = fake_suite(root / "n4", k=k, sites=SITES, latents=1, parts=("reconstruction",))
        as_switch(switch, 4, 2e5)
        write_geometry(switch, 4, share=k / 100)
        write_experts(switch, 4, domain=HOSTILE)
        write_consistency(switch, concept=HOSTILE)
        paths += [topk, switch]
    return write_report(paths, root / "report").as_uri()


def opened(browser: Any, page: str, width: int = 1280) -> None:
    visit(browser, page, "experts", width)
    wait(browser, "document.querySelectorAll('#experts-figures figure').length")
    unfold(browser)
    wait(browser, "[...document.querySelectorAll('.plot')].every(p => p.children.length)")


@pytest.mark.parametrize("width", [1280, 390])
def test_experts_read_well(browser: Any, page: str, width: int):
    opened(browser, page, width)
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    titles = texts(browser, "#experts-figures h3")
    assert titles == [
        "Load of each expert",
        "Confidence of the router",
        "Where each domain goes",
        "Similarity between experts",
        "The same, latents shuffled",
        "The same, without experts",
        "Overlap of supports",
        "t-SNE of decoder rows",
        "t-SNE of encoder rows",
        "Duplicates by threshold",
        "Nearest neighbour",
        "Concepts coded differently",
    ]
    captions = texts(browser, "#experts-numbers .caption")
    assert captions[:-1] == titles and captions[-1].startswith("Known concepts")
    points = "document.querySelectorAll('#experts-figures .scatterlayer .point').length"
    assert browser.execute_script(f"return {points}") >= 2 * 12
    assert errors(browser) == []


def test_names_from_outside_are_text(browser: Any, page: str):
    opened(browser, page)
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    cells = texts(browser, "#experts-numbers tbody th")
    assert HOSTILE in cells and f"{HOSTILE} = past" in cells
    assert errors(browser) == []


def test_another_suite_is_shown_with_its_own_numbers(browser: Any, page: str):
    opened(browser, page)
    browser.execute_script(
        "const f = document.getElementById('experts-controls'); f.elements.suite.value = '0';"
        "f.dispatchEvent(new Event('change'))"
    )
    wait(browser, "document.querySelector('#experts-figures h3').textContent.includes('blocks')")
    assert "Load of each expert" not in texts(browser, "#experts-figures h3")
    assert "t-SNE of decoder rows" in texts(browser, "#experts-numbers .caption")


def test_the_heat_map_follows_the_threshold(browser: Any, page: str):
    opened(browser, page)
    rows = "#duplicates-table tbody tr:nth-child(2) td"
    assert texts(browser, "#duplicates-table tbody th") == ["topk", "switch"]
    assert texts(browser, rows) == ["16%", "32%"]
    browser.execute_script(
        "const f = document.getElementById('duplicates-controls');"
        "f.elements.threshold.value = '0'; f.dispatchEvent(new Event('change'))"
    )
    assert texts(browser, rows) == ["48%", "96%"]
    inside = texts(browser, "#duplicates-map .heatmap-label")
    assert "96%" in inside


def test_the_frontier_against_another_cost(browser: Any, page: str):
    visit(browser, page, "compare")
    unfold(browser)
    title = "#frontier .xtitle"
    wait(browser, "document.querySelectorAll('#frontier .xtitle').length")
    assert set(texts(browser, title)) == {"active latents per token"}
    browser.execute_script(
        "const s = document.querySelector('#frontier select[name=axis]'); s.value = 'flops';"
        "s.dispatchEvent(new Event('change'))"
    )
    wait(browser, "document.querySelector('#frontier .xtitle').textContent.includes('FLOPs')")
    points = browser.execute_script(
        "return JSON.stringify(document.querySelector('#frontier .plot').data.map(t => t.x))"
    )
    assert json.loads(points) == [[8e5, 8e5], [2e5, 2e5]]
    assert errors(browser) == []
