"""Numbers as a reader wants them."""

import math

from saeforge.report.inputs import Value


def number(value: float | None) -> str:
    """Three significant digits; powers of ten only below a thousandth."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        text = f"{value:,.0f}"
    elif abs(value) >= 1e-3:
        text = f"{value:#.3g}"
    else:
        text = f"{value:.1e}".replace("e-0", "e-")
    return text.replace("-", "−")


def measured(value: Value | None) -> tuple[str, str]:
    """A value and its interval, both to two digits of the interval's half-width."""
    if value is None or value.value is None:
        return "–", ""
    if value.low is None or value.high is None or not value.high > value.low:
        return number(value.value), ""
    decimals = min(6, max(0, 1 - math.floor(math.log10((value.high - value.low) / 2))))
    shown = [f"{x:,.{decimals}f}".replace("-", "−") for x in (value.value, value.low, value.high)]
    return shown[0], f"{shown[1]} to {shown[2]}"


def count(value: float | None) -> str:
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
