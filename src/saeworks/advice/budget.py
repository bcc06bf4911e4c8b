"""Budgets and targets, as they are written: `2h`, `1e17flops`, `10GiB`; `fvu=0.1`."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from saeworks.config import parse_bytes, show_bytes
from saeworks.cost.progress import duration
from saeworks.errors import UserError
from saeworks.results.headlines import DELTA_CE, FVU

TARGETS = (FVU, DELTA_CE)
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)")
_WAYS = "write a time (2h, 1h30min, 90s), operations (1e17flops) or memory (10GiB)"


@dataclass(frozen=True)
class Budget:
    """What a run may take, its pilots included; None where that is not bounded."""

    seconds: float | None = None
    flops: float | None = None
    memory: int | None = None

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "Budget":
        """Of one text for each kind.

        Raises:
            UserError: if there is none, one is none of the three kinds, or two are of one kind.
        """
        if not texts:
            raise UserError(f"no budget is given; {_WAYS}")
        limits: dict[str, float] = {}
        for text in texts:
            kind, value = _read(text)
            if kind in limits:
                raise UserError(f"budget {text!r} is the second one of {kind}; give one")
            limits[kind] = value
        memory = limits.get("memory")
        return cls(
            limits.get("seconds"), limits.get("flops"), None if memory is None else int(memory)
        )

    def __str__(self) -> str:
        parts = [
            None if self.seconds is None else duration(self.seconds),
            None if self.flops is None else f"{self.flops:.3g} FLOPs",
            None if self.memory is None else show_bytes(self.memory),
        ]
        return " and ".join(part for part in parts if part)


@dataclass(frozen=True)
class Goal:
    """What a run must reach: a metric's mean over the sites, at most `value`."""

    metric: str
    value: float

    @classmethod
    def parse(cls, text: str) -> "Goal":
        """Of `fvu=0.1` or `delta_ce=0.02`.

        Raises:
            UserError: if it is neither, or the number is not positive (FVU: and below 1).
        """
        metric, _, number = text.replace(" ", "").partition("=")
        most = 1.0 if metric == FVU else math.inf
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if metric not in TARGETS or not 0 < value < most:
            raise UserError(
                f"target {text!r}: write {FVU}=0.1 (above 0, below 1) or {DELTA_CE}=0.02 (nats)"
            )
        return cls(metric, value)

    def __str__(self) -> str:
        return f"{self.metric}={self.value:g}"


def _read(text: str) -> tuple[str, float]:
    plain = text.strip().lower().replace(" ", "")
    kind, value = "", math.nan
    if plain.endswith("flops"):
        kind, value = "flops", _number(plain.removesuffix("flops"))
    elif plain and not _PART.sub("", plain):
        kind = "seconds"
        value = sum(float(n) * _SECONDS[unit] for n, unit in _PART.findall(plain))
    elif plain.endswith("b"):
        kind, value = "memory", float(parse_bytes(text))
    if not 0 < value < math.inf:
        raise UserError(f"budget {text!r}: {_WAYS}")
    return kind, value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
