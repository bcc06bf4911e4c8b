"""Values as sentences say them: with their intervals, in one style."""

from collections.abc import Callable

from saeworks.results.metric import Value

UNDEFINED = "undefined"


def with_interval(
    value: Value, text: Callable[[float], str], absent: str = UNDEFINED, alone: str = ""
) -> str:
    """`0.53 [0.51, 0.55]`, with a true minus sign, and none before a zero.

    Args:
        text: a number as it is written.
        absent: what stands where there is no value.
        alone: what follows a value without an interval.
    """

    def signed(x: float) -> str:
        digits = text(x).replace("-", "−")
        return digits if any(c in "123456789" for c in digits) else digits.lstrip("−+")

    if value.value is None:
        return absent
    if value.low is None or value.high is None:
        return f"{signed(value.value)}{alone}"
    return f"{signed(value.value)} [{signed(value.low)}, {signed(value.high)}]"


def decimal(value: Value, digits: int = 2, absent: str = UNDEFINED) -> str:
    """`0.71 [0.68, 0.74]`."""
    return with_interval(value, lambda x: f"{x:.{digits}f}", absent)


def percent(value: Value, absent: str = UNDEFINED) -> str:
    """`62% [58%, 66%]`."""
    return with_interval(value, lambda x: f"{x:.0%}", absent)


def points(value: Value, absent: str = UNDEFINED) -> str:
    """A difference of shares in percentage points: `+5 [−9, +19]`."""
    return with_interval(value, lambda x: f"{100 * x:+.0f}", absent)
