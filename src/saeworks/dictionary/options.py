"""What every architecture's options begin with."""

from dataclasses import KW_ONLY
from typing import Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT


@dataclass(frozen=True, config=STRICT)
class Options:
    """Width, and what of the directions is not trained."""

    width: int
    """M, the number of latents."""
    _: KW_ONLY
    frozen: Literal["none", "encoder", "decoder"] = "none"
    """Directions that keep their random start: a baseline that a trained SAE must beat (Korznikov
    et al. 2026, 2602.14111). Biases, thresholds and routers are trained all the same."""
