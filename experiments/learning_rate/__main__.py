"""The learning rate of Switch SAEs by total width or by an expert's, judged by criteria.md.

    python -m experiments.learning_rate [{all,collect,table}] [--seeds 0 1 2]

Trains every rate of every number of experts on the same batches, once per seed; each run resumes if
it was interrupted. Writes results/learning_rate.json and results/learning_rate.md.
"""

import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.criteria import NOT, REPRODUCED, Number, over_seeds
from experiments.runs import RUNS, mean_values, read, run_over_seeds, saeworks
from experiments.tables import table

HERE = Path(__file__).parent
SITE, EXPERT, K, TOKENS, BATCH = "layers.3", 256, 16, 3_000_000, 4096
EXPERTS = (2, 4, 8, 16)
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
NEAR = 0.02
"""A law is near the best rate where its FVU is at most so much above the lowest."""

Rates = dict[float, tuple[float, float]]
"""Learning rate → FVU and share of dead latents."""


def law(width: int) -> float:
    """2e-4/√(W/2¹⁴) · min(8, max(1, √(10⁵/steps))) for this run."""
    steps = -(-TOKENS // BATCH)
    return float(f"{2e-4 / sqrt(width / 2**14) * min(8.0, max(1.0, sqrt(1e5 / steps))):.6g}")


def rates(experts: int) -> list[float]:
    """The multiples of law M and of law E, each rate once."""
    laws = {law(EXPERT), law(EXPERT * experts)}
    return sorted({float(f"{multiple * rate:.6g}") for rate in laws for multiple in MULTIPLES})


def saes() -> list[dict[str, Any]]:
    """The entries of a run's `saes`; one expert stands for TopK."""
    entries: list[dict[str, Any]] = []
    for experts in (1, *EXPERTS):
        arch = {"arch": "topk"} if experts == 1 else {"arch": "switch", "experts": experts}
        entries += [
            arch | {"width": EXPERT * experts, "k": K, "train": {"lr": rate}}
            for rate in rates(experts)
        ]
    return entries


def run(seed: int) -> dict[str, dict[str, list[float]]]:
    """Train and evaluate one seed: experts → learning rate → FVU, share of dead latents."""
    out, config = RUNS / "learning_rate" / str(seed), RUNS / "learning_rate" / "run.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    train = {"tokens": TOKENS, "batch": BATCH, "eval_every": 0, "checkpoint_every": 100}
    config.write_text(json.dumps({
        "model": {"name": "embedded"}, "text": {"source": "embedded"}, "sites": [SITE],
        "saes": saes(), "train": train,
    }))  # fmt: skip
    saeworks("train", config, "--seed", str(seed), "--out", out)
    saeworks("eval", out, "--tokens", "100000", "--no-splice", "--no-geometry", "--no-experts",
             "--latents", "0")  # fmt: skip
    measured: dict[str, dict[str, list[float]]] = {}
    for path in sorted(out.glob("*/suite.json")):
        meta = read(path)
        options = read(path.parent / "groups" / next(iter(meta["groups"])) / "config.json")
        experts = str(options["options"].get("experts", 1))
        values = mean_values(path.parent, "fvu", "dead_share")
        numbers = [round(values["fvu"], 6), round(values["dead_share"], 5)]
        measured.setdefault(experts, {})[str(meta["train"]["lr"])] = numbers
    return measured


def of(runs: dict[str, Any], experts: int) -> list[Rates]:
    """What each seed measured with so many experts."""
    return [
        {float(rate): (fvu, dead) for rate, (fvu, dead) in seed[str(experts)].items()}
        for seed in runs.values()
    ]


def regret(seeds: list[Rates], rate: float) -> tuple[float, float]:
    """(FVU at a rate)/(FVU at the best) − 1, of means over seeds; and the best rate."""
    means = {lr: fmean(seed[lr][0] for seed in seeds) for lr in seeds[0]}
    best = min(means, key=means.__getitem__)
    return means[rate] / means[best] - 1, best


def gains(runs: dict[str, Any]) -> dict[int, Number]:
    """Experts → FVU(law E)/FVU(law M) − 1."""
    return {
        experts: over_seeds(
            [
                seed[law(EXPERT)][0] / seed[law(EXPERT * experts)][0] - 1
                for seed in of(runs, experts)
            ]
        )
        for experts in EXPERTS
    }


def markdown(runs: dict[str, Any]) -> str:
    """The verdicts, and a row per number of experts and rate."""
    gained = gains(runs)
    better = gained[2].low <= 0 and all(gained[n].high < 0 for n in EXPERTS if n > 2)
    regrets = {n: regret(of(runs, n), law(EXPERT)) for n in (1, *EXPERTS)}
    near = all(regrets[n][0] <= NEAR for n in EXPERTS)
    rows = [
        [
            f"{n}",
            f"{rate:.3g}",
            f"{rate / law(EXPERT):.3g}",
            f"{rate / law(EXPERT * n):.3g}",
            f"{over_seeds([seed[rate][0] for seed in of(runs, n)]):.4f}",
            f"{fmean(seed[rate][1] for seed in of(runs, n)):.1%}",
        ]
        for n in (1, *EXPERTS)
        for rate in rates(n)
    ]
    beside = [
        [
            "TopK" if n == 1 else f"{n}",
            f"{TOKENS / (EXPERT * n):,.0f}",
            "" if n == 1 else f"{gained[n]:+.1%}",
            f"{regrets[n][0]:+.1%}",
            f"{regret(of(runs, n), law(EXPERT * n))[0]:+.1%}",
            f"{regrets[n][1] / law(EXPERT):.3g}",
        ]
        for n in (1, *EXPERTS)
    ]
    lines = [
        "# The learning rate of a Switch SAE",
        "",
        f"Made by `python -m experiments.learning_rate`. Embedded model, {SITE}, k {K}, "
        f"{TOKENS / 1e6:.1f}M tokens in batches of {BATCH:,}, experts of {EXPERT} latents (one "
        f"expert: TopK), seeds {', '.join(runs)}; FVU on 100,000 held-out tokens, with Student's "
        "95% interval over seeds. Law M is the default rate by the total width, law E by an "
        "expert's. Judged by [criteria](../criteria.md) committed before.",
        "",
        f"1. Law E is better than law M as a default: **{REPRODUCED if better else NOT}**.",
        f"2. Law E is within {NEAR:.0%} of the best rate: **{REPRODUCED if near else NOT}**.",
        "",
        *table(
            ["experts", "tokens per latent", "FVU of law E against law M", "law E above the best",
             "law M above the best", "best rate / law E"],
            beside,
        ),
        "",
        *table(["experts", "rate", "× law E", "× law M", "FVU", "dead"], rows),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    run_over_seeds(__doc__, HERE / "results", run, markdown, arguments)


if __name__ == "__main__":
    main()
