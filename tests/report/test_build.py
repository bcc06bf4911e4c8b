import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.editing import edit
from helpers.reports import data_of, pages_of, text_of
from saeworks.errors import UserError
from saeworks.report.build import write_report
from saeworks.report.page import embedded_json

HOSTILE = '</script><script>alert(1)</script><!--<b onload="x">'


def received(file: Path) -> Any:
    found = re.fullmatch(r'saeworks\.receive\("[-\w]+",(.*)\);\n', file.read_text(encoding="utf-8"))
    assert found
    return json.loads(found[1])


def test_one_suite(make_suite, tmp_path):
    page = write_report([make_suite(k=32)], tmp_path / "out")
    text = text_of(page)
    assert page == tmp_path / "out" / "index.html"
    assert "layers.3" in text
    assert "0.0600" in text  # FVU of the first site, with the decimals of its interval
    assert "saeworks train run.yaml" in text
    data = data_of(page)
    assert data["suites"] == ["topk-x8-k32"]
    assert [chart["title"] for chart in data["by_layer"]][:2] == ["FVU", "ΔCE"]
    assert "MSE" in [chart["title"] for chart in data["more"]]
    assert pages_of(page) == {"index", "layers", "latents", "cost", "reproduce"}
    for name in data["files"]:
        assert received(page.parent / "data" / f"{name}.js")
    for name in re.findall(r'(?:src|href)="((?:assets/)?[\w.]+)"', text):
        assert (page.parent / name).stat().st_size > 0


def test_what_outliers_do_to_the_fvu_is_said(make_suite, tmp_path):
    suite = make_suite(k=32)

    def far(result):
        for name in ("outlier_share", "fvu_without_outliers"):
            result["metrics"][name] = {"title": name, "description": ""}
        first, *others = result["sites"].values()
        first["outlier_share"] = {"value": 0.0125}
        first["fvu_without_outliers"] = {"value": 0.3125}
        for values in others:
            values["outlier_share"] = {"value": 0.0}
            values["fvu_without_outliers"] = values["fvu"]

    edit(suite / "results" / "reconstruction.json", far)
    text = text_of(write_report([suite], tmp_path / "out"), "layers")
    said = re.search(
        r"\((\S+) of the tokens\): FVU there is (\S+) with them and (\S+) without", text
    )
    assert said and said.groups() == ("1.25%", "0.0600", "0.312")


def test_nothing_outside_is_named(make_suite, tmp_path):
    page = write_report([make_suite()], tmp_path / "out")
    assert not re.search(r'(src|href)="(https?:)?//', text_of(page))


def test_several_suites(make_suite, tmp_path):
    suites = [make_suite(k=k) for k in (64, 16)]
    page = write_report(suites, tmp_path / "out")
    text = " ".join(text_of(page, "compare").split())
    data = data_of(page)
    assert data["suites"] == ["topk-x8-k64", "topk-x8-k16"]
    assert [series["x"] for series in data["frontier"][0]["series"]] == [[16, 64]] * 4
    assert (
        "topk-x8-k64 has a lower FVU than topk-x8-k16 at 4 of 4 sites (intervals apart at 4)"
        in text
    )
    assert {"training-0", "training-1", "latents-1-3"} <= set(data["files"])


def test_suites_of_one_name_get_labels_of_their_own(make_suite, tmp_path):
    one, other = make_suite(k=32), tmp_path / "other"
    one.rename(tmp_path / "first")
    make_suite(k=32).rename(other)
    page = write_report([tmp_path / "first", other], tmp_path / "out")
    assert data_of(page)["suites"] == ["topk-x8-k32 (first)", "topk-x8-k32 (other)"]


@pytest.mark.parametrize(
    "parts", [(), ("log",), ("reconstruction",), ("splice",), ("latents",), ("log", "latents")]
)
def test_missing_parts_are_left_out(make_suite, tmp_path, parts):
    page = write_report([make_suite(parts=parts)], tmp_path / "out")
    pages, measured = pages_of(page), bool({"reconstruction", "splice"} & set(parts))
    assert ("layers" in pages) == measured
    assert ("Not evaluated yet" in text_of(page, "index")) != measured
    assert ("cost" in pages) == ("log" in parts)
    assert ("latents" in pages) == ("latents" in parts)
    assert ('id="frequencies"' in text_of(page)) == ("reconstruction" in parts)
    assert {"index", "reproduce"} <= pages


def test_numbers_that_are_missing_are_dashes(make_suite, tmp_path):
    suite = make_suite()

    def undefined(result: Any) -> None:
        result["sites"]["layers.1"]["fvu"] = {"value": None, "low": None, "high": None}
        del result["sites"]["layers.2"]["fvu"]

    edit(suite / "results" / "reconstruction.json", undefined)
    page = write_report([suite], tmp_path / "out")
    assert "–" in text_of(page, "layers")
    assert data_of(page)["by_layer"][0]["series"][0]["text"] == ["layers.0", "layers.3"]


