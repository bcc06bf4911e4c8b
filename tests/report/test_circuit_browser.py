"""A circuit's graph in a real browser: mouse, keyboard, threshold, links, hostile names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.browsing import MARKS, errors, texts, visit, wait
from helpers.study_results import GRAPH, add_study
from saeworks.report.build import write_report

pytestmark = MARKS


@pytest.fixture(scope="module")
def page(fake_suite: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("circuit")
    suite = fake_suite(root, sites=("layers.0", "layers.1"), latents=4)
    add_study(suite, "circuits_agreement", ("all sites",), series={"graph": GRAPH})
    return write_report([suite], root / "report").as_uri()


def opened(browser: Any, page: str, width: int = 1280) -> None:
    visit(browser, page, "circuits", width)
    browser.execute_script("document.querySelector('[data-view=circuit]').scrollIntoView()")
    wait(browser, "document.querySelector('.circuit .node')")


def ask(browser: Any, code: str) -> Any:
    return browser.execute_script(f"return {code}")


def lit(browser: Any) -> list[int]:
    return list(
        ask(
            browser,
            "[...document.querySelectorAll('.circuit .node')].flatMap((n, i) => "
            "n.classList.contains('dim') ? [] : [i])",
        )
    )


def focused(browser: Any) -> int:
    code = "[...document.querySelectorAll('.circuit .node')].indexOf(document.activeElement)"
    return int(ask(browser, code))


@pytest.mark.parametrize("width", [1280, 390])
def test_a_graph_reads_well(browser: Any, page: str, width: int):
    opened(browser, page, width)
    root = "document.documentElement"
    assert ask(browser, f"{root}.scrollWidth <= {root}.clientWidth")
    labels = "[...document.querySelectorAll('.circuit .site')].map(t => t.firstChild.textContent)"
    assert ask(browser, labels) == ["layers.0", "layers.1"]
    tops = ask(browser, "[...document.querySelectorAll('.site')].map(t => t.getBBox().y)")
    assert tops[0] > tops[1]  # the first layer is below
    assert texts(browser, ".circuit .answer") == ["m = logit “are” − logit “is”"]
    assert len(texts(browser, ".circuit .token.varies")) == 2
    radii = ask(
        browser, "[...document.querySelectorAll('.node circle')].map(c => +c.attributes.r.value)"
    )
    assert radii[0] == max(radii) and radii[4] == min(radii)
    assert ask(browser, "document.querySelectorAll('.node.raises').length") == 1
    assert ask(browser, "document.querySelectorAll('.circuit .edge:not([hidden])').length") == 7
    assert not ask(browser, "document.querySelector('.circuit img')")
    assert not errors(browser)


def test_pointing_at_a_node_lights_its_ways_and_tells_of_it(browser: Any, page: str):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    def pointed(_: Any) -> bool:  # again, as charts above it that are drawn later move it away
        circle = browser.find_elements("css selector", ".circuit .node circle")[3]
        ActionChains(browser).move_by_offset(0, 0).move_to_element(circle).perform()
        return lit(browser) == [0, 3]

    opened(browser, page)
    WebDriverWait(browser, 10).until(pointed)
    told = ask(browser, "document.querySelector('.told').textContent")
    assert "Latent 2 of layers.1" in told and "Patching it changes m by −0.6" in told
    assert "layers.0, “horses”, latent 0: −0.5" in told
    ask(
        browser,
        "document.querySelector('.circuit')"
        ".dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))",
    )
    assert lit(browser) == [0, 1, 2, 3, 4]


def test_the_threshold_hides_edges_but_not_those_of_the_chosen_node(browser: Any, page: str):
    opened(browser, page)
    change = (
        "(() => { const s = document.querySelector('.circuit input'); s.value = '0.95';"
        "s.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    ask(browser, change)
    shown = "document.querySelectorAll('.circuit .edge:not([hidden])').length"
    assert ask(browser, shown) == 2
    assert texts(browser, ".circuit output")[0].endswith("(2 of 7)")
    ask(browser, "document.querySelectorAll('.circuit .node')[1].focus()")
    assert ask(browser, shown) == 4


def test_arrows_lead_from_node_to_node_and_enter_opens_the_latent(browser: Any, page: str):
    from selenium.webdriver.common.keys import Keys

    opened(browser, page)
    ask(browser, "document.querySelector('.circuit .node').focus()")
    walk = [(Keys.ARROW_RIGHT, 1), (Keys.ARROW_UP, 2), (Keys.ARROW_RIGHT, 3), (Keys.ARROW_RIGHT, 4),
            (Keys.ARROW_RIGHT, 4), (Keys.ARROW_LEFT, 3), (Keys.ARROW_DOWN, 1)]  # fmt: skip
    for key, expected in walk:
        browser.switch_to.active_element.send_keys(key)
        assert focused(browser) == expected
    tags = ask(browser, "[...document.querySelectorAll('.circuit .node')].map(n => n.tagName)")
    assert tags == ["a"] * 5
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait(browser, "location.href.endsWith('latents.html#0/0/1')")
    assert not errors(browser)


def test_a_graph_can_be_read_in_the_dark(browser: Any, page: str):
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    opened(browser, page)
    colours = ask(
        browser,
        "['.graph text', '.graph .node circle'].map(s => getComputedStyle("
        "document.querySelector('.circuit ' + s)).fill)",
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    opened(browser, page)
    light = ask(browser, "getComputedStyle(document.querySelector('.circuit .graph .site')).fill")
    assert json.dumps(colours) != json.dumps([light, light]) and colours[0] != light
