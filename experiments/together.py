"""Groups and experts together, against one TopK SAE per layer, judged by together_criteria.md.

    python experiments/together.py [--seeds 0 1 2]

Trains experiments/together.yaml once per seed, and one SAE per layer on two fifths of its vectors
beside it; each run resumes if it was interrupted. Writes results/together.json and
results/together.md.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from shell import over_seeds, saeworks

from saeworks.results.statistics import student

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
EVEN, PLANNED = "Switch 1024/4, two even groups", "Switch 1024/4, the plan's two groups"
LESS = [name for name, (part, _) in ARMS.items() if part == "fewer"]


def run(seed: int) -> dict[str, dict[str, float]]:
    """Train and evaluate one seed: arm → means over the five layers, and what it cost."""
    folders = {part: Path(f"runs/together/{part}-{seed}") for part in ("all", "fewer")}
    fewer = [
        f"--set=train.tokens={FEWER}",
        "--set=groups=[per-site]",
        "--set=saes=[{arch: topk, width: 256, k: 16}, "
        "{arch: switch, width: 1024, experts: 4, k: 16}]",
    ]
    for part, options in (("all", []), ("fewer", fewer)):
        yaml = str(HERE / "together.yaml")
        saeworks("train", yaml, "--seed", str(seed), "--out", str(folders[part]), *options)
        saeworks("eval", str(folders[part]), "--tokens", "100000", "--splice-tokens", "30000",
                 "--no-geometry", "--no-experts", "--latents", "0")  # fmt: skip
    return {name: measured(folders[part] / variant) for name, (part, variant) in ARMS.items()}


def measured(suite: Path) -> dict[str, float]:
    """Means over the layers, and the training's size."""
    meta = json.loads((suite / "suite.json").read_text())
    found: dict[str, float] = {}
    for name, keys in (("reconstruction", ("fvu", "dead_share")), ("splice", ("delta_ce",))):
        sites = json.loads((suite / "results" / f"{name}.json").read_text())["sites"]
        for key in keys:
            found[key] = round(fmean(values[key]["value"] for values in sites.values()), 5)
    found["vectors"] = meta["tokens"] * len(meta["groups"])
    found["flops"] = meta["cost"]["flops_saes"]
    return found


def against(runs: dict[str, Any], name: str, other: str, key: str) -> tuple[float, float, float]:
    """Relative difference of an arm from another: mean over seeds, and Student's interval."""
    mean, low, high = student([one[name][key] / one[other][key] - 1 for one in runs.values()])
    return mean, low if low is not None else mean, high if high is not None else mean


def verdicts(runs: dict[str, Any]) -> list[str]:
    """One line per criterion."""

    def below(name: str, key: str) -> bool:
        return against(runs, name, BASELINE, key)[2] < 0

    good = {name: below(name, "fvu") and below(name, "delta_ce") for name in (EVEN, PLANNED)}
    first = {2: "reproduced", 1: "in part", 0: "not reproduced"}[sum(good.values())]
    planned = against(runs, PLANNED, EVEN, "fvu")
    lines = [
        f"1. Groups of Switch SAEs beat one TopK SAE per layer: **{first}**.",
        f"2. The plan's groups are better than even ones: {shown(planned)}, "
        f"**{'reproduced' if planned[2] < 0 else 'not reproduced'}**.",
    ]
    for name in LESS:
        found = against(runs, name, EVEN, "fvu")
        word = "worse" if found[1] > 0 else "better" if found[2] < 0 else "no different"
        lines.append(f"3. {name}, against {EVEN}: FVU {shown(found)}, **{word}**.")
    return lines


def shown(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    return f"{mean:+.1%} [{low:+.1%}, {high:+.1%}]"


def table(runs: dict[str, Any]) -> str:
    """Markdown: the verdicts, and a row per arm."""
    lines = [
        "# Groups and experts together",
        "",
        "Made by `python experiments/together.py`. Embedded model, layers 0–4, k 16, 3.0M vectors "
        f"per SAE unless said otherwise, seeds {', '.join(runs)}; means over the five layers, on "
        "100,000 held-out tokens (ΔCE on 30,000, one layer spliced at a time). Differences are "
        "relative to the first row, with Student's 95% interval over seeds. Judged by "
        "[criteria](../together_criteria.md) committed before.",
        "",
        *verdicts(runs),
        "",
        "| SAEs | vectors, all SAEs | training FLOPs of the SAEs | FVU | ΔCE (nats) | "
        "FVU, difference | ΔCE, difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ARMS:
        mean = {key: fmean(one[name][key] for one in runs.values()) for key in runs["0"][name]}
        differences = [shown(against(runs, name, BASELINE, key)) for key in ("fvu", "delta_ce")]
        lines.append(
            f"| {name} | {mean['vectors'] / 1e6:.1f}M | {mean['flops']:.2g} | {mean['fvu']:.4f} | "
            f"{mean['delta_ce']:.4f} | "
            + " | ".join(["", ""] if name == BASELINE else differences)
            + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    over_seeds("together", __doc__.splitlines()[0], run, table)
