"""The report in a real browser: read from disk, at a desk and on a telephone."""

import json
from typing import Any

import pytest

from helpers.browsing import MARKS, errors, show, texts, unfold, visit, wait
from saeworks.report.build import write_report

pytestmark = MARKS

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=1</script>'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, fake_suite: Any) -> str:
    root = tmp_path_factory.mktemp("browser")
    suites = [fake_suite(root, k=k, latents=12, hostile=HOSTILE) for k in (16, 64)]
    return write_report(suites, root / "out").as_uri()


@pytest.mark.parametrize("name", ["index", "compare", "layers", "latents", "cost", "reproduce"])
@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_it_reads_well(browser, page, name, width, theme):
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    visit(browser, page, name, width)
    unfold(browser)
    wait(browser, "[...document.querySelectorAll('.plot')].every(p => p.querySelector('.trace'))")
    empty = "[...document.querySelectorAll('.plot .js-line, .plot .point')]"
    empty += ".some(p => /NaN/.test(p.getAttribute('d')))"
    assert not browser.execute_script(f"return {empty}")
    root = "document.documentElement"  # a scroll bar takes its part of the width
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    assert width - 20 <= browser.execute_script(f"return {root}.clientWidth") <= width
    assert errors(browser) == []


def test_it_asks_for_nothing_from_the_network(browser, page):
    browser.get_log("performance")
    for name in ("layers", "latents"):
        visit(browser, page, name)
        wait(browser, "document.querySelector('.plot .trace')")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"].endswith("BeSent")]
    assert sum(url.startswith("file://") for url in asked) > 5
    assert [u for u in asked if not u.startswith(("file://", "data:", "about:"))] == []


def test_text_is_never_code(browser, page):
    show(browser, page)
    assert browser.title.endswith("saeworks report")
    assert HOSTILE in texts(browser, ".tokens .top")[0]
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0


def test_a_heading_sorts_the_table_and_then_turns_it(browser, page):
    visit(browser, page, "layers")

    def column() -> list[float]:
        cells = texts(browser, "#numbers details:nth-of-type(1) tbody td:nth-child(3)")
        return [float(cell.split()[0].split("\n")[0]) for cell in cells]

    def press() -> str:
        code = "const h = document.querySelector('#numbers thead th:nth-child(3)');"
        code += "h.querySelector('button').click(); return h.getAttribute('aria-sort')"
        found: str = browser.execute_script(code)
        return found

    before = column()
    assert press() == "ascending"
    assert column() == sorted(before) != before
    assert press() == "descending"
    assert column() == sorted(before, reverse=True)


def test_curves_follow_the_choice(browser, page):
    visit(browser, page, "cost")
    wait(browser, "document.querySelectorAll('#training-figures figure').length")
    assert texts(browser, "#training-legend > span") == [f"● layers.{i}" for i in range(4)]
    choose(browser, "#training [name=suite]", "all")
    choose(browser, "#training [name=site]", "2")
    wait(browser, "document.querySelector('#training-legend').textContent.includes('k64')")
    assert texts(browser, "#training-legend > span") == ["● topk-x8-k16", "● topk-x8-k64"]
    assert errors(browser) == []


def choose(browser: Any, selector: str, value: str) -> None:
    code = "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
    code += "for (const t of ['input', 'change']) e.dispatchEvent(new Event(t, {bubbles: true}))"
    browser.execute_script(code, selector, value)


def test_the_browser_of_latents(browser, page):
    show(browser, page)
    rates = [float(text.rstrip("%")) for text in texts(browser, ".list small")]
    assert len(rates) == 12
    assert rates == sorted(rates, reverse=True)
    browser.execute_script("document.querySelectorAll('.list a')[3].click()")
    chosen = texts(browser, ".list b")[3]
    wait(
        browser, f"document.querySelector('.latent h3').textContent.startsWith('Latent {chosen} ')"
    )
    assert texts(browser, ".list a[aria-current] b") == [chosen]

    browser.execute_script("document.querySelector('.neighbours a[href$=\"/0\"]').click()")
    wait(browser, "document.querySelector('.latent h3').textContent.startsWith('Latent 0 ')")
    browser.back()
    wait(
        browser, f"document.querySelector('.latent h3').textContent.startsWith('Latent {chosen} ')"
    )

    choose(browser, "#latents [name=find]", "33")
    assert texts(browser, ".list b") == ["33"]
    choose(browser, "#latents [name=find]", "no such text")
    assert texts(browser, ".listed") == ["0 of 12 latents"]

    choose(browser, "#latents [name=suite]", "1")
    choose(browser, "#latents [name=site]", "2")
    wait(
        browser,
        "document.querySelector('.latent h3').textContent.includes('layers.2, topk-x8-k64')",
    )
    assert texts(browser, ".listed") == ["0 of 12 latents"]  # what is looked for stays
    choose(browser, "#latents [name=find]", "")
    assert len(texts(browser, ".list b")) == 12
    assert errors(browser) == []


