"""What Adam's moments in bf16 do to an SAE: held-out FVU of the same runs with both, by seed.

.venv/bin/python benchmarks/moments.py                 # the embedded model's activations
.venv/bin/python benchmarks/moments.py MODEL TEXT SITE
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from offset import BATCH, activations
from torch import Tensor

import saeworks as sw
from saeworks.cost.machine import processor
from saeworks.files.access import write_json

OUT = Path(__file__).parent / "results" / "moments.json"
SAES: dict[str, dict[str, Any]] = {
    "topk": {"arch": "topk", "width": 2048, "k": 16},
    "jumprelu": {"arch": "jumprelu", "width": 2048, "target_l0": 16},
}


def held_out(
    sae: dict[str, Any], x_ND: Tensor, documents: Tensor, seed: int, tokens: int, moments: str
) -> float:
    """FVU at the end, of documents that were not trained on."""
    with tempfile.TemporaryDirectory() as folder:
        suite = sw.train(
            *(x_ND, Path(folder) / "suite", sae),
            documents=documents,
            held_out=0.1,
            seed=seed,
            say=lambda line: None,
            tokens=tokens,
            batch=BATCH,
            moments=moments,
            eval_every=0,
            checkpoint_every=0,
        )
        rows, at = x_ND[suite.held_out], suite.at("x")
        with torch.no_grad():
            error = (rows - at(rows)).square().sum()
        return float(error / (rows - rows.mean(0)).square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("where", nargs="*", default=["embedded", "embedded", "layers.3"])
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    x_ND, documents = activations(*args.where)
    report: dict[str, Any] = {
        "where": args.where,
        "rows": len(x_ND),
        "tokens": args.tokens,
        "processor": processor(),
        "torch": torch.__version__,
    }
    for name, sae in SAES.items():
        runs = [(x_ND, documents, seed, args.tokens) for seed in range(args.seeds)]
        fvu = {m: [held_out(sae, *run, m) for run in runs] for m in ("float32", "bf16")}
        ratios = [low / full for low, full in zip(fvu["bf16"], fvu["float32"], strict=True)]
        report[name] = {
            "sae": sae,
            "fvu": fvu,
            "ratio": {"mean": mean(ratios), "of_each_seed": ratios},
            "spread_over_seeds": stdev(fvu["float32"]) / mean(fvu["float32"]),
        }
        print(name, json.dumps(report[name]), flush=True)
        write_json(OUT, report)


if __name__ == "__main__":
    main()
