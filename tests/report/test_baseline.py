"""Suites beside their baseline: what `saeworks compare` writes is what the report draws."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from helpers.editing import edit
from helpers.reports import pages_of, text_of
from helpers.toy_comparisons import SITES, comparison
from saeworks.errors import UserError
from saeworks.report import baseline, contests, frontier
from saeworks.report.build import write_report
from saeworks.report.suites import read_suites
from saeworks.results.names import COMPARISON

HOSTILE = "</script><script>alert(1)</script>"


def priced(meta: dict[str, Any], flops: float) -> None:
    meta.update(cost={"flops": flops}, seconds=9.0)


@pytest.fixture
def run(make_suite: Callable[..., Path]) -> list[Path]:
    """A baseline (k 16) and two groupings of it (k 32 and 64 stand for them), the larger first."""
    groupings = {
        16: {site: [site] for site in SITES},
        64: {"first": [SITES[0]], "rest": list(SITES[1:])},
        32: {"all": list(SITES)},
    }
    paths = []
    for k, groups in groupings.items():
        path = make_suite(k=k, sites=SITES)

        def describe(meta: Any, groups: Any = groups, path: Path = path) -> None:
            meta["groups"] = {name: {"sites": sites} for name, sites in groups.items()}
            meta["grouping"] = {"method": "even", "groups": len(groups)}
            meta["seconds"] = 10.0 * len(groups)

        edit(path / "suite.json", describe)
        if k != 16:
            comparison("topk-x8-k16", 0.01 * len(groups), groups).write(path)
        paths.append(path)
    return paths


def test_every_layer_has_a_bar_for_the_baseline_and_every_grouping(run: list[Path]) -> None:
    fvu, loss = baseline.charts(read_suites(run))[:2]
    assert (fvu["title"], loss["title"], loss["y"]["title"]) == ("FVU", "ΔCE", "nats")
    names = ["topk-x8-k16 (baseline)", "topk-x8-k32", "topk-x8-k64"]  # one group, then two
    assert [series["name"] for series in fvu["series"]] == names
    assert fvu["x"]["ticks"] == {"values": [0, 1, 2], "text": ["0", "1", "2"]}
    assert fvu["series"][0]["y"] == pytest.approx([0.1, 1.1, 2.1])
    assert fvu["series"][1]["y"] == pytest.approx([0.11, 1.11, 2.11])
    assert fvu["series"][1]["low"] == pytest.approx([0.10, 1.10, 2.10])
    assert all(series["kind"] == "bars" for chart in (fvu, loss) for series in chart["series"])
    assert [series["suite"] for series in fvu["series"]] == [0, 2, 1]


def test_differences_and_ratios_stand_against_the_baseline(run: list[Path]) -> None:
    ratio, difference = baseline.charts(read_suites(run))[2:4]
    assert ratio["title"] == "FVU / baseline's"
    assert ratio["series"][0]["y"] == [1.0] * 3
    assert ratio["series"][1]["y"] == pytest.approx([1.1, 1.11 / 1.1, 2.11 / 2.1], rel=1e-4)
    assert difference["series"][0]["y"] == [0.0] * 3
    assert difference["series"][2]["y"] == pytest.approx([0.02] * 3)


def test_mean_fvu_against_cost(run: list[Path]) -> None:
    flops, seconds = baseline.charts(read_suites(run))[4:]
    d, tokens, width, context = 256, 4096 * 400, 2048, 128
    lm = tokens * 6 * (24 * d**2 + 4 * context * d)
    sae = 10 * d * width * tokens
    assert flops["x"]["title"] == "TFLOP"
    found = [series["x"][0] for series in flops["series"]]
    assert found == pytest.approx([(lm + g * sae) / 1e12 for g in (3, 1, 2)], rel=1e-4)
    assert [series["y"][0] for series in flops["series"]] == pytest.approx([1.1, 1.11, 1.12])
    assert [series["x"][0] for series in seconds["series"]] == [30, 10, 20]
    for path, cost in zip(run, (3e15, 1e15, 2e15), strict=True):
        edit(path / "suite.json", partial(priced, flops=cost))
    charts = baseline.charts(read_suites(run))[4:]
    assert len(charts) == 1  # trained in one run, so that the seconds are the same
    assert [series["x"][0] for series in charts[0]["series"]] == [3, 2, 1]
    assert charts[0]["x"]["title"] == "PFLOP"


def test_table(run: list[Path]) -> None:
    columns, rows = baseline.table(read_suites(run))
    assert [column.id for column in columns] == [
        "fvu",
        "fvu difference",
        "fvu ratio",
        "delta_ce",
        "delta_ce difference",
        "mmcs",
        "mmcs seeds",
        "mmco",
        "mmco seeds",
    ]
    assert [(row.site, row.label) for row in rows[-2:]] == [
        ("mean over sites", "topk-x8-k32"),
        ("mean over sites", "topk-x8-k64"),
    ]
    keys = [cell.key for cell in rows[0].cells]
    expected = [0.11, 0.01, 1.1, 0.21, 0.01, 0.5, 0.6, 0.25, 0.3]
    assert keys == pytest.approx(expected)


def test_a_heat_map_for_every_shared_sae(run: list[Path]) -> None:
    found = baseline.spreads(read_suites(run))
    assert [(one["suite"], one["group"]) for one in found] == [
        ("topk-x8-k64", "rest"),
        ("topk-x8-k32", "all"),
    ]
    assert found[0]["short"] == ["1", "2"]
    assert found[0]["about"].startswith("3 live latents; on average each fires at 1.50 of the 2")
    assert "67% live at one site, 33% at all of them" in found[0]["about"]


def test_the_page(run: list[Path], tmp_path: Path) -> None:
    page = write_report(run, tmp_path / "out")
    text = text_of(page, "compare")
    assert 'id="baseline"' in text
    assert 'id="spread"' in text_of(page, "groups")
    assert "against topk-x8-k16, on the same" in text
    assert "mean over sites" in text
    assert (page.parent / "assets" / "spread.js").is_file()
    assert not {"compare", "groups"} & pages_of(write_report(run[:1], tmp_path / "alone"))
    without = text_of(write_report(run[1:], tmp_path / "without"))
    assert "topk-x8-k16 (baseline)" in without  # it is named by the comparisons


def test_two_baselines_have_charts_of_their_own(run: list[Path]) -> None:
    groups = {"all": list(SITES)}
    comparison("another", 0.01, groups).write(run[2])
    charts = baseline.charts(read_suites(run))
    assert charts[0]["title"] == "FVU, beside topk-x8-k16"
    assert charts[-1]["title"].endswith("beside another")
    assert len({chart["id"] for chart in charts}) == len(charts)


def test_a_baseline_beside_itself_is_not_shown(run: list[Path]) -> None:
    comparison("topk-x8-k16", 0.0, {}).write(run[0])
    assert [m.index for c in contests.contests(read_suites(run)) for m in c.members] == [2, 1]


def test_of_many_suites_colours_go_from_few_groups_to_many(
    run: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contests, "COLOURS", 2)
    series = baseline.charts(read_suites(run))[0]["series"]
    assert [one.get("shade") for one in series] == [None, 0.0, 1.0]


def test_other_groupings_are_other_lines_of_the_frontier(run: list[Path]) -> None:
    lines = frontier.lines(read_suites(run))
    assert [line.suites for line in lines] == [(0,), (1,), (2,)]
    assert [line.name for line in lines] == ["topk", "topk, groups 2 even", "topk, groups 1 even"]


def test_everything_from_outside_is_escaped(run: list[Path], tmp_path: Path) -> None:
    def spoil(data: Any) -> None:
        data["alignment"]["spread"] = {HOSTILE: data["alignment"]["spread"]["all"]}
        data["metrics"]["fvu"]["title"] = data["baseline"]["variant"] = HOSTILE

    edit(run[2] / "results" / COMPARISON, spoil)
    edit(run[2] / "results" / COMPARISON, lambda data: data["baseline"].update(path="../gone"))
    page = write_report(run, tmp_path / "out")
    assert "alert(1)</script>" not in text_of(page)


def _spread(data: Any) -> Any:
    return data["alignment"]["spread"]["all"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.update(schema=9), "has schema 9"),
        (lambda data: data.pop("mean"), "'mean' is missing"),
        (lambda data: _spread(data)["share"][0].pop(), "not of one length"),
        (lambda data: _spread(data)["latents"].pop(), "not of one length"),
        (lambda data: _spread(data)["lives_at"].pop(), "not of one length"),
    ],
)
def test_broken(
    run: list[Path], tmp_path: Path, spoil: Callable[[Any], None], message: str
) -> None:
    edit(run[2] / "results" / COMPARISON, spoil)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        write_report(run, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_what_else_differs_is_said_in_words(run: list[Path], tmp_path: Path) -> None:
    def note(data: Any) -> None:
        data["notes"] = ["trained on 1,000 and 2,000 tokens", "L0 is 4 and 8"]

    def short(meta: Any) -> None:
        meta["tokens"] = 4096
        for group in meta["groups"].values():
            group["width"] = 64

    edit(run[1] / "results" / COMPARISON, note)
    for path in run[:2]:
        edit(path / "suite.json", short)
    text = text_of(write_report(run, tmp_path / "out"), "layers")
    assert "is also of this: trained on 1,000 and 2,000 tokens; L0 is 4 and 8." in text
    assert "It was trained on 64 tokens per latent, fewer than 1,000" in text
