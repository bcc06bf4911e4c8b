"""From a budget to a run: pilots, their law, the best run that it allows. Resumable."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from saeworks.advice.advice import Advice, exponents, proposal, write_yaml
from saeworks.advice.budget import Budget, Goal
from saeworks.advice.law import LEVEL
from saeworks.advice.pilots import Pilots, Taken
from saeworks.advice.search import EVALUATIONS, Option, Space
from saeworks.config import (
    DEFAULT_SAE,
    GroupsConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
)
from saeworks.errors import UserError
from saeworks.files.access import write_json
from saeworks.files.folders import make_ready
from saeworks.train.base import Say
from saeworks.train.run_dir import check_place

ADVICE = "advice.json"


def advise(
    model: str = "embedded",
    text: str = "embedded",
    *,
    budget: str | Sequence[str],
    target: str | None = None,
    sites: Sequence[str] = ("*@resid",),
    k: Sequence[int] = (DEFAULT_SAE["k"],),
    out: str | Path = "runs/advise",
    seed: int = 0,
    device: str = "auto",
    say: Say = print,
) -> Advice:
    """What to train for a budget: `sw.advise("embedded", "embedded", budget="10min")`.

    Trains pilots (at most a tenth of the budget, resumed if they were interrupted), fits the law of
    `saeworks.advice.law.FVULaw` to them, and leaves the best run in `out/run.yaml`.

    Args:
        budget: `2h`, `1e17flops`, `10GiB`, or several of different kinds.
        target: `fvu=0.1` or `delta_ce=0.02`: the cheapest run that reaches it instead of the best.
        k: latents active per token that are allowed.

    Raises:
        UserError: if no run is possible, or none reaches the target.
        KeyboardInterrupt: if it is interrupted; the next call goes on.
    """
    config = RunConfig(
        model=ModelConfig(name=str(model)),
        text=TextConfig(source=str(text)),
        sites=tuple(sites),
        seed=seed,
        device=device,
    )
    limits = Budget.parse([budget] if isinstance(budget, str) else budget)
    aim = None if target is None else Goal.parse(target)
    advice = advise_run(config, limits, aim, tuple(k), Path(out), say)
    if advice is None:
        raise KeyboardInterrupt
    return advice


def advise_run(
    config: RunConfig,
    budget: Budget,
    target: Goal | None,
    k: tuple[int, ...],
    out: Path,
    say: Say,
) -> Advice | None:
    """As `advise`, for a run with options of its own; None where it was interrupted."""
    check_place(out)
    make_ready(out)
    if config.source.cache is not None or config.error is not None:
        raise UserError("advise pilots on a language model: leave out source.cache and error.suite")
    if not k or min(k) < 1:
        raise UserError(f"k = {list(k)}: give at least one number of active latents, as 32 is")
    pilots = Pilots.prepare(config, k, out, say)
    spent = pilots.run(budget)
    if spent is None:
        return None
    space = pilots.space(budget)
    options = _chosen(space, spent.left, target)
    advice = _advice(pilots, space, options, budget, target, spent)
    write_json(out / ADVICE, advice.to_json())
    return advice


def _chosen(space: Space, left: Budget, target: Goal | None) -> list[Option]:
    """The run to make, and the runner-up where there is one.

    Raises:
        UserError: if there is none.
    """
    best = space.best(left)
    if not best:
        raise UserError(
            f"nothing as long as a pilot fits into what the pilots left of the budget ({left}); "
            "give more"
        )
    if target is None:
        return best
    cheapest = space.cheapest(left, target)
    if cheapest:
        return cheapest
    _, limit, _ = space.limit().mean(target.metric)
    middle, low, high = best[0].mean(target.metric)
    if limit > target.value:
        raise UserError(
            f"target {target} is below what k = {max(space.k)} allows: the widest SAEs, trained "
            f"without end, are predicted at {limit:.3g} at best; allow more with --k, or raise it"
        )
    raise UserError(
        f"target {target}: no run within {left} is predicted to reach it; the best is at "
        f"{middle:.3g} ({low:.3g} to {high:.3g}). Give a larger budget, allow more with --k, or "
        "raise it; the pilots are kept, so that asking again takes seconds"
    )


def _advice(
    pilots: Pilots,
    space: Space,
    options: Sequence[Option],
    budget: Budget,
    target: Goal | None,
    spent: Taken,
) -> Advice:
    """The record of what was chosen, and its YAML files."""
    widths = {site: pilots.lm.width(site) for site in pilots.design.sites}
    proposals = []
    for option, name in zip(options, ("run.yaml", "runner-up.yaml"), strict=False):
        path = pilots.out / name
        made = proposal(option, widths, space, path)
        write_yaml(path, _config(pilots, option), made)
        proposals.append(made)
    longest = pilots.jobs["long"][0].work.rows
    return Advice(
        budget=str(budget),
        target=None if target is None else str(target),
        level=LEVEL,
        pilots={
            "seconds": spent.seconds,
            "flops": spent.flops,
            "tokens": longest,
            "share_of_budget": _share(spent, budget),
        },
        law=exponents(space.law),
        scatter=float(space.law.scatter.mean()),
        best=proposals[0],
        runner_up=proposals[1] if len(proposals) > 1 else None,
        caveats=_caveats(pilots, proposals[0].tokens, longest),
    )


def _share(spent: Taken, budget: Budget) -> float | None:
    """Of the budget that the pilots took, where time or operations are bounded."""
    shares = [
        taken / limit
        for taken, limit in ((spent.seconds, budget.seconds), (spent.flops, budget.flops))
        if limit is not None
    ]
    return max(shares, default=None)


def _config(pilots: Pilots, option: Option) -> RunConfig:
    """The run, as `saeworks train` reads it."""
    kind, config = option.kind, pilots.design.config
    steps = -(-option.tokens // pilots.state["batch"])
    every = -(-steps // EVALUATIONS) if config.train.eval_every else 0
    train = replace(pilots.train, tokens=option.tokens, eval_every=every)
    groups = GroupsConfig(method="even", groups=kind.groups)
    per_site = kind.groups == len(pilots.design.sites)
    return replace(
        config,
        saes=(kind.sae,),
        groups=("per-site",) if per_site else (groups,),
        buffer=replace(config.buffer, memory=f"{option.ring}B"),
        train=train,
    )


def _caveats(pilots: Pilots, tokens: int, longest: int) -> tuple[str, ...]:
    speed, lines = pilots.state["speed"], []
    if speed["quiet"] is False:
        lines.append(
            f"{speed['reason']} while this machine was measured: seconds hold as long as they do"
        )
    if tokens > 16 * longest:
        lines.append(
            f"the run is {tokens / longest:.0f} times as long as the longest pilot, so its FVU is "
            "known less well; a larger budget buys longer pilots"
        )
    if tokens >= 0.99 * pilots.text_tokens:
        lines.append("the text, read twice, is what bounds the run: more text would allow more")
    return tuple(lines)
