"""What `saeworks plan` does: distances between sites, the groups that follow, and their page."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich.table import Table

from saeworks.cli.printing import cell, console, speaker
from saeworks.config import (
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainConfig,
)
from saeworks.cost.estimate import predicted
from saeworks.errors import DONE, UserError
from saeworks.files.folders import make_ready
from saeworks.groups.distances import angular_distances, choose_sites
from saeworks.groups.partition import (
    Method,
    Objective,
    check_method,
    diameters,
)
from saeworks.groups.plan import Plan, make_plan
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel
from saeworks.report.plan import write_plan_page
from saeworks.train.job import Job


def plan(
    model: str,
    text: str,
    out: Path,
    *,
    sites: Sequence[str],
    last: bool,
    tokens: int,
    groups: int | None,
    threshold: float,
    method: Method,
    objective: Objective | None,
    matrix: Literal["raw", "centred"],
    context: int,
    seed: int,
    device: str,
    as_json: bool = False,
) -> int:
    """Distances between a model's sites and the groups that follow: plan.json and its page."""
    check_method(method, objective)  # before anything is measured
    if groups is not None and groups < 1:
        raise UserError(f"--groups {groups}: at least 1")
    if not threshold > 0:
        raise UserError(f"--threshold {threshold}: it must be above 0, as 0.2 is")
    make_ready(out)
    lm = LanguageModel.load(ModelConfig(name=model), choose_device(device))
    among = choose_sites(lm, sites, last=last)
    if groups is not None and groups > len(among):
        raise UserError(f"--groups {groups}: there are {len(among)} sites, {', '.join(among)}")
    say = speaker(as_json)
    if left_out := lm.left_out(sites):
        say(left_out)
    distances = angular_distances(
        lm,
        TextConfig(source=text, context=context),
        sites,
        tokens,
        last=last,
        seed=seed,
        tick=_tenths(say),
    )
    made = make_plan(
        distances,
        groups,
        method=method,
        objective=objective,
        threshold=threshold,
        matrix=matrix,
    )
    made = _with_savings(made, lm)
    path = out / "plan.json"
    made.write(path)
    page = write_plan_page(path, out)
    if as_json:
        curve = [point.amad for point in made.curve]
        found = {"groups": made.groups, "curve": curve, "saving": made.saving}
        print(json.dumps({"plan": str(path), "page": str(page), **found}))
        return DONE
    _print_groups(made)
    say(f"Plan: {path}")
    say(f"Page: {page}")
    return DONE


def _with_savings(plan: Plan, lm: LanguageModel) -> Plan:
    """The plan with what every number of groups saves, for the SAEs of a run's defaults."""
    config = RunConfig(
        model=ModelConfig(name=lm.name), sites=plan.sites, train=TrainConfig(eval_every=0)
    )
    try:
        work = Job.prepare(config, lm).work
    except UserError:  # a model too small for those SAEs
        return plan
    (sae,) = config.saes
    return replace(
        plan,
        saving=tuple(group.saving for group in predicted(work).groups),
        saving_of=f"{sae['arch']}, {sae['expansion']}×, k {sae['k']}",
    )


def _tenths(say: Callable[[str], None]) -> Callable[[float], None]:
    """Says at every tenth of the work how far it is."""
    said = 0

    def tick(share: float) -> None:
        nonlocal said
        if int(10 * share) > said:
            said = int(10 * share)
            say(f"distances: {10 * said}%")

    return tick


def _print_groups(plan: Plan) -> None:
    """A row per group, and what is known of every number of groups."""
    curve = plan.curve
    table = Table(
        title=f"{cell(plan.model)}: {len(plan.groups)} groups by {plan.method}, over "
        f"{plan.tokens:,} tokens of {plan.documents:,} documents",
        title_justify="left",
    )
    for head in ("group", "sites", "largest distance"):
        table.add_column(head)
    largest = diameters(plan.measured, plan.partition)
    for name, distance in zip(plan.groups, largest, strict=True):
        table.add_row(name, cell(", ".join(plan.groups[name])), f"{distance:.3f}")
    console().print(table)
    print("AMAD by number of groups: " + ", ".join(f"{p.groups}: {p.amad:.3f}" for p in curve))
    if plan.saving is not None:
        saved = ", ".join(f"{g}: {share:.0%}" for g, share in enumerate(plan.saving, 1))
        print(f"operations saved against one SAE per site ({plan.saving_of}): {saved}")
