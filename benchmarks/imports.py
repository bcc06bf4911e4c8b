"""How long `import saeworks` and `saeworks --help` take, beside SAELens's, interleaved.

    .venv/bin/python benchmarks/imports.py         # needs `make peers`

Each is a fresh process; a bare interpreter and `import torch` are measured in both environments.
"""

import argparse
import os
import statistics
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from trainers import ROOT, python_of

from saeworks.cost.machine import processor
from saeworks.files.access import write_json

OURS, THEIRS = "saeworks", "saelens"
CASES = {
    "saeworks: import saeworks": (OURS, ["-c", "import saeworks"]),
    "saelens: import sae_lens": (THEIRS, ["-c", "import sae_lens"]),
    "saeworks: saeworks --help": (OURS, ["-m", "saeworks", "--help"]),
    "saelens: llm_sae_training_runner --help": (
        THEIRS,
        ["-m", "sae_lens.llm_sae_training_runner", "--help"],
    ),
    "saeworks: import saeworks and build an SAE": (
        OURS,
        ["-c", "import saeworks; saeworks.build_sae('topk', 8, width=16, k=2)"],
    ),
    "saeworks: import torch": (OURS, ["-c", "import torch"]),
    "saelens: import torch": (THEIRS, ["-c", "import torch"]),
    "saeworks: bare interpreter": (OURS, ["-c", "pass"]),
}


def seconds(owner: str, arguments: list[str]) -> tuple[float, int]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    began = perf_counter()
    done = subprocess.run(
        [python_of(owner), *arguments], capture_output=True, check=False, env=environment
    )
    return perf_counter() - began, done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=results / "imports.json")
    args = parser.parse_args()
    taken: dict[str, list[float]] = {case: [] for case in CASES}
    codes: dict[str, int] = {}
    for number in range(args.rounds + 1):  # the first round fills the file cache
        for case, (owner, arguments) in CASES.items():
            once, codes[case] = seconds(owner, arguments)
            if number:
                taken[case].append(once)
    out = {
        case: {
            "seconds": {"median": statistics.median(t), "min": min(t), "max": max(t)},
            "exit_code": codes[case],
        }
        for case, t in taken.items()
    }
    write_json(
        args.out,
        {
            "command": f"python benchmarks/imports.py --rounds {args.rounds}",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "processor": processor(),
            "results": out,
        },
    )
    for case, result in out.items():
        print(f"{result['seconds']['median']:7.3f} s  {case}  (exit {result['exit_code']})")


if __name__ == "__main__":
    main()
