"""Numbers with their intervals, and when a criterion counts as reproduced."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from saeworks.results.statistics import student

REPRODUCED, PART, NOT, NONE = "reproduced", "in part", "not reproduced", "not measured"
MARKS = (NONE, NOT, PART, REPRODUCED)
"""From worst to best."""


class Number(NamedTuple):
    """A value with its 95% interval; without one, both ends are the value."""

    value: float
    low: float
    high: float

    def meets(self, low: float, high: float = math.inf) -> bool:
        """Whether the interval has a point in a range."""
        return self.high >= low and self.low <= high

    def differs(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def map(self, scale: float = 1.0, shift: float = 0.0) -> "Number":
        """scale·(n + shift), with a positive scale."""
        return Number(*(scale * (end + shift) for end in self))

    def __format__(self, form: str) -> str:
        if self.low == self.high:
            return f"{self.value:{form}}"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"

    def record(self) -> dict[str, float | None]:
        """As it is written into JSON, where a missing interval is null."""
        low, high = (None, None) if self.low == self.high else (self.low, self.high)
        return {"value": self.value, "low": low, "high": high}


def number(found: Mapping[str, Any] | Sequence[Any] | None) -> Number | None:
    """What JSON holds: a record or its three values; None where there is no value."""
    if isinstance(found, Mapping):
        found = [found["value"], found.get("low"), found.get("high")]
    if found is None or found[0] is None:
        return None
    value, low, high = found
    return Number(value, value if low is None else low, value if high is None else high)


def known(found: Mapping[str, Any] | Sequence[Any]) -> Number:
    """The same, where it must have a value."""
    n = number(found)
    assert n is not None, found
    return n


def over_seeds(values: Sequence[float]) -> Number:
    """The mean with Student's 95% interval."""
    return known(student(values))


def hull(numbers: Iterable[Number | None]) -> Number | None:
    """The mean of several intervals' values, with the ends that all of them lie within."""
    some = [n for n in numbers if n is not None]
    if not some:
        return None
    mean = sum(n.value for n in some) / len(some)
    return Number(mean, min(n.low for n in some), max(n.high for n in some))


def mark(holds: Iterable[bool], partly: bool = False) -> str:
    """Reproduced where all hold; otherwise in part where `partly`."""
    holds = list(holds)
    if not holds:
        return NONE
    return REPRODUCED if all(holds) else PART if partly else NOT


def reaches(mark: str, other: str) -> bool:
    """Whether a mark is at least as good as another."""
    return MARKS.index(mark) >= MARKS.index(other)


def worst(marks: Iterable[str]) -> str:
    """The mark that all of them reach."""
    return min(marks, key=MARKS.index, default=NONE)


def side(n: Number | None, above: str, below: str, neither: str) -> str:
    """The word for the side of 0 on which the whole interval lies."""
    if n is None or not n.differs():
        return neither
    return above if n.low > 0 else below


@dataclass(frozen=True)
class Part:
    """One number that a claim is judged by, beside the published one.

    Attributes:
        paper: its size in the paper, where one is published.
        sign: the direction that was predicted, the paper's unless given; 0 for none.
        least: the size from which on it is reproduced, half the paper's unless given.
        within: instead of the rule, reproduced if it is no larger than this.
        judged: whether the verdict counts it, or it stands beside.
        form: how it is written.
    """

    name: str
    found: Number
    paper: float | None = None
    sign: int = 0
    least: float = 0.0
    within: float | None = None
    judged: bool = True
    form: str = "+.1%"

    @property
    def verdict(self) -> str:
        """`reproduced`, `smaller` (the direction alone) or `not`; `different` or `no different`."""
        size = abs(self.found.value)
        if self.within is not None:
            return "reproduced" if size <= self.within else "not"
        published = self.paper or 0.0
        sign = self.sign or (published > 0) - (published < 0)
        if not sign:
            return "different" if self.found.differs() else "no different"
        if not (self.found.low > 0 if sign > 0 else self.found.high < 0):
            return "not"
        return "reproduced" if size >= max(self.least, abs(published) / 2) else "smaller"

    @property
    def remark(self) -> str:
        """The paper's number, and whether ours is far from it."""
        if self.paper is None:
            return ""
        large = self.verdict == "reproduced" and abs(self.found.value) > 2 * abs(self.paper)
        return f"{self.paper:{self.form}}{', ours more than twice that' if large else ''}"


@dataclass(frozen=True)
class Claim:
    """A claim or a question with its number in the criteria; without parts, not measured."""

    number: int
    title: str
    parts: Sequence[Part]

    @property
    def verdict(self) -> str:
        """Over the parts that are judged; empty where nothing was predicted."""
        marks = [part.verdict for part in self.parts if part.judged]
        if not marks or {"different", "no different"} & set(marks):
            return ""
        some = bool({"reproduced", "smaller"} & set(marks))
        return mark((m == "reproduced" for m in marks), some)
