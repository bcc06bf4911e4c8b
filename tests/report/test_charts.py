import json

import pytest

from saeworks.errors import UserError
from saeworks.report import charts
from saeworks.report.suites import read_suites


def test_sites_stand_at_their_layer(make_suite):
    chart = charts.by_layer(read_suites([make_suite(sites=("layers.2", "layers.10"))]))[0]
    assert chart["x"] == {"title": "layer (layers.*)", "whole": True}
    assert chart["series"][0]["x"] == [2.0, 10.0]


def test_each_family_of_sites_has_a_line(make_suite):
    sites = ("h.0.attn", "h.0.mlp", "h.1.attn", "h.1.mlp")
    chart = charts.by_layer(read_suites([make_suite(sites=sites)]))[0]
    names = [series["name"] for series in chart["series"]]
    assert names == ["topk-x8-k32 h.*.attn", "topk-x8-k32 h.*.mlp"]
    assert [series["x"] for series in chart["series"]] == [[0, 1], [0, 1]]


def test_sites_without_numbers_stand_in_a_row(make_suite):
    chart = charts.by_layer(read_suites([make_suite(sites=("embed", "layers.0"))]))[0]
    assert chart["x"]["ticks"]["text"] == ["embed", "layers.0"]


def test_intervals_reach_the_chart(make_suite):
    series = charts.by_layer(read_suites([make_suite()]))[0]["series"][0]
    for low, y, high in zip(series["low"], series["y"], series["high"], strict=True):
        assert low < y < high


def test_histograms_keep_every_latent(make_suite):
    suites = read_suites([make_suite()])
    chart = charts.histograms(suites)[0]
    series = chart["series"][0]
    found = suites[0].results["reconstruction"].series["layers.0"]["log10_frequency_histogram"]
    assert chart["title"] == "layers.0" and series["kind"] == "steps"
    assert series["y"][:-1] == found["counts"]
    assert len(series["x"]) == len(series["y"]) == len(found["edges"])


def test_long_curves_are_thinned_to_their_end(make_suite):
    curves = charts.training(read_suites([make_suite(sites=("layers.0",), steps=20_000)])[0])
    tokens = curves["layers.0"]["train"]["tokens"]
    assert len(tokens) <= charts.POINTS
    assert tokens[-1] == 4096 * 20_000
    assert len(curves["layers.0"]["train"]["fvu"]) == len(tokens)


def test_of_a_step_logged_twice_the_last_counts(make_suite):
    suite = make_suite(sites=("layers.0",), steps=40)
    again = {"kind": "train", "step": 20, "tokens": 4096 * 20, "site": "layers.0", "fvu": 0.5}
    with (suite / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(again) + "\n")
    curves = charts.training(read_suites([suite])[0])["layers.0"]["train"]
    assert curves["tokens"] == [4096 * 20, 4096 * 40]
    assert curves["fvu"][0] == pytest.approx(0.5)


def _edited(suite, change):
    file = suite / "results" / "reconstruction.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(json.dumps(data), encoding="utf-8")
    return suite


def _flat(suite):
    return {c["id"]: c["flat"] for c in charts.by_layer(read_suites([suite])) if c["flat"]}


def test_charts_with_nothing_to_see_are_told_not_drawn(make_suite):
    assert _flat(make_suite(k=32)) == {"metric-l0": "32 everywhere"}

    def rarely_less(data):
        for site, l0 in zip(data["sites"].values(), (16, 15.97, 16, 15.9), strict=True):
            site["l0"] = {"value": l0, "low": l0 - 0.01, "high": l0}
            site["dead_share"] = {"value": 0.0}

    assert _flat(_edited(make_suite(k=16), rarely_less)) == {
        "metric-l0": "16 at every site",
        "metric-dead_share": "0 everywhere",
    }

    def by_site(data):
        for site, l0 in zip(data["sites"].values(), (64, 70, 58, 61), strict=True):
            site["l0"] = {"value": l0}

    assert _flat(_edited(make_suite(k=64), by_site)) == {}


def test_a_histogram_of_too_few_edges_is_named(make_suite):
    suite = make_suite(sites=("layers.0",))

    def fewer(data):
        data["series"]["layers.0"]["log10_frequency_histogram"]["edges"].pop()

    _edited(suite, fewer)
    with pytest.raises(
        UserError, match=r"'series\.layers\.0\.log10_frequency_histogram\.counts' is"
    ):
        charts.histograms(read_suites([suite]))
