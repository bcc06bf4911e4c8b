"""Does AuxK revive latents in short runs? Dead shares over lengths, with and without, three seeds.

    python -m experiments.auxk [{all,collect,table}] [--tokens 300000 1000000 3000000]
        [--seeds 0 1 2]

Embedded model, layer 3, TopK and Switch (4 experts) of 2,048 latents at k 4, batches of 4,096. Each
run resumes if it was interrupted. Writes results/auxk.json and results/auxk.md. The study as it was
before AuxK compared the best multiple (commit 13e0178) wrote results/before.json, which the table
shows beside.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from experiments.runs import RUNS, Found, Given, read, saeworks, sets, site_values, study
from experiments.tables import table

HERE = Path(__file__).parent
SITE = "layers.3"
ARCHS = {
    "TopK": {"arch": "topk", "width": 2048, "k": 4},
    "Switch, 4 experts": {"arch": "switch", "width": 2048, "k": 4, "experts": 4},
}
AUX = {"without": 0.0, "with AuxK": 1 / 32}


def run(tokens: int, seed: int) -> dict[str, dict[str, float]]:
    """Train and evaluate all four SAEs of one length and seed: name → FVU and dead shares."""
    out = RUNS / "auxk" / f"{tokens}-{seed}"
    settings = {
        "sites": [SITE],
        "saes": [
            {**options, "aux_coefficient": aux}
            for options in ARCHS.values()
            for aux in AUX.values()
        ],
        "train.tokens": tokens,
        "train.batch": 4096,
        "train.eval_every": 0,
        "buffer.memory": "512MiB",
    }
    overrides = sets([f"{key}={json.dumps(value)}" for key, value in settings.items()])
    source = ("--model", "embedded", "--text", "embedded", "--seed", str(seed))
    saeworks("train", *source, "--out", out, *overrides)
    left_out = ("--no-splice", "--no-geometry", "--no-experts", "--latents", "0")
    saeworks("eval", out, "--tokens", "100000", *left_out)
    return dict(measured(path.parent, tokens) for path in sorted(out.glob("*/suite.json")))


def measured(suite: Path, tokens: int) -> tuple[str, dict[str, float]]:
    """The SAE's name, and what came out."""
    meta = read(suite / "suite.json")
    options = read(suite / f"groups/{SITE}/config.json")["options"]
    arch = next(name for name, sae in ARCHS.items() if sae["arch"] == meta["arch"])
    aux = next(name for name, value in AUX.items() if value == options["aux_coefficient"])
    values = site_values(suite)[SITE]
    lines = [json.loads(line) for line in (suite / "metrics.jsonl").open()]
    later = [line for line in lines if line["kind"] == "train" and 2 * line["tokens"] >= tokens]
    return f"{arch}, {aux}", {
        "fvu": values["fvu"]["value"],
        "dead_share": values["dead_share"]["value"],
        "dead_in_training_midway": later[0]["dead"],
    }


def collect(given: Given) -> Found:
    """Train what is missing."""
    runs = {
        str(tokens): {str(seed): run(tokens, seed) for seed in given.seeds}
        for tokens in given.tokens
    }
    return {"seeds": given.seeds, "runs": runs}


def markdown(found: Found, _: str) -> str:
    """A row per length and SAE, mean ± standard deviation over seeds."""
    head = ("tokens", "SAE", "dead", "FVU", "dead before", "FVU before")
    rows, before = [], read(HERE / "results/before.json")
    for tokens, by_seed in found["runs"].items():
        earlier = before["runs"].get(tokens)
        for name in next(iter(by_seed.values())):
            cells = [
                cell(runs, name, key) if runs else "–"
                for runs in (by_seed, earlier)
                for key in ("dead_share", "fvu")
            ]
            rows.append([f"{int(tokens):,}", name, *cells])
    lines = [
        "# AuxK in short runs",
        "",
        "Made by `python -m experiments.auxk`. Embedded model, layer 3, 2,048 latents, k 4, "
        "batches of 4,096. Dead: no firing on 100,000 held-out tokens. Mean and standard deviation "
        f"over seeds {', '.join(map(str, found['seeds']))}. *Before*: the loss of Gao et al. "
        "(2024) as published, and dead after a tenth of the run (commit 13e0178).",
        "",
        *table(head, rows),
    ]
    return "\n".join(lines) + "\n"


def cell(by_seed: dict[str, Any], name: str, key: str) -> str:
    """`12.3% ± 0.4%`, or the same of an FVU."""
    values = [saes[name][key] for saes in by_seed.values()]
    form = ".4f" if key == "fvu" else ".1%"
    return f"{fmean(values):{form}} ± {stdev(values) if len(values) > 1 else 0.0:{form}}"


def options(parser: argparse.ArgumentParser) -> None:
    lengths = [300_000, 1_000_000, 3_000_000]
    parser.add_argument("--tokens", type=int, nargs="+", default=lengths)


def main(arguments: Sequence[str] | None = None) -> None:
    study(
        *(__doc__, __file__, arguments),
        collect=collect,
        table=markdown,
        seeds=(0, 1, 2),
        options=options,
    )


if __name__ == "__main__":
    main()