def latents_at(root: Any, peaks: list[str], fake_suite: Any) -> Any:
    """A suite whose latents' contexts all peak on one token each; by that token."""
    suite = fake_suite(root, sites=("layers.0", "layers.1"), latents=len(peaks))
    file = suite / "results" / "latents.json"
    result = json.loads(file.read_text(encoding="utf-8"))
    for series in result["series"].values():
        for latent, peak in zip(series["latents"], peaks, strict=True):
            latent["neighbours"] = [{"latent": 3, "cosine": 0.5}, {"latent": 4, "cosine": 0.4}]
            for context in latent["contexts"]:
                context["tokens"][context["peak"]] = peak
    file.write_text(json.dumps(result), encoding="utf-8")
    return suite


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, fake_suite: Any) -> str:
    """More latents than a file holds, and than the list shows at once."""
    root = tmp_path_factory.mktemp("long")
    peaks = [" zebra" if i % 100 == 7 else " zebras" if i == 8 else f" w{i}" for i in range(450)]
    return write_report([latents_at(root, peaks, fake_suite)], root / "out").as_uri()


def test_a_token_alone_can_be_found_at_every_site(browser, long):
    show(browser, long)
    choose(browser, "#latents [name=find]", "Zebra")
    zebras = sorted(str(3 * i) for i in range(450) if i % 100 == 7)
    assert sorted(texts(browser, ".list b")) == zebras
    choose(browser, "#latents [name=site]", "1")
    wait(browser, "document.querySelector('.latent h3').textContent.includes('layers.1')")
    assert sorted(texts(browser, ".list b")) == zebras
    assert texts(browser, ".latent h3")[0].split()[1] in zebras
    browser.execute_script("document.querySelector('.whole').click()")
    wait(browser, "document.querySelectorAll('.list b').length === 6")
    assert sorted(texts(browser, ".list b")) == sorted([*zebras, "24"])
    assert texts(browser, ".listed") == ["6 of 450 latents"]
    assert errors(browser) == []


def test_of_many_latents_some_are_listed_and_any_can_be_opened(browser, long):
    show(browser, long)
    assert len(texts(browser, ".list b")) == 200
    for total in (400, 450):
        browser.execute_script("document.querySelector('.more').click()")
        assert len(texts(browser, ".list b")) == total
    assert browser.execute_script("return document.querySelector('.more').hidden")
    show(browser, long, place="#0/1/1347")
    assert texts(browser, ".latent h3") == ["Latent 1347 layers.1"]
    assert texts(browser, ".contexts .top") == ["w449"] * 8
    scripts = "return [...document.scripts].filter(s => s.src.includes('latents-')).length"
    assert browser.execute_script(scripts) == 0  # nothing is held that was only passed through
    assert errors(browser) == []


def test_how_latents_were_chosen_and_which_neighbours_are_there_is_said(browser, long):
    show(browser, long)
    assert texts(browser, ".chosen") == [
        "450 of the 2,048 latents of this SAE, chosen so: one in three. 1,350 fire on the held-out "
        "tokens; with saeworks eval --latents 1350 all of these are here."
    ]
    assert texts(browser, ".neighbours a") == ["3"]
    assert texts(browser, ".neighbours li") == ["3 0.50", "4 0.40"]
    assert texts(browser, ".absent-ones") == [
        "Those without a link are not among the latents kept for this report."
    ]
    browser.execute_script("document.querySelector('.neighbours a').click()")
    wait(browser, "document.querySelector('.latent h3').textContent.startsWith('Latent 3 ')")


