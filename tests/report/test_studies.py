"""Sections on what latents mean and do, of results made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.reports import data_of, text_of
from helpers.study_results import GRAPH, TITLES, add_studies, add_study
from saeworks.errors import UserError
from saeworks.report.build import write_report
from saeworks.report.pages import studies
from saeworks.report.suites import read_suites
from saeworks.results.names import ON_LATENTS, question
from saeworks.results.series import Histogram

SITES = ("layers.0", "layers.1")


@pytest.fixture
def suites(make_suite: Any) -> list[Path]:
    made = [make_suite(k=k, sites=SITES) for k in (16, 64)]
    for suite in made:
        add_studies(suite, SITES)
    return made


def test_the_order_is_that_of_a_readers_questions():
    names = ["steer", "circuits_sva", "circuits_ioi", "study", "explanations", "concepts"]
    assert sorted(names, key=lambda name: (question(name), name)) == [
        "concepts",
        "explanations",
        "study",
        "circuits_ioi",
        "circuits_sva",
        "steer",
    ]
    assert question("reconstruction") is None


def test_every_evaluation_of_latents_stands_on_one_page():
    named = [name for _, _, names in studies.PAGES.values() for name in names]
    assert sorted(named) == sorted(ON_LATENTS)


def test_each_evaluation_has_a_section_and_stands_nowhere_else(suites, make_suite, tmp_path):
    page = write_report(suites, tmp_path / "with")
    html = text_of(page)
    assert all(html.count(f'<section id="{name}"') == 1 for name in TITLES)
    meaning = text_of(page, "meaning")
    names = ("concepts", "explanations", "study")
    assert all(f'<a href="#{name}">{TITLES[name]}</a>' in meaning for name in names)

    plain = [make_suite(k=k, sites=SITES, arch="gated") for k in (16, 64)]
    without = data_of(write_report(plain, tmp_path / "without"))
    data = data_of(page)
    added = {name for name in data if name.startswith("study")}
    assert len(added) == 2 * len(TITLES)
    assert data.keys() - added == without.keys()
    for group in ("by_layer", "more", "histograms"):
        assert [c["id"] for c in data[group]] == [c["id"] for c in without[group]]
    assert "Not FVU" not in text_of(page, "layers").split('id="data"')[0]
    fvu = next(chart for chart in data["by_layer"] if chart["id"] == "metric-fvu")
    assert max(y for line in fvu["series"] for y in line["y"]) < 1


def test_figures_have_a_line_per_suite(suites):
    section = studies.sections(read_suites(suites))[0]
    assert [group.id for group in section.figures] == ["study0_share", "study0_spread"]
    share, first, second = section.figures[0].charts
    assert [line["name"] for line in share["series"]] == ["topk-x8-k16", "topk-x8-k64"]
    assert (first["title"], second["title"]) == (
        "Kept by the circuit, layers.0",
        "Kept by the circuit, layers.1",
    )
    assert [bool(chart["description"]) for chart in (share, first, second)] == [True, True, False]
    (table,) = section.tables
    assert [column.metric.title for column in table.columns] == ["Share", "Not FVU"]
    assert len(table.rows) == 4


def test_findings_of_all_suites_come_first_and_long_lists_are_folded(make_suite):
    made = [make_suite(k=k, sites=SITES) for k in (16, 64)]
    add_study(made[0], "concepts", SITES, findings=["Of all.", "a", "b", "Caution."])
    add_study(made[1], "concepts", SITES, findings=["c", "Of all.", *"defg", "Caution."])
    section = studies.sections(read_suites(made))[0]
    assert [(f.suite, list(f.first), list(f.more)) for f in section.findings] == [
        (None, ["Of all."], []),
        (0, ["a", "b"], []),
        (1, ["c", "d", "e", "f"], ["g"]),
        (None, ["Caution."], []),
    ]


def test_sites_that_are_not_the_suites_own_stay_in_their_section(make_suite, tmp_path):
    suite = make_suite(sites=SITES)
    add_study(suite, "circuits_ioi", ("all layers", *SITES))
    page = write_report([suite], tmp_path / "out")
    assert data_of(page)["sites"] == list(SITES)
    section = studies.sections(read_suites([suite]))[0]
    assert [row.site for row in section.tables[0].rows] == [*SITES, "all layers"]
    assert section.measured == ""


VIEW = studies.SectionView(
    "circuit", "circuits_*", "graph", Histogram, "The graph", "What it shows."
)


def test_a_view_has_its_place_its_script_and_its_files(make_suite, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "VIEWS", (VIEW,))
    made = [make_suite(k=k, sites=SITES) for k in (16, 64)]
    graph = {"edges": [0, 1], "counts": [3]}
    add_study(made[1], "circuits_ioi", ("all layers", *SITES), series={"graph": graph})
    add_study(made[1], "steer", SITES, series={"graph": graph})
    (view,) = studies.sections(read_suites(made))[0].views
    assert view.suites == [(1, "topk-x8-k64")]
    assert [name for _, name in view.sites] == [*SITES, "all layers"]
    page = write_report(made, tmp_path / "out")
    written = (tmp_path / "out" / "data" / "view-0-0-1-2.js").read_text(encoding="utf-8")
    assert written == 'saeworks.receive("view-0-0-1-2",{"edges":[0.0,1.0],"counts":[3]});\n'
    html = text_of(page, "circuits")
    assert html.count('data-view="circuit"') == 1
    assert "assets/views.js" in html
    assert "assets/views.js" not in text_of(page, "steering")
    write_report([make_suite(k=8)], tmp_path / "out")
    assert not list((tmp_path / "out" / "data").glob("view-*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"series": {"curve": [1, "NaN", {}]}}, "series.layers.0.curve' is no list"),
        ({"series": {"curve": [1]}}, "is 1 numbers, for 5 of 'n'"),
        ({"findings": [1]}, "'findings.0' = 1"),
        ({"title": None}, "'title' = None"),
    ],
)
def test_a_broken_result_is_one_line(make_suite, tmp_path, change, message):
    suite = make_suite(sites=SITES)
    add_study(suite, "circuits_ioi", SITES, **change)
    with pytest.raises(UserError, match="run `saeworks circuits` again") as refused:
        write_report([suite], tmp_path / "out")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "circuits_ioi.json" in str(refused.value)


def test_words_from_outside_are_escaped(make_suite, tmp_path):
    hostile = '"><img src=x onerror=alert(1)>'
    suite = make_suite(sites=SITES)
    add_study(suite, "circuits_ioi", SITES, findings=[hostile], title=hostile)
    result = json.loads((suite / "results" / "circuits_ioi.json").read_text(encoding="utf-8"))
    result["evaluation"] = f"circuits_{hostile}"
    (suite / "results" / "circuits_ioi.json").write_text(json.dumps(result), encoding="utf-8")
    html = text_of(write_report([suite], tmp_path / "out"))
    assert "<img" not in html


def test_a_circuit_has_its_graph_and_one_that_does_not_fit_is_refused(suites, tmp_path):
    html = text_of(write_report(suites, tmp_path / "without"))
    assert 'data-view="circuit"' not in html
    add_study(suites[0], "circuits_sva", ("all sites",), series={"graph": GRAPH})
    page = write_report(suites, tmp_path / "with")
    assert text_of(page).count('data-view="circuit"') == 1
    (file,) = (tmp_path / "with" / "data").glob("view-*-0-*-*")  # the first view
    assert '"The"," horses"' in file.read_text(encoding="utf-8")
    beyond = {"source": 0, "target": 9, "weight": 1.0}
    wrongs: list[dict[str, Any]] = [{"varies": []}, {"sites": ["x"]}, {"edges": [beyond]}]
    for wrong in wrongs:
        add_study(suites[0], "circuits_sva", ("all sites",), series={"graph": GRAPH | wrong})
        with pytest.raises(UserError, match=r"circuits_sva\.json.*graph"):
            write_report(suites, tmp_path / "wrong")


@pytest.mark.parametrize(
    ("evaluation", "key", "listed", "message"),
    [
        ("concepts", "of_latents", {"latent": 1}, "of_latents' must be a list, not a dict"),
        (
            "concepts",
            "of_latents",
            [{"latent": "x", "concept": "a", "f1": 1}],
            "of_latents.0.latent",
        ),
        (
            "explanations",
            "explained",
            [{"latent": 1}],
            "'series.layers.0.explained.0.fired' is missing",
        ),
        ("study", "of_latents", [{"latent": 0, "verdict": 1}], "of_latents.0.verdict' = 1"),
        ("steer", "steered", [None], "steered.0"),
    ],
)
def test_a_broken_list_of_latents_is_one_line(
    make_suite, tmp_path, evaluation, key, listed, message
):
    suite = make_suite(sites=SITES)
    file = add_study(suite, evaluation, SITES)
    result = json.loads(file.read_text(encoding="utf-8"))
    result["series"]["layers.0"][key] = listed
    file.write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(UserError, match="run `saeworks") as refused:
        write_report([suite], tmp_path / "out")
    assert message in str(refused.value)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_absurd_numbers_of_latents_change_nothing(make_suite, tmp_path):
    suite = make_suite(sites=SITES)
    file = add_study(suite, "concepts", SITES)
    result = json.loads(file.read_text(encoding="utf-8"))
    absurd = [{"latent": n, "concept": "</script>", "f1": 1e300} for n in (-1, 10**12, 0, 0)]
    result["series"]["layers.0"]["of_latents"] = absurd
    file.write_text(json.dumps(result), encoding="utf-8")
    write_report([suite], tmp_path / "out")
    written = (tmp_path / "out" / "data" / "latents-0-0-0.js").read_text(encoding="utf-8")
    assert "</script>" not in written
    assert "\\u003c/script\\u003e" in written
