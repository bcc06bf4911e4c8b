"""The browser of latents in a real browser: what studies say, search, filters, address, keys."""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from helpers.browsing import MARKS, errors, show, texts, unfold, visit, wait
from helpers.study_results import TITLES, add_studies
from saeworks.report.build import write_report
from saeworks.report.pages import latents
from saeworks.report.pages.studies import PAGES

pytestmark = MARKS

SITES = ("layers.0", "layers.1")
LATENTS = 30


def with_effects(suite: Path) -> None:
    """Promoted tokens, partners and experts for every latent; frequencies that fall."""
    file = suite / "results" / "latents.json"
    result = json.loads(file.read_text(encoding="utf-8"))
    for series in result["series"].values():
        for at, latent in enumerate(series["latents"]):
            latent |= {
                "frequency": 0.3 * 0.8**at,
                "promoted": [{"token": f" p{at % 3}", "effect": 2.5}, {"token": "\n", "effect": 1}],
                "suppressed": [{"token": "<b>", "effect": -1.5}],
                "partners": [{"latent": 3, "phi": 0.5, "share": 0.25}],
                "expert": at // 10,
            }
    file.write_text(json.dumps(result), encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, fake_suite: Any) -> str:
    """Two suites with all studies; the index in three chunks."""
    root = tmp_path_factory.mktemp("latents")
    suites = [fake_suite(root, k=k, sites=SITES, latents=LATENTS) for k in (16, 64)]
    for suite in suites:
        with_effects(suite)
        add_studies(suite, SITES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "SHARD", 4)
        patch.setattr(latents, "CHUNK", 12)
        return write_report(suites, root / "out").as_uri()


def fill(browser: Any, name: str, value: str) -> None:
    code = "const e = document.querySelector(`#latents [name=${arguments[0]}]`);"
    code += (
        "if (e.type === 'checkbox') e.checked = arguments[1] === '1'; else e.value = arguments[1];"
    )
    code += "for (const t of ['input', 'change']) e.dispatchEvent(new Event(t, {bubbles: true}))"
    browser.execute_script(code, name, value)


def press(browser: Any, key: str) -> None:
    code = "document.activeElement.dispatchEvent("
    code += "new KeyboardEvent('keydown', {key: arguments[0], bubbles: true, cancelable: true}))"
    browser.execute_script(code, key)


def numbers(browser: Any) -> list[int]:
    return [int(text) for text in texts(browser, ".list b")]


def open_latent(browser: Any, number: int) -> None:
    wait(
        browser, f"document.querySelector('.latent h3').textContent.startsWith('Latent {number} ')"
    )


def hash_of(browser: Any) -> str:
    return str(browser.execute_script("return location.hash"))


def test_all_that_is_known_of_a_latent_is_on_its_page(browser, page):
    show(browser, page, place="#0/1/0")
    assert texts(browser, ".explanations .text") == ["fires on dog, cat or horse", "animals"]
    assert texts(browser, ".explanations .scores")[0] == "by a programShare 0.88"
    assert texts(browser, ".verdict-list li") == ["interpretable: animals A"]
    assert texts(browser, ".effects li") == ["p0 +2.50", "↵ +1", "<b> −1.50"]
    assert texts(browser, ".partners li") == ["3 0.50"]
    assert texts(browser, ".written dd") == [
        "The girl went to the park",
        "The dog saw the cat",
        "The girl went to the park",
        "The war lasted",
    ]
    assert texts(browser, ".steered .scores") == [
        "animal: pushed by +1rate untouched 0.100rate pushed 0.520",
        "animal: pushed by -1rate untouched 0.100rate pushed 0",
    ]
    assert "expert0" in texts(browser, ".stats")[0]
    concepts = "document.querySelector('.latent .chips a')"
    assert texts(browser, ".latent .chips a")[:2] == ["noun_class: animal", "number: singular"]
    browser.execute_script(f"{concepts}.click()")
    wait(browser, "document.querySelectorAll('.list b').length === 1")
    assert numbers(browser) == [0]
    assert errors(browser) == []


@pytest.mark.parametrize(
    ("where", "text", "found"),
    [
        ("any", "animal", [0]),
        ("any", "names after", [6]),
        ("any", "33", [33]),
        ("concepts", "number", [0, 3]),
        ("explanation", "animal", [0]),
        ("promoted", "p1", [3 * i for i in range(1, LATENTS, 3)]),
        ("peaks", "animal", []),
    ],
)
def test_a_latent_is_found_by_what_is_known_of_it(browser, page, where, text, found):
    show(browser, page)
    wait(browser, f"document.querySelector('.listed').textContent === '{LATENTS} latents'")
    fill(browser, "in", where)
    fill(browser, "find", text)
    assert numbers(browser) == found