def test_a_context_expands_by_mouse_and_by_key(browser, long):
    from selenium.webdriver.common.keys import Keys

    show(browser, long)

    def seen() -> list[Any]:
        found: list[Any] = browser.execute_script(
            "const c = document.querySelector('.contexts li');"
            "return [c.querySelector('button').getAttribute('aria-expanded'),"
            " [...c.querySelectorAll('.tokens span')].filter(t => t.offsetWidth"
            " && !t.matches('.cut')).length,"
            " c.querySelector('.where').offsetWidth > 0]"
        )
        return found

    small, least = seen(), 6
    assert small[0] == "false"
    assert least <= small[1] < 32
    assert not small[2]
    browser.execute_script("document.querySelector('.contexts .tokens').click()")
    assert seen() == ["true", 32, True]
    browser.find_element("css selector", ".contexts button").send_keys(Keys.ENTER)
    assert seen() == small
    browser.find_element("css selector", ".contexts button").send_keys(Keys.SPACE)
    assert seen() == ["true", 32, True]


LOOKS = """
return [...document.querySelectorAll('.plot')].filter(p => p.data).map(plot => {
  const looks = plot.data.filter(t => t.type !== 'heatmap' && t.hoverinfo !== 'skip').map(
    t => [t.type, t.mode, t.line && t.line.color, t.marker.color, t.marker.symbol]);
  const figure = plot.closest('figure, article');
  return {
    title: figure.querySelector('h3, figcaption').textContent,
    section: (plot.closest('section') || {}).id,
    alike: looks.length - new Set(looks.map(String)).size,
    ticks: plot.querySelectorAll('.ytick').length
  };
})
"""


def test_every_chart_has_ticks_a_title_and_series_that_differ(browser, page):
    for name in ("index", "compare", "layers"):
        visit(browser, page, name)
        unfold(browser)
        wait(
            browser, "[...document.querySelectorAll('.plot')].every(p => p.querySelector('.trace'))"
        )
        assert_charts_differ(browser)
    visit(browser, page, "layers")
    assert "L0 latents" not in texts(browser, "#losses h3")
    assert "L0 (16 or 64 at every site)" in texts(browser, "#losses > .caption")[0]
    visit(browser, page, "cost")
    choose(browser, "#training [name=suite]", "all")
    site = "document.querySelector('#training [name=site]')"
    wait(browser, f"{site}.value === '3' && {site}.querySelector('[value=all]').disabled")
    unfold(browser)
    assert_charts_differ(browser)
    assert "L0 (16 or 64 throughout)" in texts(browser, "#training .left-out")[0]


def assert_charts_differ(browser: Any) -> None:
    found = browser.execute_script(LOOKS)
    assert found
    assert [one for one in found if one["alike"] or one["ticks"] < 2] == []
    titles = [(one["section"], one["title"]) for one in found]
    assert len(titles) == len(set(titles))


def test_logarithmic_axes_have_round_ticks_wherever_they_lie(browser, page):
    show(browser, page)
    ask = """
    const box = document.createElement('div');
    box.style.cssText = 'width:400px;height:230px';
    document.body.append(box);
    const y = arguments[0];
    const series = [{ name: 'a', kind: 'line', suite: 0, x: y.map((_, i) => i), y }];
    saeworks.draw(box, { x: {}, y: { log: true }, series });
    const ticks = [...box.querySelectorAll('.ytick')].map(t => t.textContent);
    box.remove();
    return ticks;
    """
    for low, ratio in [
        (0.041, 1.02),
        (0.041, 1.2),
        (0.3, 3),
        (7.2e-5, 40),
        (2.0, 1e4),
        (1e-9, 1e9),
    ]:
        values = [low * ratio ** (i / 9) for i in range(10)]
        ticks = browser.execute_script(ask, values)
        assert 3 <= len(ticks) <= 9, (low, ratio, ticks)
        assert len(set(ticks)) == len(ticks)


@pytest.mark.parametrize("width", [1280, 390])
def test_tables_are_whole(browser, page, width):
    visit(browser, page, "layers", width)
    unfold(browser)
    cut = "return [...document.querySelectorAll('.scroll:not(pre)')]"
    cut += ".filter(t => t.scrollWidth > t.clientWidth + 1).map(t => t.ariaLabel)"
    assert browser.execute_script(cut) == []
    tables = (
        "return [...document.querySelectorAll('#numbers thead')].map(h => h.rows[0].cells.length)"
    )
    assert max(browser.execute_script(tables)) <= 8
    label = (
        "return getComputedStyle(document.querySelector('#numbers td.numeric'), '::before').content"
    )
    assert browser.execute_script(label) == ('"FVU"' if width == 390 else "none")


