"""What a run notes on the way: lines about steps and held-out tokens, of every variant."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saeworks.config import TrainConfig
from saeworks.cost.estimate import spent
from saeworks.cost.machine import resident_bytes
from saeworks.results.names import LOG
from saeworks.train import schedule
from saeworks.train.learner import Learner, Numbers
from saeworks.train.log import MetricsLog, RunLogger


@dataclass(frozen=True)
class _Noted:
    """One SAE's part of a note: its numbers may still be on their way from the device."""

    learner: Learner
    numbers: Numbers
    shared: dict[str, Any]
    of_sae: dict[str, Any]


class RunLog:
    """The metrics.jsonl of every variant, and the loggers beside them.

    A step is noted when it was asked for and written when somebody has waited for the device
    anyway, so that a note costs no wait of its own.

    Attributes:
        last: loss and FVU of the last note that was written, for who watches.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        config: TrainConfig,
        suite_dirs: Mapping[str, Path],
        say: Callable[[str], None],
    ) -> None:
        self.last = ""
        self._learners, self._config, self._say = learners, config, say
        self._places = suite_dirs
        self._logs: dict[str, MetricsLog] = {}
        self._noted: list[_Noted] = []
        self._then = (0, time.monotonic())

    @property
    def is_open(self) -> bool:
        return bool(self._logs)

    def open(self, loggers: Sequence[RunLogger], kept: Mapping[str, bytes], step: int) -> None:
        """Begin, or go on at a checkpoint's step with what it kept of each variant's file."""
        for variant, place in self._places.items():
            self._logs[variant] = MetricsLog(place / LOG, variant, loggers)
            self._logs[variant].restore(kept.get(variant, b""), self._say)
        self._then = (step, time.monotonic())

    def contents(self) -> dict[str, bytes]:
        """Every variant's file, whole."""
        self.write()
        return {variant: log.content() for variant, log in self._logs.items()}

    def note(self, step: int, steps: int, seconds: float) -> None:
        """Take the numbers of every SAE's last step."""
        batch, (before, then) = self._config.batch, self._then
        self._then = (step, time.monotonic())
        shared = {
            "step": step,
            "tokens": step * batch,
            "tokens_per_second": (step - before) * batch / max(self._then[1] - then, 1e-9),
            "seconds": seconds,
            "rss_bytes": resident_bytes(),
        }
        threshold = schedule.dead_threshold(self._config)
        for learner in self._learners:
            of_sae = {
                "lr": learner.lr * schedule.lr_factor(learner.config, step - 1),
                "tokens_per_latent": step * batch / learner.sae.width,
                "flops": spent(learner.sae, batch, step, steps),
                "step_seconds": learner.seconds,
            }
            self._noted.append(_Noted(learner, learner.numbers(threshold), shared, of_sae))

    def write(self) -> None:
        """Write what was noted; waits for the device where the numbers have not come."""
        noted, self._noted = self._noted, []
        records: dict[str, list[dict[str, Any]]] = {variant: [] for variant in self._logs}
        for note in noted:
            learner, by_site = note.learner, note.numbers.by_site()
            self._warn(learner, note.shared["step"], by_site[0])
            for site, numbers in zip(learner.view.sites, by_site, strict=True):
                record = {"kind": "train", "site": site, **note.shared, **numbers, **note.of_sae}
                records[learner.member.variant].append(record)
        for variant, lines in records.items():
            if lines:
                self._logs[variant].write(lines)
        if noted:
            self.last = shortly([line for lines in records.values() for line in lines])

    def held_out(self, variant: str, step: int, numbers: Mapping[str, Mapping[str, float]]) -> None:
        """Write what was measured on held-out tokens, by site."""
        self.write()
        about = {"step": step, "tokens": step * self._config.batch}
        self._logs[variant].write(
            [{"kind": "held_out", "site": site, **about, **numbers[site]} for site in numbers]
        )

    def at_step(self, step: int, steps: int) -> str:
        """The step and its numbers, for who watches."""
        threshold = schedule.dead_threshold(self._config)
        numbers = [x for learner in self._learners for x in learner.numbers(threshold).by_site()]
        return f"step {step:,} of {steps:,}, {shortly(numbers)}"

    def _warn(self, learner: Learner, step: int, stats: Mapping[str, Any]) -> None:
        """Pass on an SAE's warning about its step, once."""
        warning = learner.sae.warning(stats)
        if warning is not None and not learner.warned:
            learner.warned = True
            self._say(f"warning: {learner.name}, step {step:,}: {warning}")


def shortly(lines: Sequence[Mapping[str, Any]]) -> str:
    """Loss and FVU of the last step, the means of all SAEs and sites."""
    count = len(lines)
    loss = sum(sum(line["loss"].values()) for line in lines) / count
    fvu = sum(line["fvu"] for line in lines) / count
    return f"{'mean ' * (count > 1)}loss {loss:.4g}, FVU {fvu:.4g}"
