"""Seconds of a training step of every arm: one thread each, all in turn."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from experiments.runs import machine
from saeworks.config import RunConfig, from_mapping, read_yaml
from saeworks.cost.estimate import Part
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.registry import ARCHS, sae_config
from saeworks.measure.banks import for_each_site
from saeworks.measure.suites import held_out_tokens
from saeworks.train.live_job import LiveJob
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

ROUNDS = 5
STILL = 1e-9
"""Learning rate: a step is timed, not made."""


def measure(configs: Sequence[Path]) -> dict[str, Any]:
    """Variant → FLOPs per token and seconds per step, the median of the rounds and the least.

    No latent is dead, so AuxK is not among what is timed.
    """
    jobs = [
        LiveJob.prepare(from_mapping(RunConfig, read_yaml(path), str(path))) for path in configs
    ]
    parts = {part.variant: part for job in jobs for part in job.work.parts}
    batch_rows = jobs[0].work.batch
    torch.set_num_threads(1)
    x_BD = rows(jobs[0], batch_rows)
    arms = {name: arm(part, x_BD) for name, part in parts.items()}
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(1 + ROUNDS):
        for name, (sae, optimiser) in arms.items():
            begin = perf_counter()
            train_step(sae, optimiser, Batch(x_BD, x_BD), context(), STILL)
            if number:  # the first warms up
                found[name].append(perf_counter() - begin)
    return {
        "batch": batch_rows,
        "rounds": ROUNDS,
        "threads": 1,
        "machine": machine(),
        "arms": {
            name: {
                "flops": parts[name].flops(batch_rows),
                "seconds": statistics.median(seconds),
                "least": min(seconds),
            }
            for name, seconds in found.items()
        },
    }


def rows(job: LiveJob, count: int) -> torch.Tensor:
    """A batch of normalised activations."""
    config = job.config
    held_out = held_out_tokens(job.lm, config.text, config.seed, count)
    parts: list[torch.Tensor] = []
    (site,) = job.work.planes
    for_each_site(job.lm, [site], held_out, lambda _, x, __: parts.append(x), lambda _: None)
    x_BD = torch.cat(parts)[:count]
    return Normaliser.estimate(x_BD).normalise(x_BD)


def arm(part: Part, x_BD: torch.Tensor) -> tuple[Any, DictionaryAdam]:
    sae = ARCHS[part.arch](x_BD.shape[1], sae_config(part.arch, part.options, part.variant))
    sae.initialise(x_BD, torch.Generator().manual_seed(0))
    return sae, DictionaryAdam(sae, STILL)


def context() -> Context:
    """Halfway through the run, no latent dead."""
    return Context(torch.empty(0, dtype=torch.int64), 0.5)
