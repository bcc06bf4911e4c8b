"""What the tests of single architectures share: weights drawn anew, rows, a step, ways to code."""

import pytest
import torch

from saeworks.dictionary.base import SAE, Batch, Context, StepOut

NONE_DEAD = torch.empty(0, dtype=torch.int64)
both_ways = pytest.mark.parametrize("way", ["sparse", "dense"], indirect=True)


def draw_weights(sae: SAE) -> None:
    """Draw every parameter anew, away from encoder = decoder and zero biases."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)


def rows(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype)


def step(sae: SAE, x: torch.Tensor, progress: float = 0.5) -> StepOut:
    return sae.step(Batch(x, x), Context(NONE_DEAD, progress))
