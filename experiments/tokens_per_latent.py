"""Switch SAEs beside TopK at equal FLOPs where each latent has thousands of tokens: the pilot.

    python experiments/tokens_per_latent.py [--seeds 0 1 2]

Embedded model, layer 3, k 16, 10.0M tokens: TopK of 256 latents against Switch SAEs of 2, 4 and 8
experts of 256 latents each, and TopK as wide as the last. Each run resumes if it was interrupted.
Writes results/tokens_per_latent.json and results/tokens_per_latent.md.
"""

import json
from pathlib import Path
from typing import Any

from shell import over_seeds, saeworks

from saeworks.results.statistics import student

SITE, BASE = "layers.3", "topk-w256-k16"
NAMES = {
    BASE: "TopK 256",
    "switch-w512-k16-experts2": "Switch 512, 2 experts",
    "switch-w1024-k16-experts4": "Switch 1024, 4 experts",
    "switch-w2048-k16-experts8": "Switch 2048, 8 experts",
    "topk-w2048-k16": "TopK 2048 (8 × the FLOPs)",
}


def run(seed: int) -> dict[str, dict[str, float]]:
    """Train and evaluate one seed: variant → what was measured."""
    out = Path(f"runs/tokens_per_latent/{seed}")
    saeworks("train", "experiments/tokens_per_latent.yaml", "--seed", str(seed), "--out", str(out))
    saeworks("eval", str(out), "--no-geometry", "--latents", "0")
    found = {}
    for variant in NAMES:
        meta = json.loads((out / variant / "suite.json").read_text())
        values = {"tokens": meta["tokens"]}
        for name in ("reconstruction", "splice"):
            result = json.loads((out / variant / f"results/{name}.json").read_text())
            for key in ("fvu", "dead_share", "l0", "delta_ce"):
                if key in result["sites"][SITE]:
                    values[key] = round(result["sites"][SITE][key]["value"], 5)
        found[variant] = values
    return found


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per SAE; means over seeds, and Student's 95% interval of the FVU ratio."""
    lines = [
        "# Switch SAEs at equal FLOPs, with enough tokens per latent",
        "",
        "Made by `python experiments/tokens_per_latent.py`. Embedded model, layer 3, k 16, 10.0M "
        f"tokens in batches of 4,096, seeds {', '.join(runs)}; held out: 200,000 tokens, ΔCE on "
        "50,000. *Against TopK 256*: mean of the seeds' FVU ratios − 1, Student's 95% interval "
        "over them.",
        "",
        "| SAE | tokens per latent | FVU | ΔCE (nats) | dead | FVU against TopK 256 |",
        "|---|---|---|---|---|---|",
    ]
    for variant, name in NAMES.items():
        by_seed = [one[variant] for one in runs.values()]
        mean = {key: student([one[key] for one in by_seed])[0] for key in by_seed[0]}
        width = int(variant.split("-w")[1].split("-")[0])
        ratio = [one[variant]["fvu"] / one[BASE]["fvu"] - 1 for one in runs.values()]
        against = "" if variant == BASE else _interval(*student(ratio))
        lines.append(
            f"| {name} | {mean['tokens'] / width:,.0f} | {mean['fvu']:.4f} | "
            f"{mean['delta_ce']:.4f} | {mean['dead_share']:.1%} | {against} |"
        )
    return "\n".join(lines) + "\n"


def _interval(mean: float, low: float | None, high: float | None) -> str:
    return f"{mean:+.1%}" + (f" [{low:+.1%}, {high:+.1%}]" if low is not None else "")


if __name__ == "__main__":
    over_seeds("tokens_per_latent", __doc__.splitlines()[0], run, table)
