"""The learning rate of Switch SAEs by total width or by an expert's, judged by criteria.md.

    python experiments/learning_rate/run.py [--seeds 0 1 2]

Trains every rate of every N on the same batches, once per seed; each run resumes if it was
interrupted. Writes results/learning_rate.json and results/learning_rate.md.
"""

import argparse
import json
import subprocess
import sys
from math import sqrt
from pathlib import Path
from typing import Any

SITE, EXPERT, K, TOKENS, BATCH = "layers.3", 256, 16, 3_000_000, 4096
EXPERTS = (2, 4, 8, 16)
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
LAWS = ("M", "E")


def law(width: int) -> float:
    """The default learning rate of this run for a width."""
    steps = -(-TOKENS // BATCH)
    return 2e-4 / sqrt(width / 2**14) * min(8.0, max(1.0, sqrt(1e5 / steps)))


def rates(experts: int) -> dict[str, float]:
    """`law × multiple` → rate; laws M and E are one where there is one expert."""
    widths = {"E": EXPERT} | ({"M": EXPERT * experts} if experts > 1 else {})
    return {
        f"{name} × {multiple:g}": float(f"{multiple * law(width):.6g}")
        for name, width in widths.items()
        for multiple in MULTIPLES
    }


def saes() -> list[dict[str, Any]]:
    """The entries of `saes`, each rate once."""
    entries = [
        {"arch": "topk", "width": EXPERT, "k": K, "train": {"lr": rate}}
        for rate in sorted(set(rates(1).values()))
    ]
    for experts in EXPERTS:
        entries += [
            {"arch": "switch", "width": EXPERT * experts, "experts": experts, "k": K}
            | {"train": {"lr": rate}}
            for rate in sorted(set(rates(experts).values()))
        ]
    return entries


def run(seed: int, package: str) -> list[dict[str, Any]]:
    """Train and evaluate one seed: one record per SAE."""
    out = Path(f"runs/learning_rate/{seed}")
    out.parent.mkdir(parents=True, exist_ok=True)
    config = out.parent / "run.yaml"
    config.write_text(json.dumps({
        "model": {"name": "embedded"}, "text": {"source": "embedded"}, "sites": [SITE],
        "saes": saes(),
        "train": {"tokens": TOKENS, "batch": BATCH, "eval_every": 0, "checkpoint_every": 100},
    }))  # fmt: skip
    for command in (
        ["train", str(config), "--seed", str(seed), "--out", str(out)],
        ["eval", str(out), "--tokens", "100000", "--no-splice", "--no-geometry", "--no-experts",
         "--latents", "0"],
    ):  # fmt: skip
        subprocess.run([sys.executable, "-m", package, *command], check=True)
    records = []
    for path in sorted(out.glob("*/suite.json")):
        meta = json.loads(path.read_text())
        (group,) = meta["groups"]
        options = json.loads((path.parent / "groups" / group / "config.json").read_text())
        values = json.loads((path.parent / "results/reconstruction.json").read_text())["sites"]
        records.append({
            "variant": meta["variant"],
            "experts": options["options"].get("experts", 1),
            "lr": meta["train"]["lr"],
            "fvu": round(values[SITE]["fvu"]["value"], 6),
            "dead": round(values[SITE]["dead_share"]["value"], 5),
        })  # fmt: skip
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--package", default="saeworks")
    options = parser.parse_args()
    runs = {str(seed): run(seed, options.package) for seed in options.seeds}
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    record = {"command": "python experiments/learning_rate/run.py", "runs": runs}
    (results / "learning_rate.json").write_text(json.dumps(record, indent=1) + "\n")
