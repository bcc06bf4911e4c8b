"""Every study's modules import, in no circle, and its tables come out of the committed JSON."""

import ast
import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "experiments"
NAMES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(HERE.rglob("*.py"))
}
TABLES = {
    "audit_truth": [""],
    "auxk": [""],
    "concepts_in_experts": [""],
    "darkmatter": ["embedded", "real"],
    "frontier": ["embedded", "real"],
    "groups": ["embedded", "real"],
    "intervals.coverage": [""],
    "plans": [""],
    "switch": [""],
    "together": [""],
    "tokens_per_latent": [""],
    "topk": [""],
}
"""Study → its settings."""


def imported(path: Path) -> Iterator[str]:
    """The modules of the studies that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_imports(name: str) -> None:
    if "matplotlib" in NAMES[name].read_text():
        pytest.importorskip("matplotlib")
    importlib.import_module(name)


def test_no_two_modules_import_each_other() -> None:
    below = {name: set(imported(path)) for name, path in NAMES.items()}
    assert below["experiments.runs"] == set(), "runs.py is a leaf"
    done: set[str] = set()
    while len(done) < len(below):
        ready = {name for name, others in below.items() if others <= done} - done
        assert ready, f"a circle among {sorted(set(below) - done)}"
        done |= ready


def test_a_study_imports_no_other() -> None:
    for name, path in NAMES.items():
        study = name.split(".")[1]
        others = {other for other in imported(path) if len(other.split(".")) > 2}
        assert all(other.split(".")[1] == study for other in others), (name, others)


@pytest.mark.parametrize(
    ("study", "setting"), [(study, setting) for study, all_ in TABLES.items() for setting in all_]
)
@pytest.mark.parametrize("step", ["table", "figures"])
def test_results_come_out_of_their_json(
    study: str, setting: str, step: str, tmp_path: Path
) -> None:
    path = HERE / study.partition(".")[0]
    if step == "figures":
        pytest.importorskip("matplotlib")
        if not list((path / "results").glob("*.svg")):
            pytest.skip("it has none")
    for file in (path / "results").glob("*.json"):
        shutil.copy(file, tmp_path)
    module = study if "." in study else f"{study}.__main__"
    main = importlib.import_module(f"experiments.{module}").main
    main([*([setting] if setting else []), step, "--results", str(tmp_path)])
    written = [file for file in tmp_path.iterdir() if file.suffix in (".md", ".svg")]
    assert written
    for file in written:
        assert file.read_text() == (path / "results" / file.name).read_text(), file.name
