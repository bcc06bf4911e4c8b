"""Trains the small suites of `test_results.py`, on the embedded model and text:

    python tests/golden/make_suites.py      # then: SAEWORKS_WRITE_GOLDEN=1 make golden

They are committed, so that golden results do not depend on how training rounds on a processor.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from saeworks.files.seals import SUITE, read_suite_json, write_sealed

SUITES = Path(__file__).with_name("suites")
SITES = ["layers.1", "layers.3"]
RUN: dict[str, Any] = {
    "sites": SITES,
    "text": {"max_documents": 600, "held_out": 0.2},
    "train": {"tokens": 40_000, "batch": 512, "log_every": 20, "eval_every": 40, "audit": True},
    "buffer": {"memory": "16MiB", "normaliser_tokens": 4000},
    "device": "cpu",
}
TOPK = {"arch": "topk", "k": 8}
SHARED = {"arch": "switch", "k": 8, "width": 64, "experts": 4, "groups": [{"groups": [SITES]}]}
RUNS: dict[str, dict[str, Any]] = {
    "main": {"saes": [{**TOPK, "width": [32, 64]}, SHARED]},
    "seed-1": {"saes": [{**TOPK, "width": 32}], "seed": 1},
    "error": {
        "saes": [{**TOPK, "width": 16}],
        "sites": SITES[:1],
        "train": {**RUN["train"], "audit": False},
    },
}


def train(name: str, out: Path, **changes: Any) -> None:
    """One run; its suites keep nothing of the machine and the moment they were trained on."""
    config = {**RUN, **RUNS[name], **changes}
    file = out / f"{name}.yaml"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "saeworks", "train", file.name, "--out", name]
    subprocess.run(command, cwd=out, check=True)
    for path in (out / name).rglob(SUITE):
        meta = {k: v for k, v in read_suite_json(path.parent).items() if k != "seal"}
        write_sealed(path, {**meta, "seconds": None, "versions": {}})


def main() -> None:
    shutil.rmtree(SUITES, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        train("main", out)
        train("seed-1", out)
        widest = sorted((out / "main").glob("topk*"))[-1]
        train("error", out, error={"suite": widest.relative_to(out).as_posix()})
        for suite in out.rglob(SUITE):
            kept = shutil.ignore_patterns("checkpoints", "*.lock", "run.json")
            target = SUITES / suite.parent.relative_to(out)
            shutil.copytree(suite.parent, target, ignore=kept)


if __name__ == "__main__":
    main()
