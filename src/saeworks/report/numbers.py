"""Numbers as a reader wants them."""

import math
from collections.abc import Iterable
from statistics import median

from saeworks.results.metric import Value


def number(value: int | float | None) -> str:
    """Three significant digits; powers of ten only below a thousandth."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        text = f"{value:,.0f}"
    elif value == int(value):
        text = f"{value:.0f}"
    elif abs(value) >= 1e-3:
        text = f"{value:#.3g}"
    else:
        text = f"{value:.1e}".replace("e-0", "e-")
    return text.replace("-", "−")


def decimals(values: Iterable[Value | None]) -> int | None:
    """Decimals that show two digits of the median interval's half-width; None without intervals."""
    known = [v for v in values if v is not None and v.low is not None and v.high is not None]
    halves = [(v.high - v.low) / 2 for v in known if v.high > v.low]  # type: ignore[operator]
    if not halves:
        return None
    return min(6, max(0, 1 - math.floor(math.log10(median(halves)))))


def measured(value: Value | None, digits: int | None) -> tuple[str, str]:
    """A value and its interval as text, with `digits` decimals if given."""
    if value is None or value.value is None:
        return "–", ""

    def shown(x: float) -> str:
        return number(x) if digits is None else f"{x:,.{digits}f}".replace("-", "−")

    if value.low is None or value.high is None or not value.high > value.low:
        return shown(value.value), ""
    return shown(value.value), f"{shown(value.low)} to {shown(value.high)}"


def count(value: int | float | None) -> str:
    """`3300000` → `3.30 million`; small counts in full."""
    if value is None:
        return "–"
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.2f}"


def rounded(value: float | None) -> float | None:
    """Five significant digits: what a chart can show, at half the bytes."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
