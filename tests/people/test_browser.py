"""A study from start to export in a real browser, by keyboard alone."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.browsing import MARKS, errors, resize, texts, wait
from helpers.studied import SITES, studied
from saeworks.people.analysis import YES, results
from saeworks.people.judged import read_analysis
from saeworks.people.raters import rater_file, read_answers
from saeworks.people.statistics import Count, Verdict, difference, share
from saeworks.people.study import DrawnLatent, read_study
from saeworks.results.result import Result

pytestmark = MARKS
KEYS: dict[Verdict, str] = {"yes": "1", "maybe": "2", "no": "3"}


@contextmanager
def judging(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`saeworks study …` in a process of its own, and the address that it prints."""
    command = [sys.executable, "-m", "saeworks", "study", *map(str, arguments), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.communicate()


def type_keys(browser: Any, keys: str) -> None:
    browser.switch_to.active_element.send_keys(keys)


def place(browser: Any) -> int:
    return int(browser.execute_script("return document.getElementById('judging').dataset.latent"))


def open_page(browser: Any, url: str, width: int = 1280) -> None:
    resize(browser, width)
    browser.get("about:blank")
    browser.get(url)
    wait(browser, "document.querySelector('#judging:not([hidden]) #top li, #done:not([hidden])')")


def told(drawn: DrawnLatent) -> Verdict:
    """What the annotator of the test says: of every suite another share."""
    if drawn.suite == 0:
        return "no" if drawn.latent % 4 == 0 else "yes"
    return "maybe" if drawn.latent % 2 == 0 else "yes"


def judge(browser: Any, shown: list[DrawnLatent], most: int) -> None:
    """Judge so many latents by what is seen on the page: the number in its words, by keyboard."""
    for _ in range(most):
        at = place(browser)
        drawn = shown[at]
        assert texts(browser, "#top .text span")[0].strip() == f"w{drawn.latent}"
        type_keys(browser, KEYS[told(drawn)])
        wait(
            browser,
            f"document.getElementById('judging').dataset.latent !== '{at}'"
            " || !document.getElementById('done').hidden",
        )


def test_a_study_of_96_latents_from_start_to_export(browser: Any, tmp_path: Path) -> None:
    suites = [studied(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))]
    folder = tmp_path / "study"
    with judging(*suites, "--out", folder, "--latents", 48, "--rater", "ann") as (process, url):
        shown = read_study(folder).latents
        assert len(shown) == 96
        open_page(browser, url)
        judge(browser, shown, 40)
        process.send_signal(signal.SIGKILL)  # the machine goes down
        process.wait()
        type_keys(browser, "1")
        wait(browser, "!document.getElementById('error').hidden")
        assert "does not answer" in texts(browser, "#error")[0]
    assert len(read_answers(folder, read_study(folder), "ann")[0]) == 40
    with rater_file(folder, "ann").open("a") as file:
        file.write('{"latent": 41, "verd')  # … amid a line
    assert all("ERR_CONNECTION_REFUSED" in line for line in errors(browser))

    with judging(folder, "--rater", "ann") as (process, url):
        open_page(browser, url)
        assert "40 of 96 judged" in texts(browser, "#progress")[0]
        judge(browser, shown, 30)
        browser.get("about:blank")  # the tab is closed
        open_page(browser, url)
        assert "70 of 96 judged" in texts(browser, "#progress")[0]
        judge(browser, shown, 26)
        assert "All judged" in texts(browser, "#done h2")[0]
        assert "96 of 96 judged · all saved" in texts(browser, "#progress")[0]
        assert errors(browser) == []
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    _check_analysis(folder, suites, tmp_path / "answers.csv", shown)


def _check_analysis(
    folder: Path, suites: list[Path], table: Path, shown: list[DrawnLatent]
) -> None:
    """What the commands say and write is what the annotator said."""

    def count(suite: int, site: str) -> Count:
        of_site = [drawn for drawn in shown if (drawn.suite, drawn.site) == (suite, site)]
        return Count(sum(told(drawn) == "yes" for drawn in of_site), len(of_site))

    command = [sys.executable, "-m", "saeworks", "study", str(folder), "--analyse"]
    done = subprocess.run(
        [*command, "--export", str(table)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    gap = difference([(count(0, site), count(1, site)) for site in SITES])
    assert gap.value is not None and f"{-100 * gap.value:+.0f} [".replace("-", "−") in done.stdout
    for suite, path in enumerate(suites):
        result = Result.read(path / "results" / "study.json")
        assert result == results(read_analysis(folder, read_study(folder)))[suite]
        for site in SITES:
            value, expected = result.sites[site][YES], share(count(suite, site))
            assert value.value == pytest.approx(expected.value)
            assert value.low == pytest.approx(expected.low)
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["place"]), r["verdict"]) for r in rows] == [
        (at, told(drawn)) for at, drawn in enumerate(shown)
    ]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    suites = [studied(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))]
    with judging(*suites, "--out", tmp_path / "s", "--latents", 4, "--rater", "ann") as (_, url):
        yield tmp_path / "s", url


def test_notes_back_and_undo_by_keyboard(browser: Any, page: tuple[Path, str]) -> None:
    folder, url = page
    open_page(browser, url)
    type_keys(browser, "n")
    type_keys(browser, "colours, 1 to 3\n")  # digits in a note are no verdicts
    type_keys(browser, "y")
    wait(browser, "document.getElementById('judging').dataset.latent === '1'")
    type_keys(browser, "n")
    type_keys(browser, "a draft\n")
    type_keys(browser, "\ue012")  # left
    wait(browser, "document.getElementById('note').value === 'colours, 1 to 3'")
    assert texts(browser, "[data-verdict][aria-pressed=true] kbd") == ["1"]
    type_keys(browser, "3")
    wait(browser, "document.getElementById('note').value === 'a draft'")
    type_keys(browser, "2")
    wait(browser, "document.getElementById('judging').dataset.latent === '2'")
    type_keys(browser, "u")
    wait(browser, "document.getElementById('judging').dataset.latent === '1'")
    assert "1 of 8 judged" in texts(browser, "#progress")[0]
    answers, _ = read_answers(folder, read_study(folder), "ann")
    assert {at: (a.verdict, a.note) for at, a in answers.items()} == {0: ("no", "colours, 1 to 3")}
    type_keys(browser, "e")
    wait(browser, "document.body.classList.contains('whole')")
    assert errors(browser) == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_and_loads_nothing_from_elsewhere(
    browser: Any, page: tuple[Path, str], width: int, theme: str
) -> None:
    _, url = page
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get_log("performance")
    open_page(browser, url, width)
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked and all(address.startswith((url, "data:", "about:")) for address in asked)
    assert errors(browser) == []
    if folder := os.environ.get("SAEWORKS_SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/study-{theme}-{width}.png")
