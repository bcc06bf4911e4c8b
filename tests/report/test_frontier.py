"""Which suites make a line, and what stands on it."""

import json
from typing import Any

import pytest

from helpers.editing import edit
from helpers.reports import text_of
from saeworks.errors import UserError
from saeworks.report import frontier
from saeworks.report.build import write_report
from saeworks.report.suites import SuiteData, read_suites


def names(suites: list[SuiteData]) -> list[str]:
    return [line.name for line in frontier.lines(suites)]


@pytest.fixture
def mixed(make_suite):
    """Two architectures at two sparsities, on two sites."""
    return read_suites(
        [
            make_suite(k=k, arch=arch, sites=("layers.1", "layers.5"))
            for arch in ("relu", "topk")
            for k in (64, 16)
        ]
    )


def test_each_architecture_has_a_line_at_each_site(mixed):
    assert names(mixed) == ["relu", "topk"]
    charts = frontier.charts(mixed)
    assert [chart["title"] for chart in charts] == [
        "FVU, layers.1",
        "FVU, layers.5",
        "ΔCE, layers.1",
        "ΔCE, layers.5",
    ]
    assert [chart["panel"] for chart in charts] == [0, 1, 0, 1]
    for chart in charts:
        assert [series["name"] for series in chart["series"]] == ["relu", "topk"]
        assert [series["x"] for series in chart["series"]] == [[16, 64]] * 2
        assert chart["x"]["log"] and chart["y"]["log"]
    series = charts[3]["series"][1]
    value = mixed[3].value("layers.5", "delta_ce")
    assert value is not None
    assert series["text"][0] == "topk-x8-k16"
    assert series["y"][0] == pytest.approx(value.value, rel=1e-4)
    assert series["low"][0] == pytest.approx(value.low, rel=1e-4)


def test_other_widths_texts_models_and_lengths_are_other_lines(make_suite, tmp_path):
    paths = [make_suite(k=k) for k in (16, 32)] + [make_suite(k=16, width=512)]
    assert names(read_suites(paths)) == ["topk, width 2048", "topk, width 512"]
    for number, change in enumerate(
        (
            lambda meta: meta["text"].update(source="other.txt"),
            lambda meta: meta["model"].update(fingerprint="feed"),
            lambda meta: meta.update(tokens=3_000_000),
        )
    ):
        other = make_suite(k=128 + number)
        edit(other / "suite.json", change)
        paths.append(other)
    found = frontier.lines(read_suites(paths))
    assert [len(line.suites) for line in found] == [2, 1, 1, 1, 1]
    assert "text other.txt" in found[2].name
    assert "model feed" in found[3].name
    assert "3 million tokens" in found[4].name


def test_other_learning_rates_are_other_lines(make_suite):
    plain, own, run = (make_suite(k=k) for k in (16, 32, 64))
    edit(own / "suite.json", lambda meta: meta.update(train={"lr": 0.01}))
    edit(run / "suite.json", lambda meta: meta["config"]["train"].update(lr=0.01))
    found = frontier.lines(read_suites([plain, own, run]))
    assert [line.suites for line in found] == [(0,), (1, 2)]
    assert "lr 0.01" in found[1].name


def test_seeds_of_a_variant_are_one_point_with_their_range(fake_suite, tmp_path):
    paths = [
        fake_suite(tmp_path / str(seed), k=k, seed=seed) for seed in (0, 1, 2) for k in (16, 64)
    ]
    for number, path in enumerate(paths):

        def move(result: Any, number: int = number) -> None:
            for values in result["sites"].values():
                values["fvu"]["value"] = 0.1 + 0.01 * number

        edit(path / "results" / "reconstruction.json", move)
    suites = read_suites(paths)
    assert suites[2].label == "topk-x8-k16 seed 1"
    series = frontier.charts(suites)[0]["series"][0]
    assert series["x"] == [16, 64]
    assert series["y"] == pytest.approx([0.12, 0.13])
    assert series["low"] == pytest.approx([0.1, 0.11])
    assert series["high"] == pytest.approx([0.14, 0.15])
    assert series["text"] == ["mean of 3 seeds"] * 2


def test_two_suites_of_one_seed_stay_two_points(fake_suite, tmp_path):
    paths = [fake_suite(tmp_path / run, k=k) for run in "ab" for k in (16, 64)]
    assert frontier.charts(read_suites(paths))[0]["series"][0]["x"] == [16, 16, 64, 64]


def test_without_a_loss_above_zero_the_axis_is_linear(make_suite):
    paths = [make_suite(k=16), make_suite(k=64)]

    def negative(result: Any) -> None:
        result["sites"]["layers.0"]["delta_ce"]["low"] = -0.001

    edit(paths[0] / "results" / "splice.json", negative)
    fvu, loss = frontier.charts(read_suites(paths))
    assert fvu["y"]["log"] and not loss["y"]["log"]


def test_where_sparsity_does_not_vary_there_is_no_frontier(make_suite):
    assert frontier.charts(read_suites([make_suite(k=32)])) == []
    assert frontier.charts(read_suites([make_suite(k=32, arch=a) for a in ("relu", "gated")])) == []


def test_the_table_is_sorted_by_site_line_and_l0(mixed):
    columns, rows = frontier.table(mixed)
    assert [column.id for column in columns] == ["l0", "fvu", "delta_ce"]
    assert [(row.site, row.label) for row in rows[:5]] == [
        ("layers.1", "relu-x8-k16"),
        ("layers.1", "relu-x8-k64"),
        ("layers.1", "topk-x8-k16"),
        ("layers.1", "topk-x8-k64"),
        ("layers.5", "relu-x8-k16"),
    ]


def test_a_group_that_leads_out_of_the_suite_is_not_opened(make_suite, tmp_path):
    suite = make_suite(k=16)
    (tmp_path / "config.json").write_text(json.dumps({"options": {"width": 7}}))

    def leave(meta: Any) -> None:
        for site in meta["sites"].values():
            site["group"] = "../../.."

    edit(suite / "suite.json", leave)
    with pytest.raises(UserError, match="leads outside the suite; it was not opened"):
        read_suites([suite])


def test_a_broken_config_of_a_group_is_told(make_suite):
    suite = make_suite(k=16)
    (suite / "groups" / "layers_0" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        read_suites([suite])


def test_many_suites_make_a_page_of_sensible_size(fake_suite, tmp_path):
    paths = [
        fake_suite(tmp_path / str(seed), k=k, arch=arch, seed=seed, latents=0, steps=100)
        for seed in (0, 1, 2)
        for arch in ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu")
        for k in (16, 32, 64, 128)
    ]
    page = write_report(paths, tmp_path / "out")
    text = text_of(page)
    assert len(text) < 4 * 2**20
    assert 'data-lines="by_layer"' in text
    assert "Each suite in words" in text
