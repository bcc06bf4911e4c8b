"""Shares with Wilson's intervals, their differences with Newcombe's, agreement of raters, power.

A share is x / n: x of n latents. Where several people judged a latent, it adds to x the share of
them who said yes; then the interval is, if anything, too wide, since a mean of answers varies less
than one answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, lgamma, sqrt
from statistics import NormalDist

from saeworks.results.metric import Value

Z = NormalDist().inv_cdf(0.975)
"""Standard deviations on either side of a 95% interval."""
POWER = 0.8
"""The probability with which a difference is to be found."""


@dataclass(frozen=True)
class Count:
    """x of n latents."""

    x: float | int
    n: int

    @property
    def share(self) -> float:
        return self.x / self.n

    def __add__(self, other: "Count") -> "Count":
        return Count(self.x + other.x, self.n + other.n)


def wilson(count: Count, z: float = Z) -> tuple[float, float]:
    """The ends of Wilson's interval of a share p = x / n (Wilson 1927):

    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n).
    """
    p, n = count.share, count.n
    centre, spread = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)
    return max(0.0, low), min(1.0, high)


def share(count: Count) -> Value:
    """A share with Wilson's interval; undefined where n = 0."""
    return Value(count.share, *wilson(count)) if count.n else Value(None)


def difference(pairs: Sequence[tuple[Count, Count]]) -> Value:
    """The mean over strata (sites) of p − q, with the stratified Newcombe interval.

    P, L and U are the means over strata of a suite's shares and of their Wilson limits, D = P − Q:

    [D − √((P − L_P)² + (U_Q − Q)²), D + √((U_P − P)² + (Q − L_Q)²)].

    The limits of each stratum are at z' = z √(Σ w² v) / Σ w √v, so that they fit together: w is the
    weight of a stratum and v the variance of its share, at Agresti and Coull's centre, where it is
    not 0 though all latents be judged alike. Of one stratum this is Newcombe's method 10 (1998); of
    several, Yan and Su (2010).
    """
    if not pairs or any(count.n == 0 for pair in pairs for count in pair):
        return Value(None)
    first, second = zip(*pairs)
    p, p_low, p_high = _stratified(first)
    q, q_low, q_high = _stratified(second)
    low = p - q - sqrt((p - p_low) ** 2 + (q_high - q) ** 2)
    high = p - q + sqrt((p_high - p) ** 2 + (q - q_low) ** 2)
    return Value(p - q, max(-1.0, low), min(1.0, high))


def _stratified(counts: Sequence[Count]) -> tuple[float, float, float]:
    """The mean share over strata and the ends of its interval."""
    weight = 1 / len(counts)
    variances = []
    for count in counts:
        centre = (count.x + Z * Z / 2) / (count.n + Z * Z)
        variances.append(centre * (1 - centre) / (count.n + Z * Z))
    z = Z * sqrt(sum(weight**2 * v for v in variances)) / sum(weight * sqrt(v) for v in variances)
    limits = [wilson(count, z) for count in counts]
    return (
        weight * sum(count.share for count in counts),
        weight * sum(low for low, _ in limits),
        weight * sum(high for _, high in limits),
    )


Ratings = Sequence[Sequence[str]]
"""One list of verdicts per latent, a verdict per rater."""


def fleiss(ratings: Ratings) -> float | None:
    """Fleiss' κ = (P − P_e) / (1 − P_e) of latents that the same number of raters judged (1971).

    P is the mean share of pairs of raters who agree on a latent, P_e = Σ_c p_c² with p_c the share
    of all verdicts that are c. Undefined where all verdicts are the same, or there is one rater.
    """
    if not ratings or len(ratings[0]) < 2:
        return None
    raters = len(ratings[0])
    agreed = sum(
        sum(a == b for a, b in combinations(latent, 2)) / comb(raters, 2) for latent in ratings
    )
    every = [verdict for latent in ratings for verdict in latent]
    chance = sum((every.count(verdict) / len(every)) ** 2 for verdict in sorted(set(every)))
    return _kappa(agreed / len(ratings), chance)


def cohen(ratings: Ratings) -> float | None:
    """Cohen's κ = (P − P_e) / (1 − P_e) of two raters (1960).

    P is the share of latents on which they agree, P_e = Σ_c p_c q_c with p_c, q_c the shares of
    each rater's verdicts that are c. Undefined where both always say the same verdict.
    """
    if not ratings:
        return None
    first, second = zip(*ratings)
    chance = sum(
        first.count(verdict) * second.count(verdict) / len(ratings) ** 2
        for verdict in sorted(set(first))
    )
    return _kappa(sum(a == b for a, b in ratings) / len(ratings), chance)


def _kappa(agreed: float, chance: float) -> float | None:
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def over_latents(
    statistic: Callable[[Ratings], float | None], ratings: Ratings, resamples: int = 1000
) -> Value:
    """A statistic of ratings with its percentile interval from resamples of the latents."""
    import numpy as np

    value = statistic(ratings)
    if value is None:
        return Value(None)
    rng = np.random.default_rng(0)
    drawn = (rng.integers(len(ratings), size=len(ratings)) for _ in range(resamples))
    found = [statistic([ratings[at] for at in places]) for places in drawn]
    defined = [statistic_ for statistic_ in found if statistic_ is not None]
    low, high = np.quantile(defined, [0.025, 0.975])
    return Value(value, float(low), float(high))


def power(n: int, gap: float) -> float:
    """The probability that Newcombe's interval of a difference excludes 0, where n latents of each
    of two suites are judged and the true shares are ½ ± gap / 2, at which a difference is hardest
    to find. Exact: the sum over all outcomes."""
    import numpy as np

    x = np.arange(n + 1)
    low, high = np.array([wilson(Count(int(count), n)) for count in x]).T
    p = x / n
    above = p[:, None] - p - np.sqrt((p - low)[:, None] ** 2 + (high - p) ** 2) > 0
    log_comb = np.array([lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) for k in x])
    chances = []
    for true in (0.5 + gap / 2, 0.5 - gap / 2):
        if true in (0.0, 1.0):
            chances.append((x == n * true).astype(float))
        else:
            chances.append(np.exp(log_comb + x * np.log(true) + (n - x) * np.log1p(-true)))
    either = above | above.T
    return float(chances[0] @ either @ chances[1])


def detectable(n: int) -> float | None:
    """The smallest difference of shares that `power` finds with 80%, to a thousandth; None where
    not even 0 against 1 is."""
    low, high = 0, 1000
    if power(n, 1.0) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(n, middle / 1000) >= POWER else (middle, high)
    return high / 1000
