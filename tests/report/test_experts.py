"""The section on experts, and the frontier against what SAEs cost, as data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.expert_results import (
    as_switch,
    cost,
    write_consistency,
    write_experts,
    write_geometry,
)
from helpers.reports import data_of
from saeworks.errors import UserError
from saeworks.files.access import write_tensors
from saeworks.report import frontier
from saeworks.report.build import write_report
from saeworks.report.pages import experts
from saeworks.report.suites import read_suites

MakeSuite = Callable[..., Path]
SITES = ("layers.1", "layers.3")


@pytest.fixture
def paths(fake_suite: MakeSuite, tmp_path: Path) -> list[Path]:
    """TopK and Switch with 4 and 8 experts, at two sparsities; the cost falls with N."""
    found = []
    for k in (16, 32):
        topk = fake_suite(tmp_path / "topk", k=k, sites=SITES)
        write_geometry(topk, 2, "cut", share=0.01)
        cost(topk, 8e5)
        found.append(topk)
        for n in (8, 4):
            path = fake_suite(tmp_path / f"n{n}", k=k, sites=SITES)
            as_switch(path, n, 8e5 / n)
            write_geometry(path, n, share=n / k / 10)
            write_experts(path, n)
            found.append(path)
    return found


def test_duplicates_over_experts_and_k(paths: list[Path]):
    section = experts.section(read_suites(paths))
    assert section is not None and section.duplicates is not None
    heat = section.duplicates
    assert heat["rows"] == ["topk", "switch, experts 4", "switch, experts 8"]
    assert heat["columns"] == ["16", "32"] and heat["thresholds"] == [0.7, 0.8, 0.9]
    cells = {tuple(place): shares for *place, shares in heat["cells"]}
    assert len(cells) == 3 * 2 * 2
    assert cells[2, 1, 0] == pytest.approx([3 * 8 / 320, 2 * 8 / 320, 8 / 320], rel=1e-4)


def test_seeds_are_one_cell_with_their_mean(fake_suite: MakeSuite, tmp_path: Path):
    found = []
    for seed in (0, 1):
        for k in (16, 32):
            path = fake_suite(tmp_path / str(seed), k=k, seed=seed, sites=SITES)
            write_geometry(path, 2, "cut", share=0.1 + 0.1 * seed)
            found.append(path)
    section = experts.section(read_suites(found))
    assert section is not None and section.duplicates is not None
    assert [cell[-1][2] for cell in section.duplicates["cells"]] == pytest.approx([0.15] * 4)


def test_one_kind_at_one_k_has_no_heat_map(make_suite: MakeSuite):
    path = make_suite()
    write_geometry(path, 2, "cut")
    section = experts.section(read_suites([path]))
    assert section is not None and section.duplicates is None
    assert experts.section(read_suites([make_suite(k=64)])) is None


def test_beside_a_switch_sae_stands_one_as_sparse_without_experts(paths: list[Path]):
    suites = read_suites(paths)
    section = experts.section(suites)
    assert section is not None
    for s, suite in enumerate(suites):
        beside = section.files[f"experts-{s}-0"]["beside"]
        if suite.meta.arch == "topk":
            assert beside is None
        else:
            assert suites[beside].meta.arch == "topk"
            assert suites[beside].options["k"] == suite.options["k"]
    assert [suites[s].meta.arch for s, _ in section.suites][:4] == ["switch"] * 4


def test_every_number_is_in_a_table_and_none_among_the_layers(paths: list[Path], tmp_path: Path):
    write_consistency(paths[1])
    section = experts.section(read_suites(paths))
    assert section is not None
    assert [(t.caption, len(t.rows)) for t in section.tables] == [
        ("How the experts share the work", 8),
        ("How alike live latents are", 12),
        ("Known concepts in different experts", 2),
    ]
    page = write_report(paths, tmp_path / "page")
    data = data_of(page)
    assert "metric-duplicate_share" not in {c["id"] for c in data["by_layer"] + data["more"]}
    assert "metric-duplicate_share" in {chart["id"] for chart in data["experts_depth"]}


def test_a_sentence_has_the_numbers_of_its_own_result(paths: list[Path]):
    """Not those of another evaluation with a metric of the same name; dashes where it has none."""
    results = paths[1] / "results"
    other = json.loads((results / "geometry.json").read_text()) | {"evaluation": "dedup"}
    other["sites"]["layers.1"]["live"]["value"] = 7.0
    (results / "dedup.json").write_text(json.dumps(other | {"sentences": {}}))
    load = json.loads((results / "experts.json").read_text())
    load["sentences"] |= {"load": "{load_entropy}, {busiest_load%}."}
    load["sites"]["layers.1"]["busiest_load"]["value"] = -0.5
    (results / "experts.json").write_text(json.dumps(load))
    section = experts.section(read_suites(paths))
    assert section is not None
    about = [section.files[f"experts-{s}-0"]["about"] for s in range(3)]
    assert about[1]["duplicates"] == "5.0% of 24 live latents have a neighbour beyond 0.9."
    assert about[1]["load"] == "0.900, −50.0%."
    assert about[0]["load"] == "–, –."


@pytest.mark.parametrize(
    ("evaluation", "change", "message"),
    [
        ("geometry", lambda s: s["similarity"]["matrix"].pop(), "similarity.*not of one length"),
        ("geometry", lambda s: s["tsne"]["expert"].pop(), "tsne.*not of one length"),
        ("geometry", lambda s: s["duplicates"].pop("shares"), "duplicates.shares"),
        ("experts", lambda s: s["load"].update(share="all"), "load.share"),
        ("experts", lambda s: s["domains"]["labels"].append("x"), "domains.*not of one length"),
    ],
)
def test_a_broken_result_is_one_line(
    evaluation: str, change: Callable[[Any], Any], message: str, paths: list[Path]
):
    file = paths[1] / "results" / f"{evaluation}.json"
    result = json.loads(file.read_text())
    change(result["series"]["layers.1"])
    file.write_text(json.dumps(result))
    with pytest.raises(UserError, match=message) as error:
        experts.section(read_suites(paths))
    assert "\n" not in str(error.value) and f"{evaluation}.json" in str(error.value)


def test_the_frontier_has_an_axis_for_each_cost_that_differs(paths: list[Path]):
    charts = frontier.charts(read_suites(paths))
    assert {tuple(axis["id"] for axis in chart["axes"]) for chart in charts} == {("l0", "flops")}
    series = {one["name"]: one["xs"] for one in charts[0]["series"]}
    assert series["switch, experts 4"]["flops"] == pytest.approx([2e5, 2e5])
    assert series["topk"]["l0"] == [16, 32] and series["topk"]["parameters"] == [None, None]


def test_without_another_l0_the_frontier_is_against_the_cost(paths: list[Path]):
    columns, rows = frontier.table(read_suites(paths[:3]))
    charts = frontier.charts(read_suites(paths[:3]))
    assert [chart["x"]["title"] for chart in charts] == ["FLOPs per token of training"] * 4
    assert [one["x"] for one in charts[0]["series"]] == [[8e5], [1e5], [2e5]]
    assert [column.metric.title for column in columns][-1] == "FLOPs per token"
    assert {row.cells[-1].text for row in rows} == {"800,000", "100,000", "200,000"}


def test_operations_are_of_the_site_where_the_log_tells_them(paths: list[Path]):
    line = {"kind": "train", "step": 400, "tokens": 1000, "site": "layers.1", "flops": 5e6}
    (paths[1] / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    first, second, *_ = frontier.charts(read_suites(paths))
    assert first["series"][1]["xs"]["flops"] == [5000, 1e5]
    assert second["series"][1]["xs"]["flops"] == [1e5, 1e5]


def test_seconds_are_of_the_saes_own_steps_where_they_are_known(paths: list[Path]):
    for number, path in enumerate(paths[:3]):
        line = {"kind": "train", "step": 400, "tokens": 1000, "site": "layers.1"}
        line["step_seconds"] = None if number == 2 else 5.0 + number
        (path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    chart = frontier.charts(read_suites(paths[:3]))[0]
    assert "step_seconds" in [axis["id"] for axis in chart["axes"]]
    assert [one["xs"]["step_seconds"] for one in chart["series"]] == [[5], [6], [None]]


def test_parameters_are_read_from_the_weights(paths: list[Path]):
    for path, width in zip(paths[:2], (3, 5), strict=True):
        for site in SITES:
            group = path / "groups" / site.replace(".", "_")
            group.mkdir(exist_ok=True)
            tensors = {"w_enc": torch.zeros(width, 4), "b_dec": torch.zeros(4)}
            write_tensors(group / "weights.safetensors", tensors)
    (paths[2] / "groups" / "layers_1" / "weights.safetensors").write_bytes(b"no weights")
    suites = read_suites(paths)
    assert suites[0].parameters == dict.fromkeys(SITES, 16)
    assert suites[1].parameters == dict.fromkeys(SITES, 24) and suites[2].parameters == {}
    assert [axis["id"] for axis in frontier.charts(suites)[0]["axes"]][-1] == "parameters"
