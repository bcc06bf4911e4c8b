"""Which SAEs the study of groups trains, and where they are."""

from itertools import pairwise
from pathlib import Path

from experiments.runs import RUNS
from saeworks.config import read_yaml
from saeworks.results.plan import Plan
from saeworks.suite import find_suites

HERE = Path(__file__).parent
BASELINE = "topk-x4-k32"
"""One SAE per layer."""
SAE = "{arch: topk, expansion: 4, k: 32}"


def config(setting: str) -> Path:
    return HERE / f"{setting}.yaml"


def plan_path(setting: str) -> Path:
    specs = read_yaml(config(setting))["groups"]
    return next(Path(spec["plan"]) for spec in specs if "plan" in spec)


def plan_of(setting: str) -> Plan:
    return Plan.read(plan_path(setting))


def folder(setting: str, seed: int, part: str = "") -> Path:
    return RUNS / f"groups_{setting}{part}" / f"seed-{seed}"


def fewer(setting: str) -> list[str]:
    """Overrides: one SAE per layer on Ĝ/L of the tokens, the cost of Ĝ SAEs on all of them."""
    plan, run = plan_of(setting), read_yaml(config(setting))
    share = len(plan.groups) / len(plan.sites)
    batch = run["train"]["batch"]
    tokens = round(run["train"]["tokens"] * share / batch) * batch
    return [f"train.tokens={tokens}", f"saes=[{SAE}]", "groups=[per-site]"]


def suites_of(setting: str, seed: int) -> dict[str, Path]:
    """By variant; the baseline on fewer tokens as `fewer`."""
    suites = {path.name: path for path in find_suites(folder(setting, seed))}
    return suites | {"fewer": folder(setting, seed, "_fewer")}


def complete(groups: int) -> str:
    """The variant with that many groups by complete linkage."""
    return f"{BASELINE}-g{groups}-complete"


def ladder(sites: int) -> list[str]:
    """Complete linkage with 1 … L groups; the last is the baseline."""
    return [*(complete(groups) for groups in range(1, sites)), BASELINE]


def pairs(names: list[str], chosen: int, sites: int) -> list[tuple[str, str]]:
    """What criteria 1 and 3 to 6 compare."""
    compared = [(after, before) for before, after in pairwise(ladder(sites))]
    compared += [(f"{BASELINE}-g{g}-even", complete(g)) for g in range(2, sites)]
    for g in dict.fromkeys((1, chosen)):
        for kind in ("scale-only", "none", "learnable"):
            compared.append((f"{BASELINE}-{kind}-g{g}-complete", complete(g)))
        compared.append((f"{complete(g)}-all", complete(g)))
    smaller = next(name for name in names if name.startswith("topk-x1") and "-g" not in name)
    return [*compared, (smaller, complete(chosen)), ("fewer", complete(chosen))]
