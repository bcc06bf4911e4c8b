"""Every page of a report with all results in a real browser: widths, themes, links, keys, axe."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from helpers.browsing import MARKS, errors, texts, unfold, visit, wait
from helpers.expert_results import as_switch, cost, write_experts, write_geometry
from helpers.reports import pages_of
from helpers.study_results import GRAPH, add_studies, add_study
from helpers.toy_audits import audit
from helpers.toy_comparisons import comparison
from saeworks.report.build import write_report
from saeworks.report.pages import NAMES

pytestmark = MARKS

SITES = ("layers.0", "layers.1", "layers.2")
GROUPS = {"all": list(SITES)}


@pytest.fixture(scope="module")
def index(fake_suite: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SAE for each layer, one for all of them, and one with experts, as the demo trains them."""
    root = tmp_path_factory.mktemp("site")
    plain, group, switch = (fake_suite(root / n, k=16, sites=SITES, latents=4) for n in "abc")
    meta = json.loads((group / "suite.json").read_text())
    meta |= {"groups": {"all": {"sites": list(SITES), "width": 64}}, "variant": "group"}
    meta["grouping"] = {"method": "even", "groups": 1}
    (group / "suite.json").write_text(json.dumps(meta))
    as_switch(switch, 4, 2e5)
    write_experts(switch, 4)
    write_geometry(switch, 4)
    for suite, flops in ((plain, 8e5), (group, 3e5), (switch, 2e5)):
        cost(suite, flops)
        audit(SITES).write(suite / "results" / "audit.json")
        add_studies(suite, SITES)
    add_study(plain, "circuits_ioi", ("all sites",), series={"graph": GRAPH})
    for suite in (group, switch):
        comparison("../a/topk-x8-k16", 0.02, GROUPS).write(suite)
    return write_report([plain, group, switch], root / "report")


def theme(browser: Any, name: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": name}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def test_all_pages_are_there(index: Path) -> None:
    assert pages_of(index) == set(NAMES)


AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, { preload: false, resultTypes: ['violations'] }).then(r => done(
  r.violations.filter(v => ['serious', 'critical'].includes(v.impact))
   .map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(' | '))));
"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core; empty where it is not installed."""
    package = find_spec("axe_core_python")
    if package is None or package.origin is None:
        return ""
    return Path(package.origin).with_name("axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "colours"), [(1280, "dark"), (390, "light")])
def test_a_page_reads_well(
    browser: Any, index: Path, axe: str, name: str, width: int, colours: str
) -> None:
    theme(browser, colours)
    visit(browser, index.as_uri(), name, width)
    unfold(browser)
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    assert browser.execute_script("return document.querySelectorAll('h1').length") == 1
    assert texts(browser, "nav.pages [aria-current]")
    assert errors(browser) == []
    if axe:
        browser.execute_script(axe)
        assert browser.execute_async_script(AXE) == []


LINKS = """
return [...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href'))
  .concat(saeworks.data.search.map(place => place[0]));
"""


def test_all_links_resolve(browser: Any, index: Path) -> None:
    ids = {}
    for name in NAMES:
        visit(browser, index.as_uri(), name)
        code = "return [...document.querySelectorAll('[id]')].map(e => e.id)"
        ids[f"{name}.html"] = set(browser.execute_script(code))
    for name in NAMES:
        visit(browser, index.as_uri(), name)
        wait(browser, "document.readyState === 'complete'")
        for link in browser.execute_script(LINKS):
            page, _, place = link.partition("#")
            page = page or f"{name}.html"
            assert page in ids, link
            assert not place or place[0].isdigit() or place in ids[page], link


def press(browser: Any, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(key).perform()


def test_keys_lead_through_the_pages_and_to_the_search(browser: Any, index: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    visit(browser, index.as_uri(), "index")
    press(browser, "]")
    wait(browser, "location.pathname.endsWith('compare.html')")
    press(browser, "[")
    wait(browser, "location.pathname.endsWith('index.html')")
    press(browser, "/")
    assert browser.execute_script("return document.activeElement.name") == "find"
    press(browser, "shared lat")
    assert texts(browser, ".search li") == [
        "Shared latents Groups",
        "Latents with “shared lat” Latents",
    ]
    press(browser, Keys.ARROW_DOWN)
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(outline) != "none"
    press(browser, Keys.ENTER)
    wait(browser, "location.href.endsWith('groups.html#spread')")


def test_the_search_goes_on_among_the_latents(browser: Any, index: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    visit(browser, index.as_uri(), "index")
    press(browser, "/")
    press(browser, "zzz")
    press(browser, Keys.ENTER)
    wait(browser, "location.href.includes('latents.html')")
    wait(browser, "document.querySelector('.listed').textContent === '0 of 4 latents'")
    assert (
        browser.execute_script("return document.querySelector('main [name=find]').value") == "zzz"
    )


def test_the_theme_is_chosen_and_kept(browser: Any, index: Path) -> None:
    theme(browser, "light")
    visit(browser, index.as_uri(), "index")
    back = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(back)
    for _ in range(2):
        browser.execute_script("document.querySelector('button.theme').click()")
    assert texts(browser, "button.theme") == ["Theme: dark"]
    dark = browser.execute_script(back)
    assert dark != light
    visit(browser, index.as_uri(), "layers")
    assert browser.execute_script(back) == dark
    browser.execute_script("document.querySelector('button.theme').click()")
    assert browser.execute_script(back) == light


def test_a_link_opens_what_is_folded(browser: Any, index: Path) -> None:
    visit(browser, index.as_uri(), "layers", place="#histograms-0")
    wait(browser, "document.querySelector('#histograms-0 .plot .trace')")
    visit(browser, index.as_uri(), "missed", place="#controls")
    wait(browser, "document.querySelector('#controls > details').open")


def test_a_view_has_an_address(browser: Any, index: Path) -> None:
    visit(browser, index.as_uri(), "steering", place="#steer/2/1")
    chosen = "[...document.querySelectorAll('.view select')].map(s => s.value).join()"
    wait(browser, f"{chosen} === '2,1'")