def test_filters_and_orders(browser, page):
    show(browser, page)
    wait(browser, f"document.querySelector('.listed').textContent === '{LATENTS} latents'")
    assert numbers(browser) == [3 * i for i in range(LATENTS)]
    fill(browser, "sort", "rare")
    assert numbers(browser) == [3 * i for i in reversed(range(LATENTS))]
    fill(browser, "sort", "f1")
    assert numbers(browser)[:2] == [0, 3]
    fill(browser, "expert", "2")
    assert sorted(numbers(browser)) == [3 * i for i in range(20, 30)]
    fill(browser, "expert", "")
    fill(browser, "from", "20")
    assert numbers(browser) == [0, 3]
    fill(browser, "to", "25")
    assert numbers(browser) == [3]
    assert texts(browser, ".filters .active") == ["(2)"]
    browser.execute_script("document.querySelector('.clear').click()")
    assert len(numbers(browser)) == LATENTS
    fill(browser, "score", "0.6")
    assert numbers(browser) == [0]
    fill(browser, "score", "")
    fill(browser, "verdict", "not interpretable")
    assert numbers(browser) == [3]
    fill(browser, "verdict", "")
    fill(browser, "steered", "1")
    assert numbers(browser) == [0]


def test_a_link_holds_all_of_the_state(browser, page):
    show(browser, page)
    wait(browser, f"document.querySelector('.listed').textContent === '{LATENTS} latents'")
    fill(browser, "suite", "1")
    fill(browser, "site", "1")
    wait(
        browser,
        "document.querySelector('.latent h3').textContent.includes('layers.1, topk-x8-k64')",
    )
    wait(browser, f"document.querySelector('.listed').textContent === '{LATENTS} latents'")
    for name, value in {"sort": "rare", "expert": "1", "find": "p1", "in": "promoted"}.items():
        fill(browser, name, value)
    shown = numbers(browser)
    assert shown == [57, 48, 39, 30]
    browser.execute_script("document.querySelectorAll('.list a')[2].click()")
    open_latent(browser, 39)
    sent = hash_of(browser)
    assert sent.startswith("#1/1/39?")
    show(browser, page, place=sent)
    wait(browser, "document.querySelectorAll('.list b').length === 4")
    assert numbers(browser) == shown
    assert texts(browser, ".latent h3") == ["Latent 39 layers.1, topk-x8-k64"]
    assert browser.execute_script("return document.querySelector('.filters').open")
    fill(browser, "find", "")
    fill(browser, "expert", "")
    assert hash_of(browser) == "#1/1/39?sort=rare&in=promoted"


@pytest.mark.parametrize(
    "address",
    [
        "#9/9/9",
        "#0/0/99999999999999999999",
        "#0/0/0?sort=x&in=y&f1=z&to=<b>",
    ],
)
def test_an_absurd_address_breaks_nothing(browser, page, address):
    browser.get("about:blank")
    browser.get(page.replace("index", "latents") + address)
    wait(browser, "document.querySelector('.latent').textContent")
    assert errors(browser) == []


def test_the_list_is_walked_by_keys(browser, page):
    show(browser, page)
    wait(browser, f"document.querySelector('.listed').textContent === '{LATENTS} latents'")
    browser.execute_script(
        "document.querySelector('#latents').scrollIntoView({behavior: 'instant'})"
    )
    for key, number in (("j", 3), ("j", 6), ("k", 3)):
        press(browser, key)
        open_latent(browser, number)
    assert hash_of(browser) == "#0/0/3"
    press(browser, "/")
    assert browser.execute_script("return document.activeElement.name") == "find"
    press(browser, "j")
    assert texts(browser, ".list a[aria-current] b") == ["3"]
    browser.execute_script("document.querySelector('.list a[aria-current]').focus()")
    press(browser, "ArrowDown")
    open_latent(browser, 6)
    assert browser.execute_script("return document.activeElement.dataset.id") == "6"


def test_it_prints_the_latent_without_the_list(browser, page):
    show(browser, page)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return ['.list', '#latents form .controls', '.latent'].map("
    shown += "s => document.querySelector(s).offsetHeight > 0)"
    assert browser.execute_script(shown) == [False, False, True]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("name", ["circuits", "meaning", "steering"])
def test_the_pages_of_studies_read_well(browser, page, width, theme, name):
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    visit(browser, page, name, width)
    evaluations = PAGES[name][2]
    sections = [
        title for one, title in TITLES.items() if any(fnmatchcase(one, e) for e in evaluations)
    ]
    assert texts(browser, ".study h2") == sections
    unfold(browser)
    plots = "[...document.querySelectorAll('.study [data-chart]')]"
    wait(browser, f"{plots}.every(p => p.querySelector('.trace'))")
    assert browser.execute_script(f"return {plots}.length") == 5 * len(sections)
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    assert errors(browser) == []
