"""The variants that were trained: where their suites are, and their numbers with intervals.

Shapes: R resamples of the held-out documents, the first of them all the documents.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.criteria import Number, known, over_seeds
from experiments.runs import read
from experiments.switch.parts import RUNS
from saeworks.measure import bootstrap
from saeworks.measure.studies import reconstruction, splice
from saeworks.measure.sums import read_sums
from saeworks.results.result import Result
from saeworks.suite import Suite, load_suite

METRICS = {
    "reconstruction": ("fvu", "l0"),
    "splice": ("delta_ce", "loss_recovered_zero"),
}
RESAMPLES = 1000
Drawn = NDArray[np.float64]
"""A number of one suite: of all the documents, then of each resample [1 + R]."""


@dataclass(frozen=True)
class Arm:
    """A variant of a part, with every seed that it was trained with."""

    part: str
    variant: str

    @property
    def folders(self) -> tuple[Path, ...]:
        """The evaluated suites; part `batch/1024` and the like are single runs."""
        runs = sorted((RUNS / self.part).glob("seed-*")) or [RUNS / self.part]
        suites = [run / self.variant for run in runs]
        return tuple(s for s in suites if (s / "results/splice.json").exists())

    def drawn(self, seed: int, metric: str, site: str = "") -> Drawn:
        """Of one site, or the mean over sites."""
        return _drawn(self.folders[seed])[0][site][metric]

    def documents(self, seed: int, metric: str) -> int:
        """That it was measured on."""
        return _drawn(self.folders[seed])[1][metric]

    @property
    def suite(self) -> Suite:
        return load_suite(self.folders[0])

    @property
    def options(self) -> dict[str, Any]:
        """Of its first group."""
        folder = next((self.folders[0] / "groups").iterdir())
        options: dict[str, Any] = read(folder / "config.json")["options"]
        return options

    def extra(self, *keys: str) -> list[float]:
        """A value of switch.json of every seed, the mean over sites."""
        means = []
        for folder in self.folders:
            sites = read(folder / "switch.json")["sites"].values()
            values = [functools.reduce(lambda at, key: at[key], keys, site) for site in sites]
            means.append(float(np.mean(values)))
        return means


def topk(width: int = 4096, k: int = 32) -> Arm:
    return _arm(f"topk-w{width}-k{k}")


def switch(width: int = 4096, k: int = 32, experts: int = 16, **others: object) -> Arm:
    """With the trainer's name for it."""
    keys = {"experts": experts, **others}
    rest = "-".join(f"{key}{keys[key]}" for key in sorted(keys))
    return _arm(f"switch-w{width}-k{k}-{rest}")


def matched(experts: int, k: int = 32) -> Arm:
    """As many experts as wide as TopK."""
    return switch(4096 * experts, k, experts)


def _arm(variant: str) -> Arm:
    parts = [p for p in ("seeds", "sweeps", "others") if (RUNS / p / "seed-0" / variant).exists()]
    return Arm(parts[0] if parts else "sweeps", variant)


@functools.cache
def _drawn(folder: Path) -> tuple[dict[str, dict[str, Drawn]], dict[str, int]]:
    """Site → metric → numbers, the mean over sites under ""; the same draws for every suite of
    one seed, as all were evaluated on the same documents. And metric → how many these are."""
    widths = {site: int(at["d"]) for site, at in load_suite(folder).meta["sites"].items()}
    by_site: dict[str, dict[str, Drawn]] = {site: {} for site in widths}
    documents: dict[str, int] = {}
    for evaluation, metrics in METRICS.items():
        sums = read_sums(folder / "results", Result.read(folder / "results" / f"{evaluation}.json"))
        for site, d in widths.items():
            drawn = bootstrap.resampled(sums[site], sums[site]["n"] > 0, RESAMPLES, 0)
            of_site = reconstruction.statistics(d) if evaluation == "reconstruction" else None
            for metric in metrics:
                by_site[site][metric] = (of_site or splice.STATISTICS)[metric](drawn.sums)
                documents[metric] = drawn.documents
    names = next(iter(by_site.values()))
    by_site[""] = {
        name: np.mean([by_site[site][name] for site in widths], axis=0) for name in names
    }
    return by_site, documents


Statistic = Callable[..., Drawn]


def estimate(
    statistic: Statistic, arms: Sequence[Arm], metric: str = "fvu", site: str = ""
) -> Number:
    """statistic(number of each arm): over the seeds that all arms have, or over documents.

    Raises:
        KeyError: if an arm is not evaluated.
    """
    seeds = min((len(arm.folders) for arm in arms), default=0)
    if not seeds:
        missing = [arm.variant for arm in arms if not arm.folders]
        raise KeyError(", ".join(missing))
    of_seed = [statistic(*(arm.drawn(s, metric, site) for arm in arms)) for s in range(seeds)]
    if seeds > 1:
        return over_seeds([float(drawn[0]) for drawn in of_seed])
    interval = bootstrap.interval(np.asarray(of_seed[0]), arms[0].documents(0, metric))
    return known([float(of_seed[0][0]), interval.low, interval.high])


def value(arm: Arm, metric: str = "fvu", site: str = "") -> Number:
    return estimate(lambda drawn: drawn, [arm], metric, site)


def relative(arm: Arm, other: Arm, metric: str = "fvu", site: str = "") -> Number:
    """arm/other − 1."""
    return estimate(lambda a, b: a / b - 1, [arm, other], metric, site)


def difference(arm: Arm, other: Arm, metric: str, site: str = "") -> Number:
    return estimate(lambda a, b: a - b, [arm, other], metric, site)


def all_arms() -> list[Arm]:
    """Everything that is evaluated."""
    arms: list[Arm] = []
    for path in sorted(RUNS.glob("**/results/splice.json")):
        suite = path.parent.parent
        part = re.sub(r"/seed-\d+$", "", suite.parent.relative_to(RUNS).as_posix())
        arm = Arm(part, suite.name)
        if arm not in arms:
            arms.append(arm)
    return arms
