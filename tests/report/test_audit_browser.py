"""The audit's section in a real browser."""

import json
from itertools import pairwise
from typing import Any

import pytest

from helpers.browsing import MARKS, errors, texts, unfold, visit, wait
from helpers.toy_audits import audit
from saeworks.report.build import write_report

pytestmark = MARKS

HOSTILE = '<img src=x onerror="document.title=1"><b>layers.1</b>'
SITES = ("layers.0", HOSTILE)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, fake_suite: Any) -> str:
    """Two suites, audited together as SAEs of two of three widths."""
    root = tmp_path_factory.mktemp("audits")
    paths = [fake_suite(root, k=k, sites=SITES, parts=("reconstruction",)) for k in (16, 64)]
    for seed, path in enumerate(paths):
        found = audit(SITES, gain=1 + seed, seed=seed, widths=[256, 512, 1024])
        found.write(path / "results" / "audit.json")
    return write_report(paths, root / "out").as_uri()


def show(browser: Any, page: str, width: int, theme: str = "light") -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    visit(browser, page, "missed", width)


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_it_reads_well(browser: Any, page: str, width: int, theme: str) -> None:
    show(browser, page, width, theme)
    unfold(browser)
    shown = "[...document.querySelectorAll('main figure:not([hidden]) .plot')]"
    wait(browser, f"{shown}.every(p => p.querySelector('.trace'))")
    assert browser.execute_script(f"return {shown}.length") > 20
    broken = "[...document.querySelectorAll('main .js-line, main .point, main .point path')]"
    broken += ".some(p => /NaN/.test(p.getAttribute('d')))"
    assert not browser.execute_script(f"return {broken}")
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    assert errors(browser) == []


def test_bars_stand_on_one_another_and_whiskers_on_their_tops(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    first = "document.querySelector('main [data-chart=audit_parts]')"
    browser.execute_script(f"{first}.scrollIntoView({{behavior: 'instant'}})")
    wait(browser, f"{first}.querySelectorAll('.trace').length >= 8")
    tops = "p => p.getBoundingClientRect()"
    bars = browser.execute_script(
        f"return [...{first}.querySelectorAll('.bars .point:first-child path')].map({tops})"
    )
    assert [bar["height"] > 0 for bar in bars] == [True] * 4
    for below, above in pairwise(bars):
        assert above["bottom"] == pytest.approx(below["top"], abs=1.5)
    whiskers = browser.execute_script(
        f"return [...{first}.querySelectorAll('.scatterlayer .errorbar:first-child')].map({tops})"
    )
    for bar, whisker in zip(bars, whiskers, strict=True):
        assert whisker["top"] <= bar["top"] + 1 <= whisker["bottom"] + 2


def test_one_suite_is_shown_at_a_time(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    shown = "main figure[data-panel]:not([hidden]) .plot"
    labels = "return [...new Set([...document.querySelectorAll(arguments[0])]"
    labels += ".map(p => p.parentElement.dataset.panel))]"
    assert browser.execute_script(labels, shown) == ["0"]
    browser.execute_script(
        "for (const e of document.querySelectorAll('main [data-panels]')) {e.value = '1';"
        "e.dispatchEvent(new Event('change', {bubbles: true})) }"
    )
    assert browser.execute_script(labels, shown) == ["1"]
    assert errors(browser) == []


def test_verdicts_come_first_and_text_is_never_code(browser: Any, page: str) -> None:
    browser.get_log("performance")
    show(browser, page, 1280)
    assert browser.title.endswith("saeworks report")
    assert browser.execute_script("return document.querySelectorAll('img, main b').length") == 0
    assert texts(browser, "main article h3") == [*SITES, *SITES]
    assert "linear in x" in texts(browser, "main article strong")[0]
    first = "document.querySelector('main article').getBoundingClientRect().top"
    figure = "document.querySelector('main figure').getBoundingClientRect().top"
    assert browser.execute_script(f"return {first} < {figure}")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"].endswith("BeSent")]
    assert [u for u in asked if not u.startswith(("file://", "data:", "about:"))] == []
