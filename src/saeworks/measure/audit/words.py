"""Numbers of one site as an audit's sentences say them.

A sentence takes a side only where the whole interval lies on that side. Without an interval it
gives the point estimate, and says neither a side nor that there is no clear difference.
"""

from collections.abc import Mapping
from math import isfinite

from saeworks.results.metric import Value
from saeworks.results.words import with_interval

Sections = Mapping[str, Mapping[str, Value]]
"""Study → metric → value, at one site."""


def value_of(sections: Sections, section: str, metric: str) -> Value:
    """A value; an interval that has lost an end, or has one that is no number, is none."""
    value = sections.get(section, {}).get(metric, Value(None))
    known = [end is not None and isfinite(end) for end in (value.value, value.low, value.high)]
    return value if all(known) else Value(value.value if known[0] else None)


_ALONE = " (point estimate)"


def shown(value: Value) -> str:
    """`0.530 [0.510, 0.550]`, or `0.530 (point estimate)`."""
    return with_interval(value, lambda x: f"{x:.3f}", alone=_ALONE)


def percent(value: Value) -> str:
    """`53% [51%, 55%]`, with a decimal where it is small."""
    widest = max((abs(x) for x in (value.value, value.low, value.high) if x is not None), default=1)
    return with_interval(value, lambda x: f"{x:.1%}" if widest < 0.1 else f"{x:.0%}", alone=_ALONE)


def side(value: Value, threshold: float) -> int | None:
    """1 or −1 where the whole interval is above or below, 0 where the threshold is in it; None
    where there is no interval."""
    if value.low is None or value.high is None:
        return None
    return int(value.low > threshold) - int(value.high < threshold)


def minus(value: Value) -> Value:
    """−v, with its interval."""
    if value.value is None or value.low is None or value.high is None:
        return Value(None if value.value is None else -value.value)
    return Value(-value.value, -value.high, -value.low)
