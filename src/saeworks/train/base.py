"""A run that is ready to begin: what every kind of run has, wherever its activations come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from saeworks.activations.base import ActivationSource
from saeworks.config import RunConfig
from saeworks.suite import write_suite
from saeworks.train.run_dir import check_place
from saeworks.train.trainer import FinishedVariant, Outcome, Probe, Trainer
from saeworks.train.variants import Variant, build_members, suite_dirs

Say = Callable[[str], None]
"""Prints a line."""


@dataclass(frozen=True)
class Job(ABC):
    """A configuration whose sites, groups and variants are resolved.

    Attributes:
        model: name, revision, fingerprint and number of layers, as suites record them.
        widths: site → D, in the model's order.
        device: where SAEs are trained.
    """

    config: RunConfig
    model: Mapping[str, Any]
    widths: Mapping[str, int]
    variants: Sequence[Variant]
    device: torch.device

    @abstractmethod
    def source(self) -> ActivationSource:
        """The activations."""

    @abstractmethod
    def probe(self, source: ActivationSource) -> Probe | None:
        """What is measured on held-out tokens on the way, if anything."""

    def notes(self) -> list[str]:
        """What to say before the run begins."""
        return []

    def identity(self) -> dict[str, Any]:
        """On what the weights depend, besides configuration and model."""
        return {}

    def record(self, trained: FinishedVariant) -> dict[str, Any]:
        """What a suite holds of this kind of run alone: arguments of `write_suite`."""
        return {}

    def run(self, out: Path, say: Say) -> tuple[Outcome, list[FinishedVariant]]:
        """Train in a folder, to the end or an interruption; the variants whose suites it wrote."""
        check_place(out)
        for line in self.notes():
            say(line)
        finished: list[FinishedVariant] = []

        def finish(trained: FinishedVariant) -> None:
            self._write(trained)
            finished.append(trained)

        return self._trainer(out, say, finish).run(), finished

    def _trainer(self, out: Path, say: Say, finish: Callable[[FinishedVariant], None]) -> Trainer:
        config, source = self.config, self.source()
        groupings = {v.name: v.grouping.groups for v in self.variants if v.grouping.name}
        return Trainer(
            build_members(self.variants, self.widths, self.device),
            source,
            config.train,
            seed=config.seed,
            run_dir=out,
            suite_dirs=suite_dirs(self.variants, out),
            identity={
                **asdict(config),
                "model_fingerprint": self.model["fingerprint"],
                "groupings": groupings,
                **self.identity(),
            },
            buffer=config.buffer,
            probe=self.probe(source),
            finish=finish,
            say=say,
            log=config.log,
        )

    def _write(self, trained: FinishedVariant) -> None:
        """One variant's suite, with all that is needed to use it and to train it again."""
        config = self.config
        (variant,) = (v for v in self.variants if v.name == trained.variant)
        write_suite(
            **trained.facts(),
            model=self.model,
            text=asdict(config.text),
            config=asdict(config),
            seed=config.seed,
            grouping=variant.grouping.describe(),
            **self.record(trained),
        )
