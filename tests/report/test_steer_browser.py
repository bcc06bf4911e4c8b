"""Pushed concepts in a real browser: charts, numbers at the same cost, texts, hostile names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.browsing import MARKS, errors, texts, visit, wait
from helpers.study_results import add_study
from saeworks.report.build import write_report

pytestmark = MARKS
HOSTILE = "<img src=x onerror=alert(1)>"


def value(middle: float) -> dict[str, float]:
    return {"value": middle, "low": middle - 0.1, "high": middle + 0.1}


def concept(name: str) -> dict[str, Any]:
    kinds = ("latents", "mean difference", "random latents", "random directions")
    point = {"strength": 0.0, "cost": value(0.0), "rate": value(0.5), "nats": 1.0, "task": None}
    pushes = [
        {**point, "strength": s, "cost": value(s * s), "rate": value(0.5 + s / 4)}
        for s in (-1.0, 0.0, 1.0)
    ]
    at = {"up": value(0.8), "down": value(0.2), "span": value(0.6), "reached": [0.1, 0.05]}
    shown = [(None, 0.0), ("latents", 1.0), ("latents", -1.0)]
    return {
        "concept": name,
        "judge": "the grammar",
        "latents": [3, 1],
        "correlations": [0.25, None],
        "prompts": 12,
        "norm": 2.0,
        "cost": 0.1,
        "advantage": value(-0.1),
        "at_cost": [{"by": by, **at} for by in kinds],
        "curves": [{"by": by, "points": pushes} for by in kinds],
        "ablated": point,
        "texts": [
            {"prompt": HOSTILE, "by": by, "strength": s, "text": f"{HOSTILE} goes on"}
            for by, s in shown
        ],
    }


@pytest.fixture(scope="module")
def page(fake_suite: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("steer")
    suite = fake_suite(root, sites=("layers.0", "layers.1"), latents=4)
    concepts = [concept("mood=happy"), concept(HOSTILE)]
    add_study(suite, "steer", ("layers.1",), series={"steered": concepts})
    return write_report([suite], root / "report").as_uri()


@pytest.mark.parametrize("width", [1280, 390])
def test_pushed_concepts_read_well(browser: Any, page: str, width: int) -> None:
    visit(browser, page, "steering", width)
    browser.execute_script("document.querySelector('[data-view=steer]').scrollIntoView()")
    wait(browser, "document.querySelectorAll('.pushes .plot .main-svg').length")
    assert texts(browser, ".pushes h4") == ["mood=happy", HOSTILE]
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    count = "return document.querySelectorAll('.pushes .plot').length"
    assert browser.execute_script(count) == 4
    first = "document.querySelector('.pushes .concept')"
    cells = f"[...{first}.querySelector('tbody').rows].map(r => [...r.cells]"
    rows = browser.execute_script(f"return {cells}.map(c => c.innerText))")
    rates = ["20% [10%, 30%]", "80% [70%, 90%]", "60% [50%, 70%]"]
    assert rows[0] == ["latents", *rates, "0.0500, 0.100"]
    assert [row[0] for row in rows] == [
        "latents",
        "mean difference",
        "random latents",
        "random directions",
    ]
    browser.execute_script(f"{first}.querySelector('details').open = true")
    told = browser.execute_script(f"return {first}.querySelector('details').innerText")
    assert f"“{HOSTILE} …”" in told and "latents, up 1" in told and "latents, down 1" in told
    assert not browser.execute_script("return document.querySelector('.pushes img')")
    assert not errors(browser)
