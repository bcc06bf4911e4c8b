"""Stopped once, twice or three times, a run of any source ends with the bytes of one that was not.

Each part of a run is a process of its own; the whole run is in another interpreter than the parts.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.fakes import weights
from saeworks import embedded

DRIVER = Path(__file__).with_name("resume_driver.py")
STEPS, DOCUMENTS = 30, 50  # somewhat more than an epoch

RUN: dict[str, Any] = {
    "text": {"context": 16, "held_out": 0.2},
    "sites": ["layers.1"],
    "saes": [{"arch": "topk", "width": 32, "k": 4}],
    "buffer": {"memory": "100KiB", "lm_batch": 64, "normaliser_tokens": 200},
    "train": {
        "tokens": 64 * STEPS,
        "batch": 64,
        "log_every": 5,
        "eval_every": 10,
        "eval_tokens": 64,
        "checkpoint_every": 5,
    },
}


class Runs:
    """Training processes of one interpreter, one after the other."""

    def __init__(self, driver: "subprocess.Popen[str]") -> None:
        self.driver = driver

    def line(self) -> str:
        assert self.driver.stdout is not None
        return self.driver.stdout.readline().strip()

    def run(self, out: Path, what: dict[str, Any], stop: tuple[int, int] | None) -> int:
        """→ the exit status."""
        assert self.driver.stdin is not None
        self.driver.stdin.write(json.dumps({**what, "out": str(out), "stop": stop}) + "\n")
        self.driver.stdin.flush()
        return int(self.line())


@pytest.fixture(scope="module")
def interpreters() -> Iterator[list[Runs]]:
    command = [sys.executable, str(DRIVER)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as other:
        found = [Runs(one), Runs(other)]
        assert [runs.line() for runs in found] == ["ready", "ready"]
        yield found


def texts() -> list[str]:
    return [document.text for document in islice(embedded.documents(0), DOCUMENTS)]


def write(kind: str, folder: Path) -> str:
    """A source of a kind with the same texts; → its path."""
    path, some = folder / f"a.{kind}", texts()
    if kind == "txt":
        path.write_text("\n<|endoftext|>\n".join(some))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
    elif kind == "parquet":
        pq.write_table(pa.table({"text": some}), path, row_group_size=13)
    elif kind == "folder":
        path.mkdir()
        for number, text in enumerate(some):
            (path / f"{number:03d}.txt").write_text(text)
    elif kind == "dataset":
        datasets.Dataset.from_dict({"text": some, "other": some}).save_to_disk(path, num_shards=3)
    elif kind == "hub":  # read by `datasets` as one from the Hub is, because of the card
        path.mkdir()
        pq.write_table(pa.table({"text": some}), path / "a.parquet", row_group_size=13)
        (path / "README.md").write_text("---\nconfigs:\n- config_name: x\n  data_files: '*'\n---\n")
    return str(path)


SOURCES = ["embedded", "txt", "jsonl", "parquet", "folder", "dataset", "hub"]
STREAMED = [f"streamed {kind}" for kind in SOURCES[1:]]
OTHERS = ["error", "groups", "cached"]


def wanted(kind: str, folder: Path, runs: Runs) -> dict[str, Any]:
    """What a driver is told to train on."""
    streamed = kind.startswith("streamed")
    text = {**RUN["text"], "streaming": streamed, "max_documents": None if streamed else DOCUMENTS}
    if kind not in ("embedded", "error", "groups", "cached"):
        text["source"] = write(kind.rsplit(maxsplit=1)[-1], folder)
    config = {**RUN, "text": text}
    if kind == "error":
        assert runs.run(folder / "suite", {"config": config}, None) == 0
        config["error"] = {"suite": str(folder / "suite"), "component": "u", "tokens": 500}
    if kind == "cached":
        assert runs.run(folder / "cache", {"config": config, "only": "cache"}, None) == 0
        config["source"] = {"cache": str(folder / "cache")}
    if kind == "groups":
        config |= {"sites": ["layers.1", "layers.2"], "groups": [{"method": "even", "groups": 1}]}
        config["buffer"] = {**RUN["buffer"], "normaliser": "learnable"}
    return {"config": config}


def bytes_of(out: Path) -> dict[str, bytes]:
    """Weights and normalisers of a run, and what it logged but for the seconds."""
    found = weights(out)
    for file in out.rglob("normalisers.safetensors"):
        found[str(file.relative_to(out))] = file.read_bytes()
    for file in out.rglob("metrics.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        losses = [[row["kind"], row["step"], row.get("loss"), row.get("fvu")] for row in rows]
        found[str(file.relative_to(out))] = json.dumps(losses).encode()
    return found


@pytest.mark.parametrize("kind", [*SOURCES, *STREAMED, *OTHERS])
def test_stopped_runs_end_with_the_same_bytes(
    kind: str, interpreters: list[Runs], tmp_path: Path
) -> None:
    whole, parts = interpreters
    what = wanted(kind, tmp_path, whole)
    assert whole.run(tmp_path / "whole", what, None) == 0
    expected = bytes_of(tmp_path / "whole")
    places = random.Random(kind)
    for number, step in enumerate(sorted(places.sample(range(2, STEPS), 3))):
        how = places.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
        status = parts.run(tmp_path / "run", what, (step, how))
        assert status == (-how if how == signal.SIGKILL else 130)
        ended = tmp_path / f"stopped-{number + 1}"
        shutil.copytree(tmp_path / "run", ended)
        assert parts.run(ended, what, None) == 0
        assert bytes_of(ended) == expected, f"{number + 1} stops, the last after step {step}"
