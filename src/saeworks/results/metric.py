"""A number of a result, and how to read it."""

from typing import Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT


@dataclass(frozen=True, config=STRICT)
class Metric:
    """How to read a number."""

    title: str
    """Short name, for a table's head."""
    description: str
    """The formula in words, and over what it runs."""
    unit: str = ""
    """Empty where it has none."""
    better: Literal["lower", "higher", "one", "none"] = "none"
    """Which way is better; `one`: the nearer to 1."""


@dataclass(frozen=True, config=STRICT)
class Value:
    """A value with its 95% interval; None where it is undefined (0/0) or cannot be estimated."""

    value: float | None
    low: float | None = None
    high: float | None = None
