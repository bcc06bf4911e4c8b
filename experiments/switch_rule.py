"""The rule of switch_criteria.md: when a number of ours reproduces one of the paper's."""

from collections.abc import Sequence
from dataclasses import dataclass

from switch_arms import Estimate


@dataclass(frozen=True)
class Part:
    """One number that a claim is judged by.

    Attributes:
        paper: its size in the paper, where one is published.
        sign: the direction that was predicted, the paper's unless given; 0 for none.
        least: the size from which on it is reproduced, half the paper's unless given.
        within: instead of the rule, reproduced if it is no larger than this.
        judged: whether the verdict counts it, or it stands beside.
        form: how it is written.
    """

    name: str
    found: Estimate
    paper: float | None = None
    sign: int = 0
    least: float = 0.0
    within: float | None = None
    judged: bool = True
    form: str = "+.1%"

    @property
    def verdict(self) -> str:
        """`reproduced`, `smaller` (the direction alone) or `not`; `different` or `no different`."""
        value = self.found.value
        if self.within is not None:
            return "reproduced" if abs(value) <= self.within else "not"
        low = value if self.found.low is None else self.found.low
        high = value if self.found.high is None else self.found.high
        published = self.paper or 0.0
        sign = self.sign or (published > 0) - (published < 0)
        if not sign:
            return "different" if low > 0 or high < 0 else "no different"
        if not (low > 0 if sign > 0 else high < 0):
            return "not"
        return "reproduced" if abs(value) >= max(self.least, abs(published) / 2) else "smaller"

    @property
    def remark(self) -> str:
        """The paper's number, and whether ours is far from it."""
        if self.paper is None:
            return ""
        large = self.verdict == "reproduced" and abs(self.found.value) > 2 * abs(self.paper)
        return f"{self.paper:{self.form}}{', ours more than twice that' if large else ''}"


@dataclass(frozen=True)
class Claim:
    """A claim or a question of switch_criteria.md, of that number; without parts, not measured."""

    number: int
    title: str
    parts: Sequence[Part]

    @property
    def verdict(self) -> str:
        """Over the parts that are judged; empty where nothing was predicted."""
        found = [part.verdict for part in self.parts if part.judged]
        if not found or {"different", "no different"} & set(found):
            return ""
        if all(verdict == "reproduced" for verdict in found):
            return "Reproduced"
        return "In part" if {"reproduced", "smaller"} & set(found) else "Not reproduced"
