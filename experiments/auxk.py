"""Does AuxK revive latents in short runs? Dead shares over lengths, with and without, three seeds.

    python experiments/auxk.py [--tokens 300000 1000000 3000000] [--seeds 0 1 2]

Embedded model, layer 3, TopK and Switch (4 experts) of 2,048 latents at k 4, batches of 4,096. Each
run resumes if it was interrupted. Writes results/auxk.json and results/auxk.md. The same script,
run from a checkout of before AuxK compared the best multiple (13e0178) with
`--results auxk_before`, wrote results/auxk_before.json, which the table shows beside.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from shell import RESULTS, saeworks

ARCHS = {
    "TopK": {"arch": "topk", "width": 2048, "k": 4},
    "Switch, 4 experts": {"arch": "switch", "width": 2048, "k": 4, "experts": 4},
}
AUX = {"without": 0.0, "with AuxK": 1 / 32}


def run(tokens: int, seed: int, out: Path) -> dict[str, dict[str, float]]:
    """Train and evaluate all four SAEs of one length and seed: name → FVU and dead share."""
    saes = [
        {**options, "aux_coefficient": aux} for options in ARCHS.values() for aux in AUX.values()
    ]
    settings = {
        "sites": ["layers.3"],
        "saes": saes,
        "train.tokens": tokens,
        "train.batch": 4096,
        "train.eval_every": 0,
        "buffer.memory": "512MiB",
    }
    options = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    saeworks("train", "--model", "embedded", "--text", "embedded", "--out", str(out),
             "--seed", str(seed), *options)  # fmt: skip
    saeworks("eval", str(out), "--tokens", "100000", "--no-splice", "--no-geometry",
             "--no-experts", "--latents", "0")  # fmt: skip
    found = {}
    for suite in sorted(out.glob("*/suite.json")):
        meta = json.loads(suite.read_text())
        sae = json.loads((suite.parent / "groups/layers.3/config.json").read_text())
        arch = next(name for name, one in ARCHS.items() if one["arch"] == meta["arch"])
        aux = next(k for k, v in AUX.items() if v == sae["options"]["aux_coefficient"])
        result = json.loads((suite.parent / "results/reconstruction.json").read_text())
        values = result["sites"]["layers.3"]
        lines = [json.loads(line) for line in (suite.parent / "metrics.jsonl").open()]
        halfway = [one for one in lines if one["kind"] == "train" and 2 * one["tokens"] >= tokens]
        found[f"{arch}, {aux}"] = {
            "fvu": round(values["fvu"]["value"], 5),
            "dead_share": round(values["dead_share"]["value"], 4),
            "dead_in_training_midway": round(halfway[0]["dead"], 4),
        }
    return found


def table(found: dict[str, Any], before: dict[str, Any] | None) -> str:
    """Markdown: a row per length and SAE, mean ± standard deviation over seeds."""
    seeds = ", ".join(map(str, found["seeds"]))
    lines = [
        "# AuxK in short runs",
        "",
        "Made by `python experiments/auxk.py`. Embedded model, layer 3, 2,048 latents, k 4, "
        "batches of 4,096. Dead: no firing on 100,000 held-out tokens. Mean and standard deviation "
        f"over seeds {seeds}. *Before*: the loss of Gao et al. (2024) as published, and dead after "
        "a tenth of the run (commit 13e0178).",
        "",
        "| tokens | SAE | dead | FVU | dead before | FVU before |",
        "|---|---|---|---|---|---|",
    ]
    for tokens, by_seed in found["runs"].items():
        for name in next(iter(by_seed.values())):
            cells = [cell(by_seed, name, "dead_share"), cell(by_seed, name, "fvu")]
            old = (before or {"runs": {}})["runs"].get(tokens)
            cells += [cell(old, name, key) if old else "–" for key in ("dead_share", "fvu")]
            lines.append(f"| {int(tokens):,} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(by_seed: dict[str, Any], name: str, key: str) -> str:
    """`12.3% ± 0.4%`, or the same of an FVU."""
    values = [one[name][key] for one in by_seed.values()]
    spread = stdev(values) if len(values) > 1 else 0.0
    if key == "fvu":
        return f"{fmean(values):.4f} ± {spread:.4f}"
    return f"{fmean(values):.1%} ± {spread:.1%}"


def main() -> None:
    """Train what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[300_000, 1_000_000, 3_000_000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", default="auxk", help="name of the JSON in results/")
    asked = parser.parse_args()
    runs = {
        str(tokens): {
            str(seed): run(tokens, seed, Path(f"runs/{asked.results}/{tokens}-{seed}"))
            for seed in asked.seeds
        }
        for tokens in asked.tokens
    }
    found = {"command": "python experiments/auxk.py", "seeds": asked.seeds, "runs": runs}
    (RESULTS / f"{asked.results}.json").write_text(json.dumps(found, indent=1) + "\n")
    before = RESULTS / "auxk_before.json"
    if asked.results == "auxk":
        old = json.loads(before.read_text()) if before.exists() else None
        (RESULTS / "auxk.md").write_text(table(found, old))


if __name__ == "__main__":
    main()
