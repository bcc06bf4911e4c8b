"""The SAEs of the study, read from their runs or from the JSON, and one beside another."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

from experiments.criteria import Number, over_seeds
from experiments.lengths import LENGTHS, Lengths, Trained, of_seeds, options, over
from experiments.runs import Found, read

HERE = Path(__file__).parent
RUN_LENGTHS: dict[str, Lengths] = {
    "embedded": LENGTHS,
    "real": LENGTHS,
    "parts": {10_000_000: LENGTHS[10_000_000]},
}
METRICS = ("fvu", "delta_ce", "dead_share")
DUPLICATES = "duplicate_share"


def runs(setting: str, seeds: Sequence[int]) -> list[Trained]:
    return list(over(HERE / f"{setting}.yaml", seeds, RUN_LENGTHS[setting]))


@dataclass(frozen=True)
class Arm:
    """One SAE at one length; every metric has a value for each seed.

    Attributes:
        width: N·E, of all experts.
        experts: N, 1 for TopK.
        options: those that differ from the architecture's defaults.
    """

    length: int
    width: int
    experts: int
    k: int
    options: Found
    flops: float
    fvu: list[float]
    delta_ce: list[float]
    dead_share: list[float]
    duplicate_share: list[float]

    @property
    def expert(self) -> int:
        return self.width // self.experts

    @property
    def tokens_per_latent(self) -> float:
        return self.length / self.width


def collected(setting: str, seeds: Sequence[int]) -> Found:
    """What was measured, an entry per SAE and length, of the seeds that were evaluated."""
    entries = []
    for length in RUN_LENGTHS[setting]:
        done = [run for run in runs(setting, seeds) if run.length == length and run.done]
        for suites in zip(*(run.suites for run in done), strict=True):
            entries.append(entry(length, suites))
    return {"setting": setting, "seeds": list(seeds), "arms": entries}


def entry(length: int, suites: Sequence[Path]) -> Found:
    meta, of = read(suites[0] / "suite.json"), options(suites[0])
    return {
        "length": length,
        "width": of.pop("width"),
        "experts": of.pop("experts", 1),
        "k": of.pop("k"),
        "options": of,
        "flops": meta["cost"]["flops_saes"] / meta["tokens"],
        **of_seeds(suites, METRICS),
        DUPLICATES: [duplicates(suite) for suite in suites],
    }


def duplicates(suite: Path) -> float:
    """Share of the live latents with another one at a cosine above 0.9."""
    (values,) = read(suite / "results/geometry.json")["sites"].values()
    return float(values[DUPLICATES]["value"])


def arms(found: Found) -> list[Arm]:
    return [Arm(**entry) for entry in found["arms"]]


@dataclass(frozen=True)
class Pair:
    """A Switch SAE beside a TopK SAE of the same length and k."""

    switch: Arm
    topk: Arm

    def ratios(self, metric: str = "fvu") -> list[float]:
        both = zip(getattr(self.switch, metric), getattr(self.topk, metric), strict=True)
        return [one / other for one, other in both]

    def effect(self, metric: str = "fvu") -> Number:
        """Mean over seeds of switch/topk − 1; one seed has no interval."""
        return over_seeds([ratio - 1 for ratio in self.ratios(metric)])


def pairs(found: Found, *, fixed_width: bool = False) -> list[Pair]:
    """Every Switch SAE beside TopK of an expert's width, or of its own."""
    all_arms = arms(found)
    topk = {(arm.length, arm.k, arm.width): arm for arm in all_arms if arm.experts == 1}
    return [
        Pair(arm, topk[arm.length, arm.k, width])
        for arm in all_arms
        if arm.experts > 1
        and (width := arm.width if fixed_width else arm.expert)
        and (arm.length, arm.k, width) in topk
    ]


Line = tuple[int, int, int]
"""E, k and N: what stays the same from one length to the next."""


def lines(of: Sequence[Pair]) -> dict[Line, list[Pair]]:
    """The same SAE at all lengths, the short ones first."""
    found: dict[Line, list[Pair]] = {}
    for pair in sorted(of, key=lambda pair: pair.switch.length):
        arm = pair.switch
        found.setdefault((arm.expert, arm.k, arm.experts), []).append(pair)
    return dict(sorted(found.items()))


def crossings(of: Sequence[Pair]) -> list[float]:
    """Tokens per latent at which each seed's ratio goes through 1, downwards, linear in logarithms;
    a seed whose ratio does not is left out."""
    return [at for seed in range(len(of[0].switch.fvu)) for at in crossing(of, seed)]


def crossing(of: Sequence[Pair], seed: int) -> Iterator[float]:
    points = [(log(p.switch.tokens_per_latent), log(p.ratios()[seed])) for p in of]
    for (x, y), (next_x, next_y) in itertools.pairwise(points):
        if y > 0 >= next_y:
            yield exp(x + (next_x - x) * y / (y - next_y))
            return


def changes(of: Sequence[Pair]) -> list[Number]:
    """The effect's change from each length to the next."""
    return [
        over_seeds([b - a for a, b in zip(one.ratios(), other.ratios(), strict=True)])
        for one, other in itertools.pairwise(of)
    ]


def selected(all_arms: Sequence[Arm], **options: Any) -> Arm:
    """The one SAE with these options."""
    (arm,) = [arm for arm in all_arms if options.items() <= arm.options.items()]
    return arm
