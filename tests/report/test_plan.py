"""The page of a plan, from its JSON alone."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from saeworks.errors import UserError
from saeworks.report.plan import _boxes, write_plan_page
from saeworks.results.groups import measure

HOSTILE = "<img src=x onerror=alert(1)>"


def plan() -> dict[str, Any]:
    """Four sites; 0 and 2 are alike, and so are 1 and 3."""
    d = [[0.0, 0.4, 0.1, 0.5], [0.4, 0.0, 0.3, 0.2], [0.1, 0.3, 0.0, 0.45], [0.5, 0.2, 0.45, 0.0]]
    partitions = [[[0, 1, 2, 3]], [[0, 2], [1, 3]], [[0, 2], [1], [3]], [[0], [1], [2], [3]]]
    return {
        "schema": 1,
        "model": HOSTILE,
        "revision": None,
        "fingerprint": "f" * 64,
        "text": {"source": "embedded"},
        "sites": [f"layers.{i}" for i in range(4)],
        "groups": {"group-0": ["layers.0", "layers.2"], "group-1": ["layers.1", "layers.3"]},
        "method": "complete",
        "objective": None,
        "threshold": 0.2,
        "matrix": "raw",
        "distances": {
            "raw": d,
            "centred": d,
            "stderr": [[0.01] * 4] * 4,
            "stderr_centred": [[None] * 4] * 4,
        },
        "curve": [asdict(measure(d, partition)) for partition in partitions],
        "linkage": [[0.0, 2.0, 0.1, 2.0], [1.0, 3.0, 0.2, 2.0], [4.0, 5.0, 0.5, 4.0]],
        "tokens": 1000,
        "documents": 10,
        "mean_tokens": 250,
        "seed": 0,
    }


def written(folder: Path, data: dict[str, Any]) -> str:
    (folder / "plan.json").write_text(json.dumps(data))
    return write_plan_page(folder / "plan.json", folder / "page").read_text()


def drawn(page: str) -> Any:
    text = page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    return json.loads(text)


def test_the_page_holds_every_part(tmp_path: Path) -> None:
    page = written(tmp_path, plan())
    assert "layers.0, layers.2" in page and "0.450" in page and "± 0.0100" in page
    assert HOSTILE not in page
    data = drawn(page)
    assert [heat["title"] for heat in data["heat"]] == ["Raw", "Mean-centred"]
    assert data["short"] == ["0", "1", "2", "3"]
    for name in ("report.css", "charts.js", "heat.js", "plotly.min.js"):
        assert (tmp_path / "page" / "assets" / name).stat().st_size > 0


def test_the_chosen_number_is_marked(tmp_path: Path) -> None:
    series = {one["name"]: one for one in drawn(written(tmp_path, plan()))["curves"][0]["series"]}
    assert (series["chosen"]["x"], series["chosen"]["y"]) == ([2], [pytest.approx(0.15)])
    assert series["threshold"]["y"] == [0.2, 0.2]
    given = drawn(written(tmp_path, {**plan(), "method": "user", "threshold": None}))
    names = [one["name"] for one in given["curves"][0]["series"]]
    assert "chosen" not in names and "threshold" not in names


def test_the_dendrogram_crosses_no_branch(tmp_path: Path) -> None:
    chart = drawn(written(tmp_path, plan()))["dendrogram"][0]
    assert chart["x"]["ticks"]["text"] == ["0", "2", "1", "3"]
    tree = chart["series"][0]
    assert tree["x"][:5] == [0, 0, 1, 1, None] and tree["y"][:5] == [0, 0.1, 0.1, 0, None]
    assert tree["x"][10:14] == [0.5, 0.5, 2.5, 2.5] and tree["y"][10:14] == [0.1, 0.5, 0.5, 0.2]


def test_groups_are_outlined_where_their_cells_are(tmp_path: Path) -> None:
    assert _boxes([[0, 1], [2]]) == [[0, 0, 2, 2], [2, 2, 1, 1]]
    boxes = _boxes([[0, 2, 3], [1]])
    assert boxes == [[0, 0, 1, 1], [0, 2, 1, 2], [2, 0, 2, 1], [2, 2, 2, 2], [1, 1, 1, 1]]
    heat = drawn(written(tmp_path, plan()))["heat"]
    assert len(heat[0]["boxes"]) == 8 and heat[1]["boxes"] == []


@pytest.mark.parametrize(
    "change",
    [
        {"sites": "layers"},
        {"groups": {"group-0": ["layers.9"]}},
        {"linkage": [[0.0, 9.0, 0.1, 2.0]]},
        {"linkage": [[0.0, 4.0, 0.1, 2.0]]},
        {"curve": []},
        {"distances": {}},
    ],
)
def test_a_broken_plan_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"plan .*plan\.json: "):
        written(tmp_path, {**plan(), **change})
    assert not (tmp_path / "page").exists()
