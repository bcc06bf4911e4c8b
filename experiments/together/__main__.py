"""Groups and experts together, against one TopK SAE per layer, judged by criteria.md.

    python -m experiments.together [{all,collect,table}] [--seeds 0 1 2]

Trains together.yaml once per seed, and one SAE per layer on two fifths of its vectors
beside it; each run resumes if it was interrupted. Writes results/together.json and
results/together.md.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.criteria import Number, mark, over_seeds, side
from experiments.runs import RUNS, mean_values, read, run_over_seeds, saeworks, sets
from experiments.tables import table

HERE = Path(__file__).parent
FEWER = 1_200_000
TOPK, SWITCH, WIDE = "topk-w256-k16", "switch-w1024-k16-experts4", "topk-w1024-k16"
ARMS = {
    "TopK 256 per layer": ("all", TOPK),
    "TopK 256, two even groups": ("all", f"{TOPK}-g2-even"),
    "TopK 256, the plan's two groups": ("all", f"{TOPK}-g2-complete"),
    "Switch 1024/4, two even groups": ("all", f"{SWITCH}-g2-even"),
    "Switch 1024/4, the plan's two groups": ("all", f"{SWITCH}-g2-complete"),
    "Switch 1024/4 per layer": ("all", SWITCH),
    "TopK 1024 per layer": ("all", WIDE),
    "TopK 256 per layer, 1.2M vectors each": ("fewer", TOPK),
    "Switch 1024/4 per layer, 1.2M vectors each": ("fewer", SWITCH),
}
BASELINE = "TopK 256 per layer"
WIDTH = 128
"""D of the embedded model."""
EVEN, PLANNED = "Switch 1024/4, two even groups", "Switch 1024/4, the plan's two groups"
LESS = [name for name, (part, _) in ARMS.items() if part == "fewer"]


def run(seed: int) -> dict[str, dict[str, float]]:
    """Train and evaluate one seed: arm → means over the five layers, and what it cost."""
    folders = {part: RUNS / "together" / f"{part}-{seed}" for part in ("all", "fewer")}
    saes = "{arch: topk, width: 256, k: 16}, {arch: switch, width: 1024, experts: 4, k: 16}"
    fewer = [f"train.tokens={FEWER}", "groups=[per-site]", f"saes=[{saes}]"]
    held_out = ("--tokens", "100000", "--splice-tokens", "30000")
    for part, overrides in (("all", []), ("fewer", fewer)):
        out = folders[part]
        saeworks(
            "train", HERE / "together.yaml", "--seed", str(seed), "--out", out, *sets(overrides)
        )
        saeworks("eval", out, *held_out, "--no-geometry", "--no-experts", "--latents", "0")
    return {name: measured(folders[part] / variant) for name, (part, variant) in ARMS.items()}


def measured(suite: Path) -> dict[str, float]:
    """Means over the layers, and the training's size."""
    meta = read(suite / "suite.json")
    size = {"vectors": meta["tokens"] * len(meta["groups"]), "flops": meta["cost"]["flops_saes"]}
    return mean_values(suite, "fvu", "dead_share", "delta_ce") | size


def against(runs: dict[str, Any], name: str, other: str, key: str = "fvu") -> Number:
    """Relative difference of an arm from another, over seeds."""
    return over_seeds([arms[name][key] / arms[other][key] - 1 for arms in runs.values()])


def parameters(arm: str) -> float:
    """Millions, of all SAEs of an arm: w_enc and w_dec, b_dec, and TopK's b_enc or the router."""
    latents, saes = 1024 if "1024" in arm else 256, 2 if "groups" in arm else 5
    rest = 4 * WIDTH + WIDTH if "Switch" in arm else latents
    return saes * (2 * latents * WIDTH + WIDTH + rest) / 1e6


def buys(runs: dict[str, Any]) -> list[str]:
    """What groups are worth at equal vectors, said first where it is nothing."""
    n = against(runs, LESS[1], EVEN)
    if n.high >= 0:
        return []
    return [
        f"**Groups buy nothing here**: one Switch SAE per layer, on as many vectors in all, is "
        f"better than two grouped ones (FVU {n:+.1%}), with {parameters(LESS[1]):.2f}M parameters "
        f"in place of {parameters(EVEN):.2f}M. What beats the baseline is the experts.",
        "",
    ]


def verdicts(runs: dict[str, Any]) -> list[str]:
    """One line per criterion, and one per arm of the third."""
    better = [
        all(against(runs, name, BASELINE, key).high < 0 for key in ("fvu", "delta_ce"))
        for name in (EVEN, PLANNED)
    ]
    planned = against(runs, PLANNED, EVEN)
    lines = [
        "1. Groups of Switch SAEs beat one TopK SAE per layer: "
        f"**{mark(better, partly=any(better))}**.",
        f"2. The plan's groups are better than even ones: {planned:+.1%}, "
        f"**{mark([planned.high < 0])}**.",
    ]
    for name in LESS:
        n = against(runs, name, EVEN)
        word = side(n, "worse", "better", "no different")
        lines.append(f"3. {name}, against {EVEN}: FVU {n:+.1%}, **{word}**.")
    return lines


def markdown(runs: dict[str, Any]) -> str:
    """The verdicts, and a row per arm."""
    head = (
        "SAEs", "parameters", "vectors, all SAEs", "training FLOPs of the SAEs", "FVU",
        "ΔCE (nats)",
    )  # fmt: skip
    rows = []
    for name in ARMS:
        seeds = [arms[name] for arms in runs.values()]
        mean = {key: fmean(seed[key] for seed in seeds) for key in seeds[0]}
        differences = [
            "" if name == BASELINE else f"{against(runs, name, BASELINE, key):+.1%}"
            for key in ("fvu", "delta_ce")
        ]
        size = [f"{parameters(name):.2f}M", f"{mean['vectors'] / 1e6:.1f}M", f"{mean['flops']:.2g}"]
        rows.append([name, *size, f"{mean['fvu']:.4f}", f"{mean['delta_ce']:.4f}", *differences])
    lines = [
        "# Groups and experts together",
        "",
        "Made by `python -m experiments.together`. Embedded model, layers 0–4, k 16, 3.0M vectors "
        f"per SAE unless said otherwise, seeds {', '.join(runs)}; means over the five layers, on "
        "100,000 held-out tokens (ΔCE on 30,000, one layer spliced at a time). Differences are "
        "relative to the first row, with Student's 95% interval over seeds. Judged by "
        "[criteria](../criteria.md) committed before.",
        "",
        *buys(runs),
        *verdicts(runs),
        "",
        *table([*head, "FVU, difference", "ΔCE, difference"], rows),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    run_over_seeds(__doc__, HERE / "results", run, markdown, arguments)


if __name__ == "__main__":
    main()
