"""One SAE per layer, every number of groups, and what groups must be compared with.

    python experiments/groups.py {embedded,real} [{all,train,evaluate,time,table}] [--seeds 0 1 2]

Trains experiments/groups_<setting>.yaml once per seed into runs/groups_<setting>/seed-<i>, and one
SAE per layer on a share of its tokens beside it; evaluates every suite and compares it with the
baseline of its seed; applies each layer's SAE to every other layer; times one pass for the groups
against one pass for all layers. Writes results/groups_<setting>.{json,md,svg}; what counts as
reproduced stands in groups_criteria.md. What is done already is not done again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saeforge.config import read_yaml
from saeforge.eval.compare import CompareConfig, Comparison, compare
from saeforge.eval.over_seeds import over_seeds
from saeforge.groups.plan import Plan
from saeforge.suite import find_suites

HERE = Path(__file__).parent
RUNS = Path("runs")
SEEDS = {"embedded": (0, 1, 2), "real": (0,)}
EVALUATION = {"embedded": ("100000", "30000"), "real": ("100000", "20000")}
"""Held-out tokens of reconstruction and of splice."""
TIMED_TOKENS, ROUNDS = 400_000, 3
BASELINE = "topk-x4-k32"


def main() -> None:
    """Run the step named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setting", choices=SEEDS)
    parser.add_argument("step", nargs="?", default="all", choices=["all", *STEPS])
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = parser.parse_args()
    given.seeds = given.seeds or SEEDS[given.setting]
    for name, step in STEPS.items():
        if given.step in ("all", name):
            step(given)


def saeforge(*arguments: str) -> None:
    """Run a command of the package; stop with its exit code if it fails."""
    print("$ saeforge", *arguments, flush=True)
    code = subprocess.run([sys.executable, "-m", "saeforge", *arguments], check=False).returncode
    if code:
        sys.exit(code)


def config(setting: str) -> Path:
    return HERE / f"groups_{setting}.yaml"


def plan_of(setting: str) -> Plan:
    return Plan.read(plan_path(setting))


def plan_path(setting: str) -> Path:
    specs = read_yaml(config(setting))["groups"]
    return next(Path(spec["plan"]) for spec in specs if "plan" in spec)


def folder(setting: str, seed: int, part: str = "") -> Path:
    return RUNS / f"groups_{setting}{part}" / f"seed-{seed}"


def fewer(setting: str) -> list[str]:
    """One SAE per layer on Ĝ/L of the tokens: the cost of Ĝ SAEs on all of them."""
    plan, run = plan_of(setting), read_yaml(config(setting))
    share = len(plan.groups) / len(plan.sites)
    batch = run["train"]["batch"]
    tokens = round(run["train"]["tokens"] * share / batch) * batch
    sae = "{arch: topk, expansion: 4, k: 32}"
    return [f"train.tokens={tokens}", f"saes=[{sae}]", "groups=[per-site]"]


def train(given: argparse.Namespace) -> None:
    """One run per seed, and the shorter one of the baseline."""
    for seed in given.seeds:
        _train(given.setting, seed, folder(given.setting, seed), [])
        part = folder(given.setting, seed, "_fewer")
        _train(given.setting, seed, part, fewer(given.setting))


def _train(setting: str, seed: int, out: Path, overrides: Sequence[str]) -> None:
    run = out / "run.json"
    if run.exists() and json.loads(run.read_text())["state"] == "finished":
        print(f"{out} is trained")
        return
    sets = [part for override in overrides for part in ("--set", override)]
    saeforge("train", str(config(setting)), "--seed", str(seed), "--out", str(out), *sets)


def suites_of(setting: str, seed: int) -> dict[str, Path]:
    """By variant; the baseline on fewer tokens as `fewer`."""
    found = {path.name: path for path in find_suites(folder(setting, seed))}
    return found | {"fewer": folder(setting, seed, "_fewer")}


def evaluate(given: argparse.Namespace) -> None:
    """The suites of a seed together, on the same passes; then each beside the baseline."""
    tokens, spliced = EVALUATION[given.setting]
    for seed in given.seeds:
        suites = suites_of(given.setting, seed)
        left = [str(p) for p in suites.values() if not (p / "results/splice.json").exists()]
        if left:
            numbers = ("--tokens", tokens, "--splice-tokens", spliced)
            saeforge("eval", *left, *numbers, "--latents", "0", "--json")
        baseline = suites.pop(BASELINE)
        others = [
            str(folder(given.setting, other) / BASELINE) for other in given.seeds if other != seed
        ]
        left = [str(p) for p in suites.values() if not (p / "results/comparison.json").exists()]
        if left:
            saeforge("compare", *left, "--baseline", str(baseline), *others, "--json")


STEPS = {"train": train, "evaluate": evaluate}


if __name__ == "__main__":
    main()
