"""The audit in the report: what `saeworks audit` writes is what is drawn and tabled."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.editing import edit
from helpers.reports import pages_of, text_of
from helpers.toy_audits import audit
from saeworks.errors import UserError
from saeworks.report import audit_widths as widths
from saeworks.report.build import write_report
from saeworks.report.pages import missed as section
from saeworks.report.sources import FigureSource
from saeworks.report.suites import read_suites
from saeworks.report.tables import Table

SITES = ("layers.0", "layers.1", "layers.2")
HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture
def run(make_suite: Callable[..., Path]) -> list[Path]:
    """Two suites that were audited, the second with other widths, and one that was not."""
    paths = [make_suite(k=k, sites=SITES, parts=("reconstruction",)) for k in (16, 32, 64)]
    audit(SITES).write(paths[0] / "results" / "audit.json")
    family = [256, 512, 1024]
    audit(SITES, gain=0.5, seed=1, widths=family).write(paths[1] / "results" / "audit.json")
    return paths


def sources(run: list[Path]) -> list[FigureSource]:
    return section.sources_of(read_suites(run))


def shown(run: list[Path], figure: str) -> list[dict[str, Any]]:
    """The charts of a figure on the page."""
    made = section.audited(read_suites(run))
    assert made is not None
    every = [chart for group in made.data().values() for chart in group]
    return [chart for chart in every if re.fullmatch(rf"{figure}(-\d+)*", chart["id"])]


def table(run: list[Path], caption: str) -> Table:
    made = section.audited(read_suites(run))
    assert made is not None
    every = [table for block in made.blocks for table in block.tables]
    return next(table for table in every if table.caption.startswith(caption))


def test_titles_over_the_layers(run: list[Path]) -> None:
    assert [shown(run, name)[0]["title"] for name in ("vector", "recalibrated")] == [
        "R² of e",
        "R² of e, x̂ recalibrated",
    ]
    assert [series["suite"] for series in shown(run, "vector")[0]["series"]] == [0, 1]
    low, high = shown(run, "alpha")[0]["y"]["range"]  # α* near 1 is not to look like much
    assert low <= 0.95 and high >= 1.05
    assert [shown(run, name)[0]["better"] for name in ("alpha", "fvu", "vector")] == [
        "one",
        "lower",
        "none",
    ]


def test_suites_of_one_layer_stand_beside_each_other(make_suite: Callable[..., Path]) -> None:
    paths = [make_suite(k=k, sites=SITES[:1], parts=("reconstruction",)) for k in (16, 32)]
    for path in paths:
        audit(SITES[:1]).write(path / "results" / "audit.json")
    for name in ("vector", "fvu", "alpha"):
        chart = shown(paths, name)[0]
        assert [series["x"] for series in chart["series"]] == [[0], [1]]
        assert chart["x"] == {"title": "layers.0", "ticks": {"values": [], "text": []}}
        assert shown(paths[:1], name)[0]["x"]["title"] == "layer"


def test_only_audited_suites_are_shown(run: list[Path]) -> None:
    assert [source.index for source in sources(run)] == [0, 1]
    assert section.audited(read_suites(run[2:])) is None


def test_the_parts_add_up_to_the_fvu(run: list[Path]) -> None:
    for source, chart in zip(sources(run), shown(run, "parts"), strict=True):
        assert chart["title"] == source.label and chart["y"]["title"] == "FVU"
        bars = [s for s in chart["series"] if s["kind"] == "bars"]
        assert [s["name"] for s in bars][:2] == ["nonlinear", "encoder"]
        for at, site in enumerate(SITES):
            value = source.value(site, "split", "fvu")
            assert value is not None
            assert sum(s["y"][at] for s in bars) == pytest.approx(value.value, rel=1e-3)
    assert [s["name"] for s in bars] == ["nonlinear", "encoder", "linear", "absent"]
    assert len({str(chart["y"]["range"]) for chart in shown(run, "parts")}) == 1


def test_shares_of_a_loss_that_is_not_clear_are_left_out(run: list[Path]) -> None:
    def blur(data: Any) -> None:
        values = data["sections"]["downstream"]["sites"][SITES[1]]
        values["gap"] = {"value": 0.001, "low": -0.001, "high": 0.003}

    edit(run[0] / "results" / "audit.json", blur)
    chart = shown(run, "loss")[0]
    assert all(series["text"] == [SITES[0], SITES[2]] for series in chart["series"])
    share, rest = chart["series"][1], chart["series"][3]
    assert [a + b for a, b in zip(share["y"], rest["y"], strict=True)] == pytest.approx([1, 1])
    assert rest["low"][0] == pytest.approx(1 - share["high"][0])


def test_the_scatter_has_its_numbers_in_tenths(run: list[Path]) -> None:
    chart = shown(run[:1], "scatter")[0]
    assert len(chart["series"][0]["x"]) == 200
    tenths = table(run[:1], "Mean actual ‖e‖²")
    assert [column.metric.title for column in tenths.columns][:2] == ["tenth 1", "tenth 2"]
    assert len(tenths.rows) == 3
    assert [cell.key for cell in tenths.rows[0].cells] == pytest.approx(
        chart["series"][2]["y"], rel=1e-3
    )
    assert tenths.rows[0].cells[0].interval.endswith(" predicted")


def test_of_many_scatters_each_has_fewer_points(make_suite: Callable[..., Path]) -> None:
    sites = [f"layers.{at}" for at in range(7)]
    paths = [make_suite(k=k, sites=sites, parts=("reconstruction",)) for k in (16, 32)]
    for path in paths:
        audit(sites).write(path / "results" / "audit.json")
    assert {len(chart["series"][0]["x"]) for chart in shown(paths, "scatter")} == {150}


def test_every_figure_has_a_table(run: list[Path]) -> None:
    found = section.audited(read_suites(run))
    assert found is not None
    for block in found.blocks:
        assert block.figures and block.tables, block.title
    assert len(table(run, "Shrinkage ladder").rows) == 2 * len(SITES)
    by_position = table(run, "FVU by position")
    assert [column.metric.title for column in by_position.columns][:3] == [
        "from 0",
        "from 1",
        "from 2",
    ]
    assert by_position.rows[0].cells[-1].interval == "– nonlinear"
    assert len(set(found.data())) == sum(len(block.figures) for block in found.blocks)


def test_every_metric_is_in_a_table_once(run: list[Path]) -> None:
    found = section.audited(read_suites(run))
    assert found is not None
    tables = [table for block in found.blocks for table in block.tables]
    for part in sources(run)[1].sections.values():
        if part.metrics:
            (own,) = (table for table in tables if table.caption == part.title)
            assert [column.metric for column in own.columns] == list(part.metrics.values())


def test_neighbours_with_one_legend_share_it(run: list[Path]) -> None:
    found = section.audited(read_suites(run))
    assert found is not None
    names = {block.title: [g.id for g in block.figures] for block in found.blocks}
    assert names["How large the error is"] == ["audit_scatter", "audit_baselines", "audit_ladder"]
    assert names["Over the layers"] == ["audit_vector"]
    assert names["Controls"] == ["audit_null", "audit_positions-0"]  # lines are sites


def test_a_family_of_widths_is_shown_once(run: list[Path]) -> None:
    copy = json.loads((run[1] / "results" / "audit.json").read_text())
    (run[2] / "results" / "audit.json").write_text(json.dumps(copy))
    found = widths.families(sources(run))
    assert [(one.site, one.source.index) for one in found] == [(site, 1) for site in SITES]
    first = widths.stacks(found)[0]
    bars = [s for s in first["series"] if s["kind"] == "bars"]
    assert first["x"]["ticks"]["text"] == ["256", "512", "1024"]
    for at, sae in enumerate(found[0].family.saes):
        assert sum(s["y"][at] for s in bars) == pytest.approx(sae.fvu.value, rel=1e-3)
    law = widths.laws(found)[0]
    assert [s["name"] for s in law["series"]] == ["FVU", "FVU_nl", "law"]
    assert "identified within" in law["description"]
    pairs = widths.per_token(found)[0]
    assert pairs["x"]["ticks"]["text"] == ["256 → 512", "256 → 1024", "512 → 1024"]
    assert [len(table.rows) for table in widths.tables(found)] == [9, 9]
    assert widths.notes(found) == [
        "other is left out: its L0 is another (layers.0, layers.1, layers.2)."
    ]


def test_two_widths_have_no_law(run: list[Path]) -> None:
    def cut(data: Any) -> None:
        for series in data["sections"]["scaling"]["series"].values():
            series["law"] = None
            for sae in series["saes"]:
                sae["parts"] = [part for part in sae["parts"] if "linear" in part["label"]]

    edit(run[1] / "results" / "audit.json", cut)
    found = widths.families(sources(run))
    assert widths.laws(found)[0]["description"] == "Too few widths for a law."
    names = {s["name"] for s in widths.stacks(found)[0]["series"]}
    assert names == {"nonlinear", "linear"}


def test_an_audit_of_the_core_alone_is_shown(run: list[Path], tmp_path: Path) -> None:
    def core(data: Any) -> None:
        kept = ("vector", "norm", "split", "shrinkage", "ladder", "null")
        data["sections"] = {name: data["sections"][name] for name in kept}
        data["sections"]["norm"]["series"] = {}

    for path in run[:2]:
        edit(path / "results" / "audit.json", core)
    found = section.audited(read_suites(run))
    assert found is not None
    titles = [block.title for block in found.blocks]
    assert "Over the widths" not in titles
    assert "What it does, and where it could be found" not in titles
    assert "missed" in pages_of(write_report(run, tmp_path / "out"))


def test_what_takes_the_error_away_adds_up(run: list[Path]) -> None:
    chart = shown(run, "attribution")[0]
    bars = [series for series in chart["series"] if series["kind"] == "bars"]
    assert [series["name"] for series in bars] == ["coefficients", "scale", "choice", "rest"]
    assert sum(series["y"][0] for series in bars) == pytest.approx(0.2)
    marks = {
        series["name"]: series["y"][0] for series in chart["series"] if series["kind"] == "points"
    }
    assert marks["chance share of coefficients"] == pytest.approx(0.01)
    assert marks["chance share of choice"] == pytest.approx(0.04 + 0.01 + 0.03)  # on what it stands
    assert [one["panel"] for one in shown(run, "attribution")] == [0, 1]


def test_noise_that_is_inferred_of_missing_latents(run: list[Path]) -> None:
    chart = shown(run, "zeroing-activation")[0]
    names = [series["name"] for series in chart["series"]]
    assert names[:3] == ["truth", "0% zeroed", "10% zeroed"]
    assert names[-2:] == ["curved dense part", "correlated dense part"]
    assert chart["series"][-1]["y"] == [0.0, 0.8]
    assert chart["series"][1]["y"] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert chart["series"][6]["y"] == [0.5, 1.5, 2.5, 3.5]  # of the largest nothing is inferred
    assert len(shown(run, "zeroing-reconstruction")[0]["series"]) == 7
    ratios = table(run, "σ_a inferred")
    assert [column.metric.title for column in ratios.columns][:2] == ["0% zeroed", "10% zeroed"]
    assert ratios.rows[0].cells[0].key == pytest.approx(1.0)
    assert ratios.rows[0].cells[0].interval == "1 of σ_r"


def test_capacity_curves(run: list[Path]) -> None:
    assert shown(run, "mlp")[0]["series"][0]["x"] == [32, 128, 512]
    assert shown(run, "wide")[0]["series"][0]["x"] == [4, 16, 64]
    assert shown(run, "mlp")[0]["series"][0]["text"][0] == "32 hidden units"


def test_the_page(run: list[Path], tmp_path: Path) -> None:
    text = text_of(write_report(run, tmp_path / "out"), "missed")
    for words in (
        'href="#verdicts"',
        "is linear in x",
        "What this rests on",
        "which may be false",
        "The parts of FVU",
        "Is it shrinkage?",
    ):
        assert words in text
    assert text.count("which may be false") == 1
    assert "missed" not in pages_of(write_report(run[2:], tmp_path / "alone"))


def test_of_many_suites_a_line_is_chosen(make_suite: Callable[..., Path], tmp_path: Path) -> None:
    paths = [
        make_suite(k=k, arch=arch, sites=SITES[:1], parts=("reconstruction",))
        for arch in ("topk", "relu", "gated")
        for k in (16, 32, 64)
    ]
    for path in paths:
        audit(SITES[:1]).write(path / "results" / "audit.json")
    text = text_of(write_report(paths, tmp_path / "out"), "missed")
    assert '<select data-lines="audit_vector">' in text
    assert text.count("the verdict at 1 site<") == 9
    found = section.audited(read_suites(paths))
    assert found is not None
    assert found.blocks[0].panels  # the first block shows one suite at a time, too
    assert found.blocks[0].figures[0].charts[8]["panel"] == 8


def test_a_degenerate_sae_is_flagged(run: list[Path], tmp_path: Path) -> None:
    def spoil(data: Any) -> None:
        one = data["verdicts"][SITES[0]]
        one |= {"degenerate": "trivially linear", "sentences": ["Degenerate: trivially linear."]}

    edit(run[0] / "results" / "audit.json", spoil)
    text = text_of(write_report(run[:1], tmp_path / "out"), "missed")
    assert text.count('<article class="degenerate">') == 1
    assert "<small>degenerate</small>" in text


def test_everything_from_outside_is_escaped(run: list[Path], tmp_path: Path) -> None:
    def spoil(data: Any) -> None:
        for part in data["sections"].values():
            part["title"] = part["about"] = HOSTILE
            for figure in part["figures"]:
                figure["title"] = figure["caption"] = figure["traces"][0]["label"] = HOSTILE
            for metric in part["metrics"].values():
                metric["title"] = metric["description"] = HOSTILE
            for kind in ("sites", "series"):
                part[kind] = {HOSTILE: next(iter(part[kind].values()), {})}
        for series in data["sections"]["scaling"]["series"].values():
            series["arch"] = series["saes"][0]["suite"] = series["law"]["why"] = HOSTILE
        one = data["verdicts"][SITES[0]]
        said = {"sentences": [HOSTILE] * 5, "assumptions": [HOSTILE], "degenerate": HOSTILE}
        data["verdicts"] = {HOSTILE: one | said}

    edit(run[1] / "results" / "audit.json", spoil)
    page = write_report(run[1:2], tmp_path / "out")
    assert "alert(1)</script>" not in text_of(page)
    assert "alert(1)" in text_of(page, "missed")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.update(schema=9), "has schema 9"),
        (lambda data: data.pop("verdicts"), "'verdicts' is missing"),
        (
            lambda data: data["sections"]["norm"]["series"][SITES[0]]["actual"].pop(),
            "'sections.norm.series.layers.0.actual' is 199 numbers, for 200 of 'predicted'",
        ),
        (
            lambda data: data["sections"]["positions"]["series"][SITES[0]].update(fvu="no"),
            "'sections.positions.series.layers.0.fvu' is no list of finite numbers",
        ),
        (
            lambda data: data["sections"]["zeroing"]["series"][SITES[0]].update(sigmas=[[1]]),
            "'sections.zeroing.series.layers.0.sigmas' is no list of finite numbers",
        ),
        (
            lambda data: data["sections"]["norm"]["figures"][0].update(kind="pie"),
            "figures",
        ),
        (
            lambda data: data["sections"]["scaling"]["series"][SITES[0]].update(saes=[{}]),
            "'sections.scaling.series.layers.0.saes.0.suite'",
        ),
    ],
)
def test_broken(
    run: list[Path], tmp_path: Path, spoil: Callable[[Any], None], message: str
) -> None:
    edit(run[1] / "results" / "audit.json", spoil)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        write_report(run, tmp_path / "out")
    assert "\n" not in str(error.value)