def test_a_missing_file_is_named(browser, long):
    show(browser, long)
    browser.execute_script("saeworks.data.files.push('latents-0-7')")
    browser.execute_script(
        "document.querySelector('#latents [name=site]').append(new Option('x', '7'))"
    )
    choose(browser, "#latents [name=site]", "7")
    wait(
        browser,
        "document.querySelector('.latent').textContent.includes('latents-0-7.js is missing')",
    )
    browser.get_log("browser")


def test_what_was_chosen_last_is_shown_whatever_comes_last(browser, page):
    show(browser, page)
    late = "const load = saeworks.load; window.late = 0; saeworks.load = (name) => "
    late += (
        "name !== 'latents-1-0' ? load(name) : load(name).then((found) => new Promise((done) => "
    )
    late += "setTimeout(() => { done(found); setTimeout(() => { window.late = 1; }) }, 300)))"
    browser.execute_script(late)
    choose(browser, "#latents [name=suite]", "1")
    choose(browser, "#latents [name=site]", "2")
    wait(browser, "window.late === 1")
    assert texts(browser, ".latent h3")[0].endswith("layers.2, topk-x8-k64")
    form = "const form = document.querySelector('#latents form').elements;"
    assert browser.execute_script(form + "return [form.suite.value, form.site.value]") == ["1", "2"]


def test_an_address_leads_to_its_latent(browser, page):
    show(browser, page, place="#1/3/6")
    assert texts(browser, ".latent h3") == ["Latent 6 layers.3, topk-x8-k64"]


def test_a_token_tells_its_value(browser, page):
    show(browser, page, 390)
    code = "document.querySelector('.tokens .top').dispatchEvent("
    code += "new MouseEvent('click', {bubbles: true, clientX: 100, clientY: 100}))"
    browser.execute_script(code)
    largest = texts(browser, ".contexts .peak")[0]
    assert texts(browser, "#value:not([hidden])") == [largest]


def test_charts_follow_the_theme(browser, page):
    light = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", light)
    visit(browser, page, "layers")
    line = "document.querySelector('#losses .js-line').style.stroke"
    code = "document.querySelector('#losses').scrollIntoView({behavior: 'instant'})"
    browser.execute_script(code)
    wait(browser, "document.querySelector('#losses .js-line')")
    colours: set[str] = set()
    for theme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        known = json.dumps(sorted(colours))
        wait(browser, f"!{known}.includes({line})")
        colours.add(browser.execute_script(f"return {line}"))
    assert len(colours) == 2


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, fake_suite: Any) -> str:
    """More suites than colours, more sites than panels in a row."""
    root = tmp_path_factory.mktemp("many")
    sites = [f"layers.{i}" for i in range(6)]
    suites = [
        fake_suite(root, k=k, arch=arch, sites=sites, latents=1, steps=40)
        for arch in ("topk", "gated", "relu")
        for k in (16, 32, 64)
    ]
    return write_report(suites, root / "out").as_uri()


def test_of_many_suites_one_line_is_shown_at_a_time(browser, many):
    visit(browser, many, "layers")
    legend = "[data-legend=by_layer] > span"
    assert texts(browser, legend) == ["● topk-x8-k16", "■ topk-x8-k32", "◆ topk-x8-k64"]
    browser.execute_script("document.querySelector('#losses').scrollIntoView()")
    wait(browser, "document.querySelectorAll('#losses .plot .trace').length >= 3")
    choose(browser, "[data-lines=by_layer]", "2")
    assert texts(browser, legend) == ["● relu-x8-k16", "■ relu-x8-k32", "◆ relu-x8-k64"]
    first = "document.querySelector('#losses .plot')"
    wait(browser, f"{first}.data.length === 3 && {first}.data[0].name === 'relu-x8-k16'")
    assert errors(browser) == []


def test_of_many_sites_one_frontier_is_shown_at_a_time(browser, many):
    visit(browser, many, "compare")
    shown = "#frontier figure:not([hidden]) h3"
    assert texts(browser, "[data-legend=frontier] > span") == ["● topk", "■ gated", "◆ relu"]
    assert [text.split(" ")[0] for text in texts(browser, shown)] == ["FVU,", "ΔCE,"]
    choose(browser, "[data-panels]", "5")
    assert [text.split()[1] for text in texts(browser, shown)] == ["layers.5", "layers.5"]
    browser.execute_script("document.querySelector('#frontier').scrollIntoView()")
    wait(browser, "document.querySelectorAll('#frontier figure:not([hidden]) .trace').length === 6")
    assert errors(browser) == []
