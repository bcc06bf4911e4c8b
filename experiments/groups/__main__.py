"""One SAE per layer, every number of groups, and what groups must be compared with.

    python -m experiments.groups {embedded,real}
        [{all,train,evaluate,transfer,time,collect,table,figures}]

Trains <setting>.yaml once per seed into runs/groups_<setting>/seed-<i>, and one SAE per layer on a
share of its tokens beside it; evaluates every suite and compares it with the baseline of its seed;
applies each layer's SAE to every other layer; times one pass for the groups against one pass for
all layers. Writes results/<setting>.{json,md,svg}; what counts as reproduced stands in criteria.md.
What is done already is not done again.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments import runs
from experiments.groups.table import markdown
from experiments.groups.variants import (
    BASELINE,
    SAE,
    config,
    fewer,
    folder,
    plan_of,
    plan_path,
    suites_of,
)
from experiments.runs import RUNS, Found, Given, machine, read, saeworks, sets, study, write

HERE = Path(__file__).parent
SEEDS = {"embedded": (0, 1, 2), "real": (0,)}
EVALUATION = {"embedded": ("100000", "30000"), "real": ("100000", "20000")}
"""Held-out tokens of reconstruction and of splice."""
TRANSFER_TOKENS = 20_000
TIMED_TOKENS, ROUNDS = 400_000, 3


def train(given: Given) -> None:
    """One run per seed, and the shorter one of the baseline."""
    for seed in given.seeds:
        runs.train(config(given.setting), seed, folder(given.setting, seed))
        short = folder(given.setting, seed, "_fewer")
        runs.train(config(given.setting), seed, short, fewer(given.setting))


def compare(given: Given) -> None:
    """Evaluate the suites of a seed on the same passes; set each beside the baseline."""
    tokens, spliced = EVALUATION[given.setting]
    for seed in given.seeds:
        suites = suites_of(given.setting, seed)
        runs.evaluate(list(suites.values()), "--tokens", tokens, "--splice-tokens", spliced)
        baseline = suites.pop(BASELINE)
        others = [folder(given.setting, s) / BASELINE for s in given.seeds if s != seed]
        left = [p for p in suites.values() if not (p / "results/comparison.json").exists()]
        if left:
            saeworks("compare", *left, "--baseline", baseline, *others, "--json")


def transfer(given: Given) -> None:
    """FVU and ΔCE of layer i's SAE applied to layer j, in layer j's units."""
    from experiments.groups.transfer import measure

    for seed in given.seeds:
        path = folder(given.setting, seed) / "transfer.json"
        if not path.exists():
            write(path, measure(folder(given.setting, seed) / BASELINE, TRANSFER_TOKENS))


def timed(given: Given) -> None:
    """One pass for the groups of the plan and one for one SAE per layer, alternating; what
    `saeworks cost` says of each beforehand."""
    plan, out = plan_of(given.setting), RUNS / f"groups_{given.setting}_time"
    groups = {
        "per-site": "groups=[per-site]",
        "groups": f"groups=[{{plan: {plan_path(given.setting)}}}]",
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in groups}
    for _ in range(ROUNDS):
        for name, override in groups.items():
            rounds[name].append(one_pass(config(given.setting), out, override))
    shutil.rmtree(out, ignore_errors=True)
    facts = {"tokens": TIMED_TOKENS, "groups": len(plan.groups), "sites": len(plan.sites)}
    command = {"command": f"python -m experiments.groups {given.setting} time"}
    write(
        given.results / f"{given.setting}_time.json",
        command | facts | machine() | {"rounds": rounds},
    )


def one_pass(yaml: Path, out: Path, groups: str) -> dict[str, float]:
    """Seconds of a run, and what they were said to be."""
    shutil.rmtree(out, ignore_errors=True)
    overrides = sets([f"train.tokens={TIMED_TOKENS}", f"saes=[{SAE}]", groups])
    saeworks("train", yaml, "--out", out, "--cost", *overrides)
    cost = read(out / "cost.json")
    return {
        "predicted": cost["seconds"]["total"],
        "measured": cost["measured_seconds"],
        "predicted_lm": cost["seconds"]["lm"],
        "flops_lm": cost["flops"]["lm"],
        "flops_saes": cost["flops"]["saes"],
    }


def collect(given: Given) -> Found:
    from experiments.groups.measured import measured

    return measured(given.setting, given.seeds, given.results)


def draw(found: Found, base: Path) -> None:
    from experiments.groups.figures import figures

    figures(found, base)


def main(arguments: Sequence[str] | None = None) -> None:
    before = {"train": train, "evaluate": compare, "transfer": transfer, "time": timed}
    study(
        *(__doc__, __file__, arguments),
        collect=collect,
        table=markdown,
        figures=draw,
        before=before,
        seeds=SEEDS,
    )


if __name__ == "__main__":
    main()
