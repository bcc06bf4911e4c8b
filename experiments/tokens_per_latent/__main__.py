"""Switch SAEs beside TopK at equal FLOPs where each latent has thousands of tokens: the pilot.

    python -m experiments.tokens_per_latent [{all,collect,table}] [--seeds 0 1 2]

Embedded model, layer 3, k 16, 10.0M tokens: TopK of 256 latents against Switch SAEs of 2, 4 and 8
experts of 256 latents each, and TopK as wide as the last. Each run resumes if it was interrupted.
Writes results/tokens_per_latent.json and results/tokens_per_latent.md.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.criteria import over_seeds
from experiments.runs import RUNS, mean_values, read, run_over_seeds, saeworks
from experiments.tables import table

HERE = Path(__file__).parent
BASE = "topk-w256-k16"
NAMES = {
    BASE: "TopK 256",
    "switch-w512-k16-experts2": "Switch 512, 2 experts",
    "switch-w1024-k16-experts4": "Switch 1024, 4 experts",
    "switch-w2048-k16-experts8": "Switch 2048, 8 experts",
    "topk-w2048-k16": "TopK 2048 (8 × the FLOPs)",
}


def run(seed: int) -> dict[str, dict[str, float]]:
    """Train and evaluate one seed: variant → what was measured."""
    out, yaml = RUNS / "tokens_per_latent" / str(seed), HERE / "tokens_per_latent.yaml"
    saeworks("train", yaml, "--seed", str(seed), "--out", out)
    saeworks("eval", out, "--no-geometry", "--latents", "0")
    return {
        variant: {"tokens": read(out / variant / "suite.json")["tokens"]}
        | mean_values(out / variant, "fvu", "dead_share", "l0", "delta_ce")
        for variant in NAMES
    }


def markdown(runs: dict[str, Any]) -> str:
    """A row per SAE; means over seeds, and Student's 95% interval of the FVU ratio."""
    head = ("SAE", "tokens per latent", "FVU", "ΔCE (nats)", "dead", "FVU against TopK 256")
    rows = []
    for variant, name in NAMES.items():
        seeds = [saes[variant] for saes in runs.values()]
        mean = {key: fmean(seed[key] for seed in seeds) for key in seeds[0]}
        width = int(variant.split("-w")[1].split("-")[0])
        ratio = over_seeds([s[variant]["fvu"] / s[BASE]["fvu"] - 1 for s in runs.values()])
        rows.append(
            [
                name,
                f"{mean['tokens'] / width:,.0f}",
                *(f"{mean[key]:.4f}" for key in ("fvu", "delta_ce")),
                f"{mean['dead_share']:.1%}",
                "" if variant == BASE else f"{ratio:+.1%}",
            ]
        )
    lines = [
        "# Switch SAEs at equal FLOPs, with enough tokens per latent",
        "",
        "Made by `python -m experiments.tokens_per_latent`. Embedded model, layer 3, k 16, 10.0M "
        f"tokens in batches of 4,096, seeds {', '.join(runs)}; held out: 200,000 tokens, ΔCE on "
        "50,000. *Against TopK 256*: mean of the seeds' FVU ratios − 1, Student's 95% interval "
        "over them.",
        "",
        *table(head, rows),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    run_over_seeds(__doc__, HERE / "results", run, markdown, arguments)


if __name__ == "__main__":
    main()
