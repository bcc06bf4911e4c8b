import json

import pytest

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
    found = suites[0].histograms["layers.0"]["log10_frequency_histogram"]
    series = chart["series"][0]
    assert series["y"][:-1] == found.counts
    assert len(series["x"]) == len(series["y"]) == len(found.edges)


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


def test_histograms_of_other_things_have_their_own_place_or_title(make_suite):
    suite = make_suite(sites=("layers.0", "layers.1"))
    other = {"edges": [0, 1, 2], "counts": [1, 2]}

    def more(data):
        data["series"]["layers.1"]["norms_histogram"] = other

    _edited(suite, more)
    nearest = {
        "schema": 1,
        "evaluation": "geometry",
        "title": "Geometry",
        "config": {},
        "tokens": 9,
        "documents": 3,
        "series": {"layers.0": {"nearest": other}},
    }
    (suite / "results" / "geometry.json").write_text(json.dumps(nearest), encoding="utf-8")
    titles = [chart["title"] for chart in charts.histograms(read_suites([suite]))]
    assert titles == ["log₁₀ frequency, layers.0", "log₁₀ frequency, layers.1", "norms, layers.1"]
