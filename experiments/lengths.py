"""The same SAEs trained at several lengths and seeds: their runs, and the values of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.runs import RUNS, evaluate, finished, mean_values, read, train
from saeworks.suite import find_suites

Lengths = Mapping[int, int]
"""Tokens of a run → its batch."""
SHORT, LONG = 1024, 4096
LENGTHS: Lengths = {300_000: SHORT, 1_000_000: LONG, 3_000_000: LONG, 10_000_000: LONG}


@dataclass(frozen=True)
class Trained:
    """The run of one length and seed.

    Attributes:
        config: the YAML file; the study and the setting are named after it.
        overrides: `key=value` over it, beside the length.
        part: names a run with other overrides.
    """

    config: Path
    length: int
    batch: int
    seed: int
    overrides: tuple[str, ...] = ()
    part: str = ""

    @property
    def folder(self) -> Path:
        part = f"-{self.part}" if self.part else ""
        name = f"{self.config.stem}{part}-{self.length}-{self.seed}"
        return RUNS / self.config.parent.name / name

    @property
    def suites(self) -> list[Path]:
        return find_suites(self.folder) if finished(self.folder) else []

    @property
    def done(self) -> bool:
        """Trained and evaluated."""
        results = [suite / "results/splice.json" for suite in self.suites]
        return bool(results) and all(path.exists() for path in results)

    def train(self) -> None:
        size = [f"train.tokens={self.length}", f"train.batch={self.batch}"]
        train(self.config, self.seed, self.folder, [*size, *self.overrides])

    def make(self, *held_out: str) -> None:
        """Train and evaluate what is not yet."""
        self.train()
        evaluate(self.suites, *held_out)


def over(config: Path, seeds: Sequence[int], lengths: Lengths = LENGTHS) -> Iterator[Trained]:
    """Every length of every seed, the short ones first."""
    for length, batch in lengths.items():
        for seed in seeds:
            yield Trained(config, length, batch, seed)


def options(suite: Path) -> dict[str, Any]:
    """Of the suite's first SAE."""
    meta = read(suite / "suite.json")
    config = read(suite / "groups" / next(iter(meta["groups"])) / "config.json")
    return dict(config["options"])


def of_seeds(suites: Sequence[Path], metrics: Sequence[str]) -> dict[str, list[float]]:
    """Metric → the mean over sites for each seed's suite."""
    values = [mean_values(suite, *metrics) for suite in suites]
    return {metric: [of[metric] for of in values] for metric in metrics}
