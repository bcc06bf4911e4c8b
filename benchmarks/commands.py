"""What the commands on latents cost: seconds, processor seconds, memory, on a quick suite.

    saeworks train --preset quick --model embedded --text embedded --out runs/quick
    python benchmarks/commands.py runs/quick

Each command is a fresh process on a copy of the suite, with its defaults but for what is named;
`study` is timed until its page can be opened, and ended. What the commands find is kept beside.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from saeworks.cost.machine import Neighbours, processor
from saeworks.files.access import write_json

ROOT = Path(__file__).resolve().parent.parent
PLAIN = ["--no-splice", "--no-geometry", "--no-experts"]
COMMANDS: dict[str, list[str]] = {
    "eval, no latents": ["eval", "SUITE", "--latents", "0", *PLAIN],
    "eval, 64 latents a site": ["eval", "SUITE", "--latents", "64", *PLAIN],
    "eval, all latents": ["eval", "SUITE", *PLAIN],
    "latents, a sentence": ["latents", "SUITE", "--text", "When Mary and John went to the shop"],
    "latents, one of a site": ["latents", "SUITE", "--site", "layers.3", "--latent", "12"],
    "concepts": ["concepts", "SUITE"],
    "explain": ["explain", "SUITE"],
    "study, to the page": ["study", "SUITE", "--out", "STUDY"],
    "circuits, ioi": ["circuits", "SUITE", "--task", "ioi"],
    "circuits, all tasks": ["circuits", "SUITE"],
    "steer, with a task": ["steer", "SUITE", "--task", "ioi"],
    "export, neuronpedia": ["export", "SUITE", "--to", "neuronpedia", "--out", "NEURONPEDIA"],
    "report": ["report", "SUITE"],
}
FOUND = ("concepts", "explanations", "circuits_ioi", "circuits_greater_than", "circuits_agreement",
         "steer")  # fmt: skip
"""Results whose findings are kept."""


def measured(words: list[str], folder: Path) -> dict[str, Any]:
    """One command, its paths in `folder`."""
    paths = [str(folder / word.lower()) if word.isupper() else word for word in words]
    others, began = Neighbours(), perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "saeworks", *paths], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if words[0] == "study" and "http://127.0.0.1" in line:
            seconds = perf_counter() - began
            process.send_signal(signal.SIGINT)
            break
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if words[0] != "study":
        seconds = perf_counter() - began
        if process.returncode:
            raise SystemExit(f"{' '.join(paths)} ended with {process.returncode}")
    busy, used = others.busy_cores(), usage.ru_utime + usage.ru_stime
    wall = perf_counter() - began
    return {
        "command": "saeworks " + " ".join(words),
        "seconds": seconds,
        "processor_seconds": used,
        "peak_bytes": usage.ru_maxrss * 1024,
        # its own work is that of another process, too
        "others_busy_cores": None if busy is None else max(0.0, busy - used / wall),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/commands.json")
    given = parser.parse_args()
    taken: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(given.suite, folder / "suite", ignore=shutil.ignore_patterns("report"))
        results = folder / "suite" / "results"
        for title, words in COMMANDS.items():
            taken[title] = measured(words, folder)
            if words[0] == "eval":
                taken[title]["latents_bytes"] = _size(results / "latents.json")
            print(f"{taken[title]['seconds']:7.1f} s  {title}", flush=True)
        taken["report"]["bytes"] = _size(folder / "suite" / "report")
        findings = {
            result: json.loads((results / f"{result}.json").read_text())["findings"]
            for result in FOUND
        }
        meta = json.loads((folder / "suite" / "suite.json").read_text())
    write_json(
        given.out,
        {
            "benchmark": "python benchmarks/commands.py runs/quick",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "processor": processor(),
            "cores": os.cpu_count(),
            "suite": {"variant": meta["variant"], "sites": len(meta["sites"])},
            "commands": taken,
            "findings": findings,
        },
    )


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
