"""The type checker that the jaxtyping hook puts on every function of saeworks under pytest."""

from collections.abc import Callable
from typing import Any

from beartype import beartype
from beartype.roar import BeartypeDecorHintPep673Exception


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Beartype, but for methods annotated with `Self`, which it can check only as a whole class."""
    try:
        return beartype(function)
    except BeartypeDecorHintPep673Exception:
        return function
