"""Shares with Wilson's intervals, their differences with Newcombe's, agreement of raters, power.

A share is x / n: x of n latents. Where several people judged a latent, it adds to x the share of
them who said yes; then the interval is, if anything, too wide, since a mean of answers varies less
than one answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma, sqrt
from statistics import NormalDist
from typing import Any, Literal

from saeworks.results.metric import Value

Verdict = Literal["yes", "maybe", "no"]
VERDICTS: tuple[Verdict, ...] = ("yes", "maybe", "no")
"""Whether a latent is interpretable, in the scale of Rajamanoharan et al. (2024)."""

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


@dataclass(frozen=True)
class RaterAgreement:
    """What κ = (P − P_e) / (1 − P_e) is made of, latent by latent; N latents, C verdicts.

    Attributes:
        agreed_N: the share of pairs of raters who agree; P is its mean.
        first_NC, second_NC: shares of the verdicts; P_e = Σ_c p_c q_c of their means p and q.
    """

    agreed_N: Any
    first_NC: Any
    second_NC: Any

    def kappa(self, resamples: int = 1000) -> Value:
        """κ with its percentile interval from resamples of the latents, as far as it is defined."""
        import numpy as np

        latents = len(self.agreed_N)
        if not latents:
            return Value(None)
        draws_RN = np.random.default_rng(0).integers(latents, size=(resamples, latents))
        values_R = self._at(np.concatenate([np.arange(latents)[None], draws_RN]))
        if np.isnan(values_R[0]):
            return Value(None)
        low, high = np.nanquantile(values_R[1:], [0.025, 0.975])
        return Value(float(values_R[0]), float(low), float(high))

    def _at(self, draws_RN: Any) -> Any:
        """κ of each row of latents; NaN where all verdicts are the same."""
        import numpy as np

        chance_R = sum(
            self.first_NC[:, c][draws_RN].mean(1) * self.second_NC[:, c][draws_RN].mean(1)
            for c in range(self.first_NC.shape[1])
        )
        agreed_R = self.agreed_N[draws_RN].mean(1)
        possible_R = 1 - chance_R
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(possible_R > 1e-12, (agreed_R - chance_R) / possible_R, np.nan)


def fleiss(ratings: Ratings) -> RaterAgreement:
    """Fleiss' κ, of latents that the same number of raters judged (1971): P_e = Σ_c p_c², with p_c
    the share of all verdicts that are c. Undefined where all verdicts are the same."""
    import numpy as np

    counts_NC = sum(_one_hot([latent[at] for latent in ratings]) for at in range(_raters(ratings)))
    raters = _raters(ratings)
    agreed_N = (counts_NC * (counts_NC - 1)).sum(1) / max(1, raters * (raters - 1))
    shares_NC = counts_NC / raters
    return RaterAgreement(np.asarray(agreed_N), shares_NC, shares_NC)


def cohen(ratings: Ratings) -> RaterAgreement:
    """Cohen's κ, of two raters (1960): P_e = Σ_c p_c q_c, with p_c, q_c the shares of each rater's
    verdicts that are c. Undefined where both always say the same verdict."""
    first_NC, second_NC = (_one_hot([latent[at] for latent in ratings]) for at in (0, 1))
    return RaterAgreement((first_NC * second_NC).sum(1), first_NC, second_NC)


def _raters(ratings: Ratings) -> int:
    return len(ratings[0]) if ratings else 1


def _one_hot(verdicts: Sequence[str]) -> Any:
    import numpy as np

    kinds = np.array(VERDICTS)
    return (np.array(verdicts, dtype=kinds.dtype)[:, None] == kinds).astype(float)


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
