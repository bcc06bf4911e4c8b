"""What is advised: records, the sentences and tables that say them, and the run's YAML."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from saeworks.advice.law import LEVEL, PRIORS, FVULaw, interval
from saeworks.advice.search import Option, Space
from saeworks.config import RunConfig, default_of, show_bytes
from saeworks.cost.progress import duration
from saeworks.files.access import write_text
from saeworks.results.headlines import DELTA_CE, FVU


@dataclass(frozen=True)
class Expected:
    """A number that is predicted: its median, and the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Proposal:
    """A run that could be made.

    Attributes:
        groups: G, how many SAEs there are.
        width, experts, k: M (at the first site), N and k of each.
        tokens: rows that each is trained on.
        batch: rows per step.
        fvu, delta_ce: means over the sites.
        sites: site → FVU and ΔCE.
        seconds: of training.
        flops, memory: of the whole run.
        yaml: file that `saeworks train` runs.
    """

    groups: int
    width: int
    experts: int
    k: int
    tokens: int
    batch: int
    fvu: Expected
    delta_ce: Expected
    sites: Mapping[str, Mapping[str, Expected]]
    seconds: Expected
    flops: float
    memory: int
    yaml: str

    @property
    def tokens_per_latent(self) -> float:
        return self.tokens / self.width

    def what(self) -> str:
        """`6 SAEs, one per layer, of 1,024 latents (k 32), 3,200,000 tokens each`."""
        whose = "one per site" if self.groups == len(self.sites) else "each shared by neighbours"
        saes = f"{self.groups} SAEs, {whose}," if self.groups > 1 else "1 SAE"
        shared = " for all sites," if self.groups == 1 < len(self.sites) else ""
        experts = f" in {self.experts} experts" if self.experts > 1 else ""
        return (
            f"{saes}{shared} of {self.width:,} latents{experts}, {self.k} active, "
            f"{self.tokens:,} tokens each ({self.tokens_per_latent:,.0f} per latent)"
        )

    def price(self) -> str:
        seconds = self.seconds
        time = f"{duration(seconds.value)} (up to {duration(seconds.high)})"
        return f"{time}, {self.flops:.2g} FLOPs, {show_bytes(self.memory)} of memory"


@dataclass(frozen=True)
class Advice:
    """The answer of `saeworks advise`.

    Attributes:
        budget, target: as they were asked for; None without a target.
        level: share of the cases in which an interval is to hold what comes true.
        pilots: what they took: seconds, flops, tokens of the longest, runs.
        law: exponents of the law, by name: medians and intervals.
        scatter: of ln FVU about the law.
        best, runner_up: the second is None where no other kind of run is possible.
        caveats: what makes the numbers worth less.
    """

    budget: str
    target: str | None
    level: float
    pilots: Mapping[str, Any]
    law: Mapping[str, Expected]
    scatter: float
    best: Proposal
    runner_up: Proposal | None
    caveats: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def sentences(self) -> list[str]:
        """What to do and why, for someone who has trained no SAE yet."""
        best, other = self.best, self.runner_up
        lines = [
            f"Train {best.what()}.",
            f"It takes {best.price()}.",
            f"FVU {best.fvu}: the share of the activations' variance that the SAEs miss, mean over "
            f"the sites. ΔCE {best.delta_ce} nats: how much worse the model predicts a token with "
            "one site's activations replaced by its SAE's.",
            f"In brackets: where the number will be in {self.level:.0%} of the cases.",
            _why_experts(best),
            _why_groups(best),
        ]
        if other is not None:
            lines += [
                f"Runner-up: {other.what()}.",
                f"It takes {other.price()}; FVU {other.fvu}, ΔCE {other.delta_ce} nats.",
                _how_sure(best, other),
            ]
        return [line for line in lines if line]


def _why_experts(best: Proposal) -> str:
    each = f"{best.tokens_per_latent:,.0f} tokens per latent"
    if best.experts > 1:
        return (
            f"Experts pay here: with {each}, {best.experts} times the latents are learned well "
            f"enough to be of use, at nearly the cost of {best.width // best.experts:,}."
        )
    return (
        f"Experts do not pay here: they make more latents affordable, and with {each} those there "
        "are get few enough."
    )


def _why_groups(best: Proposal) -> str:
    sites = len(best.sites)
    if best.groups < sites:
        return (
            f"{best.groups} SAEs for {sites} sites: each gets more of the budget than one per site "
            "would, and that is worth more than an SAE of one's own."
        )
    return "One SAE per site: sharing would save less than it loses." if sites > 1 else ""


def _how_sure(best: Proposal, other: Proposal) -> str:
    if other.fvu.low > best.fvu.high:
        return "The difference is clear: their intervals do not overlap."
    return "Their intervals overlap: if the runner-up suits you better, take it."


def exponents(law: FVULaw) -> dict[str, Expected]:
    """The parameters that the sites have in common, by name, those that are logs as what they stand
    for."""
    values = {}
    for name, draws_R in zip(PRIORS, law.parameters.T, strict=False):
        log = name.startswith("log_")
        ends = interval(np.exp(draws_R) if log else draws_R)
        values[name.removeprefix("log_")] = Expected(*map(float, ends))
    return values


def proposal(option: Option, sites: Mapping[str, int], space: Space, yaml_file: Path) -> Proposal:
    """The record of an option.

    Args:
        sites: site → D.
    """
    kind, cost = option.kind, option.cost
    assert cost.seconds is not None
    by_site = zip(sites, _expected(option.fvu_RS), _expected(option.delta_ce_RS), strict=True)
    middle, slower = cost.seconds.total, space.speeds.slower
    return Proposal(
        groups=kind.groups,
        width=kind.expansion * next(iter(sites.values())),
        experts=kind.experts,
        k=kind.k,
        tokens=option.tokens,
        batch=space.work.batch,
        fvu=Expected(*option.mean(FVU)),
        delta_ce=Expected(*option.mean(DELTA_CE)),
        sites={site: {FVU: fvu, DELTA_CE: ce} for site, fvu, ce in by_site},
        seconds=Expected(middle, middle / slower, middle * slower),
        flops=sum(cost.flops.values()),
        memory=sum(cost.memory.values()),
        yaml=str(yaml_file),
    )


def _expected(draws_RS: Any) -> list[Expected]:
    return [Expected(*map(float, each)) for each in np.transpose(interval(draws_RS))]


def write_yaml(path: Path, config: RunConfig, plan: Proposal) -> None:
    """A run's YAML: what differs from the defaults, under a line that says what is predicted."""
    head = (
        f"# Written by `saeworks advise`: FVU {plan.fvu}, ΔCE {plan.delta_ce} nats, in "
        f"{LEVEL:.0%} of the cases; {plan.price()}.\n"
        f"# saeworks train {path} --out {path.with_suffix('')}\n"
    )
    body = yaml.safe_dump(_changed(config), sort_keys=False, allow_unicode=True)
    write_text(path, head + body)


def _changed(config: Any) -> dict[str, Any]:
    """Key → plain value, of those that are not the defaults."""
    changed: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if value == default_of(item):
            continue
        changed[item.name] = _changed(value) if is_dataclass(value) else _plain(value)
    return changed


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _changed(value)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