def test_everything_from_outside_is_escaped(make_suite, tmp_path):
    suite = make_suite(sites=("layers.0", HOSTILE), hostile=HOSTILE)

    def name(meta: Any) -> None:
        meta["variant"] = meta["model"]["name"] = meta["text"]["source"] = HOSTILE
        meta["config"]["model"]["name"] = HOSTILE

    def describe(result: Any) -> None:
        result["metrics"]["fvu"].update(title=HOSTILE, description=HOSTILE, unit=HOSTILE)
        result["title"] = HOSTILE

    edit(suite / "suite.json", name)
    edit(suite / "results" / "reconstruction.json", describe)
    page = write_report([suite], tmp_path / "out")
    for file in (*page.parent.glob("*.html"), *(page.parent / "data").iterdir()):
        assert "alert(1)</script>" not in file.read_text(encoding="utf-8")
        assert "<!--" not in file.read_text(encoding="utf-8")
    assert data_of(page)["sites"] == ["layers.0", HOSTILE]
    latent = received(page.parent / "data" / "latents-0-1-0.js")[0]
    assert HOSTILE in latent["contexts"][0]["tokens"]


def test_embedded_json_is_the_value_without_marks_of_html():
    value = {"a": '</script><!-- &amp; "\u2028'}
    text = embedded_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028") & set(text)


def test_a_second_report_leaves_nothing_of_the_first(make_suite, tmp_path):
    out = tmp_path / "out"
    page = write_report([make_suite(k=16), make_suite(k=32)], out)
    assert "compare" in pages_of(page)
    (out / "data" / "notes.js").write_text("mine")
    (out / "groups.html").write_text("mine, too")
    write_report([make_suite(k=64, sites=("layers.0",))], out)
    names = sorted(file.name for file in (out / "data").iterdir())
    assert names == [
        "latents-0-0-0.js",
        "latents-0-0-index-0.js",
        "latents-0-0.js",
        "notes.js",
        "report.js",
        "training-0.js",
    ]
    assert pages_of(page) == {"index", "layers", "latents", "cost", "reproduce", "groups"}


def test_size_stays_sensible(make_suite, tmp_path):
    sites = [f"layers.{i}" for i in range(8)]
    page = write_report([make_suite(sites=sites, latents=64)], tmp_path / "out")
    files = [*page.parent.glob("*.html"), *(page.parent / "data").iterdir()]
    assert sum(file.stat().st_size for file in files) < 4 * 2**20


def _set(file: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    return lambda suite: edit(suite / file, change)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no suite": (lambda s: (s / "suite.json").unlink(), "holds no finished suite"),
    "truncated": (
        lambda s: (s / "suite.json").write_text('{"schema": 1,'),
        "suite.json is not valid JSON",
    ),
    "no object": (lambda s: (s / "results/splice.json").write_text("[]"), "must hold a JSON obj"),
    "not text": (lambda s: (s / "results/splice.json").write_bytes(b"\xff{}"), "not valid JSON"),
    "schema of the suite": (_set("suite.json", lambda d: d.update(schema=7)), "has schema 7"),
    "schema of a result": (
        _set("results/splice.json", lambda d: d.update(schema=None)),
        "splice.json has schema None",
    ),
    "type": (_set("results/splice.json", lambda d: d.update(sites=[1])), "'sites': input should"),
    "missing key": (_set("suite.json", lambda d: d.pop("model")), "'model' is missing"),
    "latents": (
        _set("results/latents.json", lambda d: d["series"]["layers.0"].update(latents=[{}])),
        "'series.layers.0.latents.0.latent' is missing",
    ),
    "lengths": (
        _set(
            "results/latents.json",
            lambda d: d["series"]["layers.0"]["latents"][0]["contexts"][0]["tokens"].pop(),
        ),
        "31 tokens and 32 activations",
    ),
    "peak": (
        _set(
            "results/latents.json",
            lambda d: d["series"]["layers.0"]["latents"][0]["contexts"][0].update(peak=32),
        ),
        "peak at 32",
    ),
    "log": (
        lambda s: (s / "metrics.jsonl").write_text('{"kind": "train"\n'),
        "metrics.jsonl, line 1 is not valid JSON",
    ),
    "line of the log": (
        lambda s: (s / "metrics.jsonl").write_text('{"kind": "train"}\n'),
        "line 1: 'step' is missing",
    ),
    "infinite": (
        lambda s: (s / "metrics.jsonl").write_text(
            '{"kind":"train","step":1,"tokens":1,"site":"a","fvu":Infinity}'
        ),
        "finite number",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_told_in_one_line(make_suite, tmp_path, case):
    suite = make_suite()
    spoil, message = BROKEN[case]
    spoil(suite)
    with pytest.raises(UserError) as error:
        write_report([suite], tmp_path / "out")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_bad_arguments(make_suite, tmp_path):
    suite = make_suite()
    with pytest.raises(UserError, match="no suite given"):
        write_report([], tmp_path / "out")
    with pytest.raises(UserError, match="named twice"):
        write_report([suite, suite / ".." / suite.name], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_report([suite], tmp_path / "file")
    with pytest.raises(UserError, match="could not write"):
        write_report([suite], tmp_path / "file" / "below")


def test_a_report_needs_no_torch():
    code = "import sys, saeworks.report.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
