"""Numbers that follow from a run's configuration: learning rates, steps, the dead threshold."""

from collections.abc import Mapping
from dataclasses import asdict
from math import sqrt
from typing import Any

from saeworks.config import TrainConfig, from_mapping
from saeworks.errors import UserError

PER_VARIANT = ("lr", "warmup", "decay", "betas", "eps", "clip")
"""Keys of TrainConfig that a variant may set for itself."""


def variant_config(config: TrainConfig, changes: Mapping[str, Any], where: str) -> TrainConfig:
    """The run's configuration with a variant's `train` over it.

    Raises:
        UserError: for a key that is not in PER_VARIANT, or a value that makes no run.
    """
    unknown = sorted(changes.keys() - set(PER_VARIANT))
    if unknown:
        raise UserError(
            f"{where}: train.{unknown[0]} cannot differ between SAEs (allowed: "
            f"{', '.join(PER_VARIANT)})"
        )
    return from_mapping(TrainConfig, {**asdict(config), **changes}, where)


def steps(config: TrainConfig) -> int:
    """Steps of the run: the last batch may go a little beyond the tokens asked for."""
    return -(-config.tokens // config.batch)


def base_lr(config: TrainConfig, width: int) -> float:
    """2e-4/√(M/2¹⁴) · min(8, max(1, √(10⁵/steps))) unless a learning rate is given.

    The first factor is the 1/√M law (Gao et al. 2024, §A.3), whose constant was found on runs of
    10⁵ steps and more; on runs of some hundred steps four to eight times that reaches a much lower
    FVU (docs/decisions.md).
    """
    if config.lr is not None:
        return config.lr
    shorter = min(8.0, max(1.0, sqrt(1e5 / steps(config))))
    return 2e-4 / sqrt(width / 2**14) * shorter


def lr_factor(config: TrainConfig, step: int) -> float:
    """Share of the base learning rate at `step` (from 0): up, level, down linearly.

    The first and the last step are not at 0, where they would do nothing.
    """
    total = steps(config)
    up, down = config.warmup * total, config.decay * total
    rising = (step + 1) / up if up > 0 else 1.0
    falling = (total - step) / down if down > 0 else 1.0
    return min(1.0, rising, falling)


def dead_threshold(config: TrainConfig) -> int:
    """Tokens without firing after which a latent is dead: min(10M, a thirtieth of the run)."""
    if config.dead_tokens is not None:
        return config.dead_tokens
    return max(1, min(10_000_000, config.tokens // 30))
