"""What a run costs on this machine, by what pilots and their calibration measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from saeworks.advice.law import Array
from saeworks.cost.estimate import (
    Calibration,
    Part,
    PhaseSeconds,
    Predicted,
    Workload,
    predicted,
    shapes,
)


@dataclass(frozen=True)
class Speeds:
    """How fast this machine is, for SAEs of any shape.

    Attributes:
        measured: on `work`.
        work: what was timed: an SAE of each of the pilots' shapes.
        factor: seconds of the pilots over what was predicted of them.
        slower: factor from the middle of what is expected to its upper end.
    """

    measured: Calibration
    work: Workload
    factor: float = 1.0
    slower: float = 1.0

    @cached_property
    def steps(self) -> "StepLaw":
        """Seconds of a step of any SAE, before they are corrected."""
        return StepLaw.of(self.work.parts, self.measured, self.work.batch)

    def predict(self, work: Workload) -> Predicted:
        """The cost of a run, its seconds in the middle of what is expected."""
        speed, f = self.measured, self.factor
        batches, evaluated = work.batch / self.work.batch, work.eval_tokens / self.work.eval_tokens
        scaled = replace(
            speed,
            row_seconds=f * speed.row_seconds * work.lm.flops / self.work.lm.flops,
            draw_seconds=f * speed.draw_seconds * batches,
            shapes={p.shape: self.steps.seconds(p, work.batch, f) for p in work.parts},
            clean_seconds=f * speed.clean_seconds * evaluated,
            probe_seconds=f * speed.probe_seconds * evaluated,
            quiet=None,  # whatever else was busy: seconds are asked for, with a caveat
        )
        return predicted(work, scaled, groups=False)

    def seconds(self, work: Workload) -> float:
        """At the middle."""
        cost = self.predict(work)
        assert cost.seconds is not None
        return cost.seconds.total


@dataclass(frozen=True)
class StepLaw:
    """Seconds of a step: c₀ + c₁·FLOPs + c₂·parameters, no coefficient negative; for an SAE alone,
    and beside others where that was measured."""

    alone: Array
    beside: Array | None

    @classmethod
    def of(cls, parts: Sequence[Part], speed: Calibration, batch: int) -> "StepLaw":
        """Of the shapes that were timed."""
        first = [part for part, _ in shapes(parts).values()]
        rows = np.array([_features(part, batch) for part in first])
        phases = [speed.shapes[part.shape] for part in first]
        alone = np.array([sum(p.share * p.alone for p in each) for each in phases])
        if any(p.beside is None for each in phases for p in each):
            return cls(_fit(rows, alone), None)
        beside = np.array([sum(p.share * (p.beside or 0.0) for p in each) for each in phases])
        return cls(_fit(rows, alone), _fit(rows, beside))

    def seconds(self, part: Part, batch: int, factor: float = 1.0) -> tuple[PhaseSeconds]:
        """Of a step of any shape, as one phase."""
        row = factor * _features(part, batch)
        beside = None if self.beside is None else float(row @ self.beside)
        return (PhaseSeconds(1.0, float(row @ self.alone), beside),)


def _features(part: Part, batch: int) -> Array:
    return np.array([1.0, batch * part.flops(batch), float(part.parameters)])


def _fit(rows: Array, seconds: Array) -> Array:
    """Least squares of the relative errors."""
    from scipy.optimize import nnls

    scale = rows.max(axis=0)
    coefficients, _ = nnls(rows / scale / seconds[:, None], np.ones(len(seconds)))
    return np.asarray(coefficients / scale)


def calibration_of(plain: Mapping[str, Any]) -> Calibration:
    """A calibration that was written as plain values."""
    by_shape = {
        shape: tuple(PhaseSeconds(**phase) for phase in phases)
        for shape, phases in plain["shapes"].items()
    }
    return Calibration(**{**plain, "shapes": by_shape})
