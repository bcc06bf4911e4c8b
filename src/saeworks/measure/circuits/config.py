"""What `saeworks circuits` measures, and on how much."""

from typing import Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT, Device
from saeworks.errors import UserError

ALL = "all"
"""Stands for every task that has a name."""
Attribution = Literal["integrated", "plain"]


@dataclass(frozen=True, config=STRICT)
class CircuitsConfig:
    """What `saeworks circuits` measures, and on how much."""

    task: tuple[str, ...] = (ALL,)
    """`ioi` (indirect object), `greater_than`, `agreement` (of subject and verb), `all` three, or
    .jsonl files of prompts."""
    prompts: int = 128
    """Pairs of prompts of each task, over all its cases."""
    nodes: tuple[int, ...] = (1, 3, 10, 30, 100, 300)
    """Sizes of the circuits, in nodes per site. The areas under the curves run from the first to
    the last of them, so only those over the same sizes can be compared."""
    attribution: Attribution = "integrated"
    """How nodes are ranked: `integrated`, by gradients along the way from the clean to the patched
    activation; `plain`, by the gradient at the clean one (attribution patching), in a tenth of the
    time."""
    steps: int = 10
    """Points at which the gradient is taken on that way."""
    exact: int = 32
    """Latents of each site, drawn from those that the patch changes, whose effect is also measured
    by patching each alone; 0 for none."""
    graph: int = 0
    """Also measure how the circuit's latents act on one another, for the graph in the report: of
    so many latents of each site, at their positions; 0 for none."""
    bootstrap: int = 1000
    """Resamples of the prompts behind each interval."""
    seed: int = 0
    """Seed of the prompts, of the controls and of the bootstrap."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        for key, least in (
            ("prompts", 1),
            ("steps", 1),
            ("exact", 0),
            ("graph", 0),
            ("bootstrap", 0),
        ):
            if getattr(self, key) < least:
                raise UserError(f"{key} = {getattr(self, key)}: it must be at least {least}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed = {self.seed}: it must be at least 0 and below 2^63")
        if not self.task:
            raise UserError("task is empty; name one, such as ioi, or all")
        if len(self.nodes) < 2 or self.nodes[0] < 1 or sorted(set(self.nodes)) != list(self.nodes):
            raise UserError(
                f"nodes = {' '.join(map(str, self.nodes))}: at least two numbers from 1 on, "
                "ascending, since a curve is drawn through them"
            )
