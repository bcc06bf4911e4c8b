"""Intervals over a handful of repetitions, such as seeds."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev


def student(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean and the ends of Student's 95% interval: mean ± t₀.₉₇₅(n − 1) · s / √n.

    s has the denominator n − 1; of one value there is no interval.
    """
    mean = fmean(values)
    if len(values) < 2:
        return mean, None, None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return mean, mean - half, mean + half
