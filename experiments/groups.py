"""One SAE per layer, every number of groups, and what groups must be compared with.

    python experiments/groups.py {embedded,real} [{all,train,evaluate,transfer,time,table}]

Trains experiments/groups_<setting>.yaml once per seed into runs/groups_<setting>/seed-<i>, and one
SAE per layer on a share of its tokens beside it; evaluates every suite and compares it with the
baseline of its seed; applies each layer's SAE to every other layer; times one pass for the groups
against one pass for all layers. Writes results/groups_<setting>.{json,md,svg}; what counts as
reproduced stands in groups_criteria.md. What is done already is not done again.
"""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from shell import saeworks

from saeworks.config import (
    EvalConfig,
    RunConfig,
    from_mapping,
    read_yaml,
)
from saeworks.cost.machine import processor
from saeworks.files.access import write_json
from saeworks.groups.plan import Plan
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.measure.held_out import HeldOut
from saeworks.measure.studies.reconstruction import reconstruction
from saeworks.measure.studies.splice import splice
from saeworks.suite import find_suites, load_suite

HERE = Path(__file__).parent
RUNS = Path("runs")
SEEDS = {"embedded": (0, 1, 2), "real": (0,)}
EVALUATION = {"embedded": ("100000", "30000"), "real": ("100000", "20000")}
"""Held-out tokens of reconstruction and of splice."""
TRANSFER_TOKENS = 20_000
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
    saeworks("train", str(config(setting)), "--seed", str(seed), "--out", str(out), *sets)


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
            saeworks("eval", *left, *numbers, "--latents", "0", "--json")
        baseline = suites.pop(BASELINE)
        others = [
            str(folder(given.setting, other) / BASELINE) for other in given.seeds if other != seed
        ]
        left = [str(p) for p in suites.values() if not (p / "results/comparison.json").exists()]
        if left:
            saeworks("compare", *left, "--baseline", str(baseline), *others, "--json")


def transfer(given: argparse.Namespace) -> None:
    """FVU and ΔCE of layer i's SAE applied to layer j, in layer j's units."""
    for seed in given.seeds:
        path = folder(given.setting, seed) / "transfer.json"
        if path.exists():
            continue
        suite = load_suite(folder(given.setting, seed) / BASELINE)
        normalisers = {site: suite.normaliser(site) for site in suite.sites}
        banks = {
            own: {
                site: suite.trained(own).folded(other.mean, other.scale)
                for site, other in normalisers.items()
            }
            for own in suite.sites
        }
        run = from_mapping(RunConfig, suite.meta["config"], "suite")
        lm = LanguageModel.load(run.model)
        corpus = Corpus(
            run.text, lm.tokenizer, bos_id=lm.bos_id, max_context=lm.max_context, seed=run.seed
        )
        stream = corpus.stream("held_out", max(1, 8192 // run.text.context), epochs=1)
        held_out = HeldOut.take(stream, TRANSFER_TOKENS)
        settings = EvalConfig(bootstrap=200)
        fvu = reconstruction(banks, lm, held_out, settings)
        ce = splice(banks, lm, held_out, settings)
        values = {
            own: {
                site: {
                    "fvu": fvu[own].sites[site]["fvu"].value,
                    "delta_ce": ce[own].sites[site]["delta_ce"].value,
                }
                for site in suite.sites
            }
            for own in suite.sites
        }
        write_json(path, {"tokens": held_out.kept, "values": values})
        print(path)


def timed(given: argparse.Namespace) -> None:
    """One pass for the groups of the plan and one for one SAE per layer, alternating; what
    `saeworks cost` says of each beforehand."""
    plan, path = plan_of(given.setting), given.results / f"groups_{given.setting}_time.json"
    runs = {
        "per-site": "groups=[per-site]",
        "groups": f"groups=[{{plan: {plan_path(given.setting)}}}]",
    }
    sae, out = "saes=[{arch: topk, expansion: 4, k: 32}]", RUNS / f"groups_{given.setting}_time"
    overrides = (f"train.tokens={TIMED_TOKENS}", sae)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, groups in runs.items():
            shutil.rmtree(out, ignore_errors=True)
            sets = [part for override in (*overrides, groups) for part in ("--set", override)]
            saeworks("train", str(config(given.setting)), "--out", str(out), "--cost", *sets)
            cost = json.loads((out / "cost.json").read_text())
            found[name].append(
                {
                    "predicted": cost["seconds"]["total"],
                    "measured": cost["measured_seconds"],
                    "predicted_lm": cost["seconds"]["lm"],
                    "flops_lm": cost["flops"]["lm"],
                    "flops_saes": cost["flops"]["saes"],
                }
            )
    shutil.rmtree(out, ignore_errors=True)
    facts = {"tokens": TIMED_TOKENS, "groups": len(plan.groups), "sites": len(plan.sites)}
    machine = {"processor": processor(), "cores": os.cpu_count()}
    command = f"python experiments/groups.py {given.setting} time"
    write_json(path, {"command": command, **facts, **machine, "rounds": found})
    print(path)


def table(given: argparse.Namespace) -> None:
    """What was measured, as JSON, Markdown and figures."""
    from groups_table import collect, figures, write_markdown

    found = collect(given.setting, list(given.seeds), given.results)
    base = given.results / f"groups_{given.setting}"
    write_json(base.with_suffix(".json"), found)
    figures(found, base)
    write_markdown(found, base.with_suffix(".md"))
    print(f"{base}.json, .md, .svg")


STEPS = {"train": train, "evaluate": evaluate, "transfer": transfer, "time": timed, "table": table}


if __name__ == "__main__":
    main()
