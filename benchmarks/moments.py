"""What Adam's moments in bfloat16 cost: the FVU of the same runs with both, over several seeds.

python benchmarks/moments.py          # the embedded model, some minutes a seed on one core
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from saeworks.files.access import write_json  # noqa: E402

KINDS = ("float32", "bf16")


def held_out(moments: str, seed: int, tokens: int) -> dict[str, float]:
    """FVU by site at the end of a run."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "train.moments": moments,
            "train.tokens": tokens,
            "train.eval_tokens": 32768,
            "seed": seed,
        }
        sets = [f"--set={key}={value}" for key, value in settings.items()]
        command = [sys.executable, "-m", "saeworks", "train", "--preset", "quick", *sets]
        subprocess.run([*command, "--out", f"{folder}/run"], check=True, stdout=subprocess.DEVNULL)
        (log,) = Path(folder).rglob("metrics.jsonl")
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {line["site"]: line["fvu"] for line in lines if line["kind"] == "held_out"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=results / "moments.json")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "command": f"python benchmarks/moments.py --tokens {args.tokens} --seeds {args.seeds}",
        "seeds": [],
    }
    for seed in range(args.seeds):
        fvu = {kind: held_out(kind, seed, args.tokens) for kind in KINDS}
        ratio = mean(fvu["bf16"][site] / fvu["float32"][site] for site in fvu["float32"])
        report["seeds"].append({"seed": seed, "fvu": fvu, "mean_ratio": ratio})
        write_json(args.out, report)
        print(json.dumps(report["seeds"][-1]))


if __name__ == "__main__":
    main()
