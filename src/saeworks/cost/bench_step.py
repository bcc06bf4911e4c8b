"""Measurements behind `saeworks bench`: one dictionary of plain numbers each."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, fields
from time import perf_counter
from typing import Any

import torch

from saeworks.config import DEFAULT_SAE, PrecisionChoice
from saeworks.cost.machine import (
    Neighbours,
    forget_peak,
    memory_kept,
    peak_bytes,
    processor,
    resident_bytes,
)
from saeworks.cost.precision import choose_precision
from saeworks.dictionary.base import SAE, Batch, Context
from saeworks.dictionary.registry import ARCHS, build_sae
from saeworks.dictionary.stages import measured
from saeworks.errors import UserError
from saeworks.lm.device import choose_device
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

_ROUND_SECONDS = 0.25


def bench_step(
    arch: str = DEFAULT_SAE["arch"],
    d: int = 768,
    width: int = 24576,
    k: int | None = None,
    batch: int = 8192,
    experts: int | None = None,
    threads: int | None = None,
    dtype: str = "float32",
    device: str = "auto",
    rounds: int = 5,
    precision: PrecisionChoice = "float32",
) -> dict[str, Any]:
    """Time the trainer's own step on random rows; k is 32 where it is an option and not given.

    A round is one step, or as many as fill a quarter of a second. Memory is counted from before
    the optimiser exists, so that its state is in the difference. Stages are measured in a step of
    their own, after the rounds.

    Raises:
        UserError: if an option is out of range.
    """
    if k is None and any(option.name == "k" for option in fields(ARCHS[arch].Config)):
        k = 32
    options = {"width": width, "k": k, "experts": experts}
    for name, value in {"batch": batch, "rounds": rounds, "threads": threads}.items():
        if value is not None and value < 1:
            raise UserError(f"bench step: {name} = {value} must be at least 1")
    target = choose_device(device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        bench = _StepBench.build(
            arch, d, {n: v for n, v in options.items() if v is not None}, batch, target, precision
        )
        with memory_kept():
            measures = bench.measure(rounds)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    return {
        "arch": arch,
        "d": d,
        "width": width,
        "k": k,
        "batch": batch,
        "experts": experts,
        "threads": used,
        "device": str(target),
        "dtype": dtype,
        "precision": bench.context.precision,
        **measures,
        "processor": processor(),
        "torch": torch.__version__,
    }


@dataclass
class _StepBench:
    """An SAE and a batch, ready to be stepped."""

    sae: SAE
    batch: Batch
    context: Context
    device: torch.device

    @classmethod
    def build(
        cls,
        arch: str,
        d: int,
        options: dict[str, int],
        rows: int,
        device: torch.device,
        precision: PrecisionChoice,
    ) -> "_StepBench":
        generator = torch.Generator().manual_seed(0)
        sae = build_sae(arch, d, **options)
        x_BD = torch.randn(rows, d, generator=generator)
        sae.initialise(x_BD[:1024], generator)
        x_BD = x_BD.to(device)
        dead = torch.empty(0, dtype=torch.int64, device=device)
        chosen = choose_precision(precision, [sae], device).precision
        return cls(sae.to(device), Batch(x_BD, x_BD), Context(dead, 0.5, chosen), device)

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def measure(self, rounds: int) -> dict[str, Any]:
        self.synchronise()
        forget_peak()
        start = resident_bytes()
        optimiser = DictionaryAdam(self.sae, lr=1e-4)

        def step() -> None:
            train_step(self.sae, optimiser, self.batch, self.context, 1e-4)

        for _ in range(2):
            once = self._seconds(step, 1)
        steps = max(1, math.ceil(_ROUND_SECONDS / once))
        neighbours = Neighbours()
        seconds = [self._seconds(step, steps) for _ in range(rounds)]
        quiet, reason = neighbours.verdict()
        median = statistics.median(seconds)
        peak = peak_bytes()
        return {
            "tokens_per_second": self.batch.x.shape[0] / median,
            "seconds_per_step": {"median": median, "min": min(seconds), "max": max(seconds)},
            "steps_per_round": steps,
            "rounds": rounds,
            "peak_rss_bytes": peak,
            "peak_rss_above_start_bytes": max(0, peak - start),
            **self._device_memory(),
            "stages": self._stages(step),
            "quiet": quiet,
            "quiet_reason": reason,
        }

    def _seconds(self, step: Callable[[], None], steps: int) -> float:
        start = perf_counter()
        for _ in range(steps):
            step()
        self.synchronise()
        return (perf_counter() - start) / steps

    def _device_memory(self) -> dict[str, int]:
        if self.device.type != "cuda":
            return {}
        return {"peak_device_bytes": torch.cuda.max_memory_allocated(self.device)}

    def _stages(self, step: Callable[[], None]) -> dict[str, float]:
        """Seconds of one step by stage; `rest` is what no stage names."""
        with measured(self.synchronise) as stages:
            total = self._seconds(step, 1)
        return {**stages, "rest": max(0.0, total - sum(stages.values()))}
