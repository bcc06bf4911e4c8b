"""What eval, audit, compare, plan and report write for small suites of the embedded model, compared
with what was stored. `make_suites.py` made the suites."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.stored import compare, without
from saeworks.embedded import documents

HERE = Path(__file__).parent
STUDIES = (
    "reconstruction",
    "splice",
    "latents",
    "geometry",
    "experts",
    "consistency",
    "dedup",
    "audit",
    "comparison",
)
# Of the moment, the machine and the version; of files as they lie on disk (seals, digests).
LEFT_OUT = frozenset({"seal", "seconds", "versions", "fingerprint", "digest", "held_out"})

EVAL = """eval main seed-1 --tokens 3000 --splice-tokens 1500 --latents 1 --overlap-tokens 256
    --blocks 4 --consistency --dedup 0.3 --bootstrap 40 --device cpu"""
AUDIT = """audit main --error-saes error --tokens 3000 --bootstrap 40 --pursuit 256 --mlp 512
    --wide 512 --codes 512 --zeroing 256 --downstream 400 --device cpu"""
COMPARE = """compare main --baseline main/topk-w32-k8 seed-1 --tokens 1500 --bootstrap 40
    --device cpu"""
PLAN = "plan --model embedded --text text.txt --out plan --tokens 2000 --device cpu"
REPORT = "report main seed-1 --out report"

Written = Mapping[str, Any]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """File → its data, of everything that the commands write, one after the other."""
    folder = tmp_path_factory.mktemp("golden") / "suites"
    shutil.copytree(HERE / "suites", folder)
    texts = (document.text for document in documents(0, count=60))
    (folder / "text.txt").write_text("\n<|endoftext|>\n".join(texts))
    commands = (EVAL, AUDIT, COMPARE, PLAN, REPORT)
    # from within the folder, so that the paths in the files are relative
    driver = [sys.executable, str(HERE / "golden_driver.py"), *commands]
    done = subprocess.run(driver, check=False, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {**_results(folder), **_pages(folder)}
    return {name: without(found[name], LEFT_OUT) for name in sorted(found)}


def _results(folder: Path) -> dict[str, Any]:
    paths = [*folder.rglob("results/*.json"), folder / "plan" / "plan.json"]
    return {path.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in paths}


def _pages(folder: Path) -> dict[str, Any]:
    """The data of the report's and the plan's page, and of the files that the report loads."""
    found = {}
    for path in (*(folder / "report").glob("*.html"), folder / "plan" / "index.html"):
        embedded = re.search(r'<script [^>]*id="data">(.*?)</script>', path.read_text(), re.DOTALL)
        assert embedded is not None
        found[path.relative_to(folder).as_posix()] = json.loads(embedded[1])
    for path in (folder / "report" / "data").glob("*.js"):
        call = re.fullmatch(r'[\w.]+\("[\w-]+",(.*)\);\n', path.read_text(), re.DOTALL)
        assert call is not None, path.name
        found[path.relative_to(folder).as_posix()] = json.loads(call[1])
    return found


@pytest.mark.parametrize("study", STUDIES)
def test_results_are_the_stored_ones(study: str, written: Written) -> None:
    now = {name: data for name, data in written.items() if name.endswith(f"/results/{study}.json")}
    compare(now, HERE / "results" / f"{study}.json")


def test_every_result_is_compared(written: Written) -> None:
    names = {Path(name).stem for name in written if "/results/" in name}
    assert names == set(STUDIES)


@pytest.mark.parametrize("page", ["plan", "report"])
def test_pages_are_the_stored_ones(page: str, written: Written) -> None:
    """Their data; the plan itself is in its folder."""
    now = {name: data for name, data in written.items() if name.startswith(f"{page}/")}
    compare(now, HERE / "results" / f"{page}.json")
