"""A suite from anybody makes nothing be written elsewhere; no reader waits or fills the memory."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.editing import edit
from helpers.reports import text_of
from helpers.whole_suites import evaluated, write
from saeworks.cli.tables import print_table
from saeworks.dictionary.registry import ARCHS
from saeworks.errors import UserError, shown
from saeworks.files.access import own_folder, read_json, write_tensors
from saeworks.interop import load_foreign
from saeworks.lm.sites import _glob
from saeworks.report.build import write_report
from saeworks.report.suites import read_suites
from saeworks.results.result import Result
from saeworks.suite import find_suites, load_suite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "s")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    (folder / "data").mkdir(parents=True)
    for name in ("reconstruction.json", "index.html", "data/training-0.js"):
        (folder / name).write_text("precious")
    return folder


def untouched(victim: Path) -> bool:
    files = [file for file in victim.rglob("*") if file.is_file()]
    return len(files) == 3 and all(file.read_text() == "precious" for file in files)


def linked(place: Path, target: Path) -> None:
    if place.is_dir():
        place.rename(place.with_name("aside"))
    place.symlink_to(target, target_is_directory=True)


@pytest.mark.parametrize("there", [True, False], ids=["folder", "dangling"])
def test_results_are_not_written_through_a_link(
    path: Path, victim: Path, tmp_path: Path, there: bool
):
    target = victim if there else tmp_path / "made"
    linked(path / "results", target)
    with pytest.raises(UserError, match=r"results leads to .*: nothing is written there; remove"):
        evaluated(path, 0.5)
    linked(path / "report", target)
    with pytest.raises(UserError, match="report leads to"):
        own_folder(path, "report")
    assert untouched(victim) and not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["assets", "data"])
def test_a_report_is_not_written_through_a_link(
    path: Path, victim: Path, tmp_path: Path, name: str
):
    out = tmp_path / "out"
    out.mkdir()
    linked(out / name, victim / "data")
    with pytest.raises(UserError, match=f"{name} leads to"):
        write_report([path], out)
    assert untouched(victim)


def test_a_link_within_the_suite_is_followed(path: Path):
    (path / "results").rename(path / "kept")
    (path / "results").symlink_to("kept")
    evaluated(path, 0.5)
    assert Result.read(path / "results" / "reconstruction.json").documents == 6


def test_a_link_in_a_run_to_a_suite_elsewhere_is_named(path: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "a").symlink_to(path)
    with pytest.raises(UserError, match=r"run/a is a link to .*/s, outside .*; name that suite"):
        find_suites(run)


def hub(path: Path, tmp_path: Path) -> Path:
    """The suite as the Hugging Face cache holds it: every file a link to a blob."""
    repository = tmp_path / "hub" / "models--me--suite"
    snapshot = repository / "snapshots" / "abc" / "inner"
    (repository / "blobs").mkdir(parents=True)
    for at, file in enumerate(sorted(p for p in path.rglob("*") if p.is_file())):
        blob, link = repository / "blobs" / str(at), snapshot / file.relative_to(path)
        blob.write_bytes(file.read_bytes())
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_suite_in_the_hub_cache_is_read_and_its_results_are_real_files(
    path: Path, tmp_path: Path
):
    snapshot = hub(path, tmp_path)
    blobs = {b: b.read_bytes() for b in (snapshot.parents[2] / "blobs").iterdir()}
    assert load_suite(snapshot).bank().keys() == load_suite(path).bank().keys()
    assert read_suites([snapshot])[0].results.keys() == read_suites([path])[0].results.keys()
    evaluated(snapshot, 0.5)
    assert not (snapshot / "results" / "reconstruction.json").is_symlink()
    assert blobs == {b: b.read_bytes() for b in blobs}
    (snapshot / "metrics.jsonl").unlink()
    (snapshot / "metrics.jsonl").symlink_to(path / "metrics.jsonl")  # the right bytes, elsewhere
    with pytest.raises(UserError, match="leads outside the suite"):
        load_suite(snapshot)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", ["suite.json", "metrics.jsonl", "results/audit.json"])
def test_a_pipe_or_a_device_is_no_file(path: Path, name: str):
    for make in (os.mkfifo, lambda p: os.symlink("/dev/zero", p)):
        (path / name).unlink()
        make(path / name)
        for read in (load_suite, lambda p: read_suites([p])):
            if read is load_suite and name.startswith("results"):
                continue
            with pytest.raises(UserError):
                read(path)
        with pytest.raises(UserError, match="not a regular file"):
            read_json(path / name)


@pytest.mark.parametrize("arch", list(ARCHS))
def test_a_claimed_width_is_refused_before_it_has_memory(
    path: Path, arch: str, monkeypatch: pytest.MonkeyPatch
):
    config = path / "groups" / "layers.0" / "config.json"
    options = {"width": 2**31 - 1, "experts": 2} if arch == "switch" else {"width": 2**31 - 1}
    options |= {"k": 2} if arch in ("topk", "batchtopk", "matryoshka", "switch") else {}
    options |= {"width": 2**31 - 2} if arch == "switch" else {}
    edit(config, lambda data: data.update(arch=arch, options=options))

    def resealed(meta: dict[str, Any]) -> None:
        from saeworks.files.access import sha256

        meta["files"]["groups/layers.0/config.json"] = sha256(config)

    edit(path / "suite.json", resealed)
    with pytest.raises(UserError, match=r"weights do not fit config\.json|width"):
        load_suite(path).trained("layers.0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ' + "9" * 5000 + "}", "a whole number of 5000 digits"),
        ('{"a": 18446744073709551616}', "a whole number of 20 digits"),
        ('{"a": "\\ud800"}', "a lone surrogate"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a": "\xff"}', "not valid JSON"),
    ],
    ids=["digits", "2**64", "surrogate", "deep", "bytes"],
)
def test_json_that_no_file_of_ours_holds_is_one_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "f.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as error:
        read_json(tmp_path / "f.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "loop"])
def test_names_that_no_folder_can_have_are_one_line(tmp_path: Path, name: str):
    (tmp_path / "loop").symlink_to("loop")
    for read in (find_suites, load_suite, lambda p: read_suites([p])):
        with pytest.raises(UserError):
            read(tmp_path / name)


def test_stars_are_matched_at_once():
    assert not _glob("*a" * 2500 + "*b").fullmatch("a" * 5000)
    assert _glob("*" * 5000).fullmatch("layers") and not _glob("*" * 5000).fullmatch("layers.3")
    assert _glob("*.3.*lp").fullmatch("layers.3.mlp") and not _glob("*3").fullmatch("layers.3@in")


ESCAPES = "\x1b]0;PWN\x07\x1b[2J\u202e\ud800\n[red]x[/red]"


def test_what_a_terminal_would_obey_is_shown():
    assert shown("layers.3, é 漢 – 100%") == "layers.3, é 漢 – 100%"
    assert shown(ESCAPES) == "\\x1b]0;PWN\\x07\\x1b[2J\\u202e\\ud800\\n[red]x[/red]"
    assert str(UserError(ESCAPES)) == shown(ESCAPES)
    assert str(UserError(f"a: {UserError(ESCAPES)}")) == f"a: {shown(ESCAPES)}"


def test_no_table_obeys_what_is_in_a_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name, value in {"COLUMNS": "200", "FORCE_COLOR": "1", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    print_table([ESCAPES], [[ESCAPES + "\\"]])
    said = capsys.readouterr().out
    assert said.count("[red]x[/red]") == 2 and said.count("\\x1b]0;PWN") == 2
    assert "\x1b]" not in said and "\x1b[2J" not in said and "\x07" not in said


def test_a_suite_whose_names_are_escapes_is_shown_and_reported(tmp_path: Path, path: Path):
    edit(path / "suite.json", lambda meta: meta.update(variant="\x1b[2J<b>x</b>"))
    assert read_suites([path])[0].label == "\\x1b[2J<b>x</b>"
    page = text_of(write_report([path], tmp_path / "out"))
    assert "\x1b" not in page and "<b>x</b>" not in page


CHANGES: list[Callable[[dict[str, Any]], object]] = [
    lambda m: m["sites"]["layers.0"].update(group="../../x"),
    lambda m: m["sites"]["layers.0"].update(group="/etc"),
    lambda m: m["sites"]["layers.0"].update(d=2**63),
    lambda m: m["sites"]["layers.0"].update(d=True),
    lambda m: m.update(model=[]),
    lambda m: m["model"].update(fingerprint=3),
    lambda m: m.update(groups={"layers.0": {"sites": [["layers.0"]]}}),
    lambda m: m.update(arch=None),
    lambda m: m.update(files={"a": 1}),
    lambda m: m.update(error={"component": 1}),
    lambda m: m["files"].update({"a\0b": "0"}),
    lambda m: m["files"].update({"x" * 5000: "0"}),
]


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_types_in_suite_json_are_one_line(
    path: Path, change: Callable[[dict[str, Any]], object]
):
    edit(path / "suite.json", change)
    with pytest.raises(UserError) as error:
        load_suite(path).bank()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "audit.json",
            lambda data: data["sections"]["shrinkage"]["metrics"].pop("alpha"),
            r"audit\.json.*'sections\.shrinkage'.*'alpha', which its metrics do not describe",
        ),
        (
            "reconstruction.json",
            lambda data: data.update(metrics={}),
            r"reconstruction\.json.*'fvu', which its metrics do not describe",
        ),
        (
            "comparison.json",
            lambda data: data["metrics"].pop("delta_ce"),
            r"comparison\.json.*'delta_ce', which its metrics do not describe",
        ),
    ],
)
def test_values_that_nobody_describes_are_named(
    path: Path,
    tmp_path: Path,
    name: str,
    change: Callable[[dict[str, Any]], object],
    message: str,
):
    edit(path / "results" / name, change)
    with pytest.raises(UserError, match=message):
        write_report([path], tmp_path / "out")


def test_what_cannot_be_drawn_is_one_line(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unfit(suites: object) -> list[str]:
        raise KeyError("layers.9")

    monkeypatch.setattr("saeworks.report.summary.all_sites", unfit)
    with pytest.raises(UserError, match=r"cannot be drawn \(KeyError: 'layers\.9'\); run"):
        write_report([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def foreign(folder: Path, config: str = '{"d_in": 4, "num_latents": 8, "k": 2}') -> Path:
    """An SAE of sparsify."""
    shapes = {"encoder.weight": (8, 4), "encoder.bias": (8,), "W_dec": (8, 4), "b_dec": (4,)}
    folder.mkdir()
    write_tensors(
        folder / "sae.safetensors", {name: torch.zeros(shape) for name, shape in shapes.items()}
    )
    (folder / "cfg.json").write_text(config)
    return folder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"d_in": 4, "num_latents": 10000000, "k": 2}', r"make it \[10000000, 4\]"),
        ('{"d_in": 4, "k": 2, "num_latents": ' + "9" * 5000 + "}", "a whole number of 5000"),
        ('{"d_in": ' + "[" * 900 + "]" * 900 + "}", "too deep"),
        ('{"d_in": 4, "k": 2, "\\u001b[2J": 1}', r"unknown key '\\x1b\[2J'"),
    ],
    ids=["width", "digits", "deep", "escape"],
)
def test_a_foreign_config_that_claims_anything_is_one_line(
    tmp_path: Path, config: str, message: str
):
    with pytest.raises(UserError, match=message):
        load_foreign(foreign(tmp_path / "sae", config))


def test_a_foreign_file_that_claims_more_than_the_memory_is_one_line(tmp_path: Path):
    folder, size = foreign(tmp_path / "sae"), 4 * 10**12
    entry = {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, size]}
    header = json.dumps({"W_dec": entry}).encode()
    with (folder / "sae.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        try:
            file.truncate(8 + len(header) + size)  # a hole, which takes no room on the disk
        except OSError:
            pytest.skip("no such holes here")
    with pytest.raises(UserError, match="is not a readable safetensors file"):
        load_foreign(folder)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_foreign_name_that_no_folder_can_have_is_one_line(tmp_path: Path, name: str):
    with pytest.raises(UserError, match="no such folder"):
        load_foreign(tmp_path / name)
