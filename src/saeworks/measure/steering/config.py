"""What `saeworks steer` measures, and on how much."""

import math
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT, Device
from saeworks.errors import UserError

DEMONSTRATION = ("units=metric", "name_gender=female", "domain=story")
"""Concepts of the embedded text that are steered where nothing else is asked for."""
_LEAST = {
    "tokens": 1,
    "cost_tokens": 1,
    "candidates": 1,
    "together": 1,
    "prompts": 8,
    "prompt_tokens": 1,
    "new_tokens": 1,
    "controls": 0,
    "bootstrap": 0,
    "seed": 0,
}


@dataclass(frozen=True, config=STRICT)
class SteeringConfig:
    """What `saeworks steer` measures, and on how much."""

    concepts: tuple[str, ...] = ()
    """Concepts to steer, such as `mood=happy` of the embedded text, or names in --words; by default
    three of the embedded text, or all in --words."""
    words: Path | None = None
    """A .jsonl file of concepts by their words, for any text and model: a line
    {"concept": "animal", "words": ["dog", "cat"]} for each. A concept stands on its words, and its
    rate is the share of generated tokens that are its words."""
    latents: tuple[int, ...] = ()
    """Latents to push together, of one suite, in place of those that are best for the concept;
    without a concept, the rate is the share of generated tokens on which they fire."""
    sites: tuple[str, ...] = ()
    """Where to steer: names, patterns or aliases such as `3@resid`; by default the suite's middle
    site."""
    task: str | None = None
    """Also measure the effect on the logits of a task: `ioi`, `greater_than`, `agreement`, or a
    .jsonl file of prompts."""
    edit: Literal["add", "clamp"] = "add"
    """How latents are pushed: their activation is raised by a value, or set to it."""
    together: int = 1
    """Best latents of a concept that are pushed together."""
    candidates: int = 5
    """Latents that correlate best with a concept, of which the one is taken that moves its rate
    most on prompts of its own."""
    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Norms of the pushes, in units of the site's RMS norm (about its mean); both ways."""
    cost: float = 0.1
    """ΔCE in nats per token at which latents and directions are compared."""
    tokens: int = 100_000
    """Held-out tokens: half to choose latents on, half for prompts and cost."""
    cost_tokens: int = 4096
    """Of them, tokens on which ΔCE is measured."""
    prompts: int = 64
    """Beginnings of held-out documents that the model goes on from; also of a task's prompts."""
    prompt_tokens: int = 8
    """Tokens of each."""
    new_tokens: int = 32
    """Tokens generated after each."""
    temperature: float = 1.0
    """Of sampling; 0 takes the likeliest token."""
    controls: int = 2
    """Random latents, and random directions, that are pushed as hard; 0 for none."""
    bootstrap: int = 1000
    """Resamples of the prompts behind each interval."""
    seed: int = 0
    """Of sampling, controls and bootstrap."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        for key, least in _LEAST.items():
            if getattr(self, key) < least:
                raise UserError(f"{key} = {getattr(self, key)}: it must be at least {least}")
        if not self.strengths:
            raise UserError("strengths is empty; give at least one, such as 1")
        for strength in self.strengths:
            if not (math.isfinite(strength) and strength > 0):
                raise UserError(
                    f"strengths has {strength}: each must be a finite number above 0 (it is pushed "
                    "both ways)"
                )
        if len(set(self.strengths)) < len(self.strengths):
            raise UserError(f"strengths = {self.strengths}: one of them stands twice")
        for key in ("cost", "temperature"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{key} = {value}: it must be a finite number, 0 or more")
        if len(set(self.latents)) < len(self.latents):
            raise UserError(f"latents = {self.latents}: one of them stands twice")
        if self.latents and min(self.latents) < 0:
            raise UserError(f"latents = {self.latents}: they are numbered from 0")

    @property
    def pushes(self) -> tuple[float, ...]:
        """Strengths in ascending order, negative ones and 0 among them."""
        up = sorted(self.strengths)
        return (*(-strength for strength in reversed(up)), 0.0, *up)
