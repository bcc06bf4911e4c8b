"""What every experiment does by the command line."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def saeworks(*arguments: str) -> None:
    """Run a command of the package; stop with its exit code if it fails."""
    print("$ saeworks", *arguments, flush=True)
    code = subprocess.run([sys.executable, "-m", "saeworks", *arguments], check=False).returncode
    if code:
        sys.exit(code)


def over_seeds(
    name: str, about: str, run: Callable[[int], Any], table: Callable[[dict[str, Any]], str]
) -> None:
    """What `python experiments/NAME.py [--seeds 0 1 2]` does: run what is missing of every seed,
    then write results/NAME.json and, as `table` makes it of all the runs, results/NAME.md."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runs = {str(seed): run(seed) for seed in parser.parse_args().seeds}
    found = {"command": f"python experiments/{name}.py", "runs": runs}
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(table(runs))
