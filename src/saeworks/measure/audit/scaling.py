"""d. Scaling: FVU(W) = c + a·W^(−m) over widths, and whether c is identified at all.

Pure functions of numbers: what is compared (equal L0, equal tokens) is for the caller to see to.
Shapes: P SAEs (points of the law), R draws, X exponents tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from saeworks.errors import UserError
from saeworks.measure.bootstrap import interval, left_out
from saeworks.results.metric import Value

Array = NDArray[np.float64]

ABSENT, LINEAR, LINEAR_OR_ABSENT = "absent", "linear", "linear_or_absent"
NONLINEAR, ENCODER = "nonlinear", "encoder"
"""Bands of the variance of x."""
EXPONENTS = np.geomspace(0.01, 4.0, 100)
"""The exponents m that are tried; the best one is refined between its neighbours."""
WIDEST_FLOOR = 0.25
"""c is not identified where its interval is wider than this share of the smallest FVU."""
SEED_NOISE = 0.01
"""Relative scatter of the FVU that is assumed at least where no seeds tell it: between the seeds of
an SAE it is 0.3% (TopK) to 3% (Switch) in experiments/switch/results/switch.json."""
LEAST_LEFT = 3
"""Numbers beyond the three parameters from which the scatter about the law can be told."""
_GOLDEN, _REFINED = (5**0.5 - 1) / 2, 45  # 0.6^45 of a grid's step
_CHUNK = 256  # draws that are fitted at once


@dataclass(frozen=True)
class PowerLaw:
    """c + a·W^(−m), with 95% intervals from the draws and the scatter about the law.

    Attributes:
        c: the FVU of infinite width.
        identified: whether the numbers say what c is; see `why`.
        why: in words.
        residual: largest relative difference of the fit from an FVU.
        scatter: relative standard deviation of an FVU about the law, as the intervals have it.
        draws_R3: c, a and m of all documents, then of each draw.
    """

    c: Value
    a: Value
    m: Value
    identified: bool
    why: str
    residual: float
    scatter: float
    draws_R3: Array = field(repr=False)

    def __call__(self, width: int) -> float:
        """The FVU at a width."""
        assert self.c.value is not None and self.a.value is not None and self.m.value is not None
        return float(self.c.value + self.a.value * float(width) ** -self.m.value)


def power_law(
    widths: Sequence[int],
    fvu: Sequence[float],
    draws_RP: Array | None = None,
    seed: int = 0,
    documents: int | None = None,
) -> PowerLaw:
    """Least squares of relative errors, Σ ((c + a·W^(−m))/FVU − 1)², with c ≥ 0 and a ≥ 0: for
    every m the best c and a in closed form, and m by a grid and golden sections between the best
    one's neighbours. No start values.

    An interval has two parts. The documents: every draw is fitted. The SAEs: other seeds would
    give other FVUs, so every draw is first multiplied by exp(s·z), z standard normal for each SAE.
    s² is the residual variance on P − 3 degrees of freedom, of a draw of its own from s²·(P − 3)/χ²
    (a parametric bootstrap; for a law linear in its parameters that is Student's interval), and at
    least `SEED_NOISE`², unless seeds tell it. experiments/intervals/scaling.py counts how often the
    interval holds c.

    Args:
        widths: of each SAE; a width again is another seed of it.
        draws_RP: the FVUs of resamples (of the same documents for every SAE), for intervals.
        seed: of the scatter in the draws.
        documents: where the draws begin with those with a document left out, as
            `bootstrap.all_sums` has them: how many documents; these are fitted without scatter.

    Raises:
        UserError: with fewer than three widths, or an FVU that is not above 0.
    """
    width_P, fvu_P = np.asarray(widths, float), np.asarray(fvu, float)
    if len(set(widths)) < 3 or len(width_P) != len(fvu_P):
        raise UserError(
            f"scaling: {len(set(widths))} different widths and {len(fvu_P)} FVUs; a law with three "
            "parameters needs at least 3 widths, each with its FVU, and 6 to be worth reading"
        )
    if not np.all(np.isfinite(fvu_P)) or fvu_P.min() <= 0:
        raise UserError("scaling: every FVU must be a number above 0; leave out broken SAEs")
    law_13 = _fit(width_P, fvu_P[None])
    c, a, m = law_13[0]
    residual_P = (c + a * width_P**-m) / fvu_P - 1
    scatter = _Scatter.of(width_P, residual_P)
    draws_R3 = law_13
    if draws_RP is not None and len(draws_RP):
        without_LP, drawn_RP = np.split(draws_RP, [left_out(documents or 0)])
        noisy_RP = drawn_RP * scatter.drawn(drawn_RP.shape, seed)
        draws_R3 = _fit(width_P, np.concatenate([np.asarray(fvu_P)[None], without_LP, noisy_RP]))
    c_interval, a_interval, m_interval = (interval(draws_R3[:, at], documents) for at in range(3))
    identified, why = _identified(c_interval, m_interval, width_P, float(fvu_P.min()), scatter)
    worst = float(np.abs(residual_P).max())
    return PowerLaw(
        c_interval, a_interval, m_interval, identified, why, worst, scatter.assumed, draws_R3
    )


def _fit(width_P: Array, fvu_RP: Array) -> Array:
    """c, a and m [R, 3] of the best law of every row."""
    log_P = np.log(width_P / width_P.min())
    laws = []
    for start in range(0, len(fvu_RP), _CHUNK):
        one_RP = 1 / fvu_RP[start : start + _CHUNK]
        grid_RX = np.broadcast_to(EXPONENTS, (len(one_RP), len(EXPONENTS)))
        best_R = _at(grid_RX, log_P, one_RP)[2].argmin(1)
        low_R = np.log(EXPONENTS[np.maximum(best_R - 1, 0)])
        high_R = np.log(EXPONENTS[np.minimum(best_R + 1, len(EXPONENTS) - 1)])
        for _ in range(_REFINED):
            step_R = _GOLDEN * (high_R - low_R)
            tried_R2 = np.stack([high_R - step_R, low_R + step_R], axis=1)
            lost_R2 = _at(np.exp(tried_R2), log_P, one_RP)[2]
            lower_R = lost_R2[:, 0] <= lost_R2[:, 1]
            high_R = np.where(lower_R, tried_R2[:, 1], high_R)
            low_R = np.where(lower_R, low_R, tried_R2[:, 0])
        m_R = np.exp((low_R + high_R) / 2)
        c_R1, a_R1, _ = _at(m_R[:, None], log_P, one_RP)
        laws.append(np.stack([c_R1[:, 0], a_R1[:, 0] * width_P.min() ** m_R, m_R], axis=1))
    return np.concatenate(laws)


def _at(m_RX: Array, log_P: Array, one_RP: Array) -> tuple[Array, Array, Array]:
    """The best c and a [R, X] at each m, a in units of the narrowest SAE, and the squares left.

    The law is (c + a) + a·expm1(−m ln W): a column of ones and one that stays apart from it as m
    falls, where W^(−m) itself becomes a column of ones.
    """
    power_RXP = np.expm1(-m_RX[..., None] * log_P)
    one_R1P = one_RP[:, None, :]
    column_RXP, whole_RXP = power_RXP * one_R1P, (power_RXP + 1) * one_R1P
    oo_R1, o1_R1 = (one_R1P**2).sum(-1), one_R1P.sum(-1)
    share_RX = (column_RXP * one_R1P).sum(-1) / oo_R1
    apart_RXP = column_RXP - share_RX[..., None] * one_R1P
    a_RX = (apart_RXP * (1 - (o1_R1 / oo_R1)[..., None] * one_R1P)).sum(-1)
    a_RX = a_RX / np.square(apart_RXP).sum(-1)
    c_RX = o1_R1 / oo_R1 - a_RX * share_RX - a_RX
    alone_RX = whole_RXP.sum(-1) / np.square(whole_RXP).sum(-1)  # the best a where c is 0
    a_RX, c_RX = np.where(c_RX < 0, alone_RX, a_RX), np.maximum(c_RX, 0.0)
    c_RX, a_RX = np.where(a_RX < 0, o1_R1 / oo_R1, c_RX), np.maximum(a_RX, 0.0)
    left_RXP = c_RX[..., None] * one_R1P + a_RX[..., None] * whole_RXP - 1
    return c_RX, a_RX, np.square(left_RXP).sum(-1)


@dataclass(frozen=True)
class _Scatter:
    """How far FVUs lie from the law, relatively.

    Attributes:
        left: degrees of freedom, P − 3.
        squares: of the residuals.
        least: the standard deviation that is assumed in any case.
        curved: whether the widths' means miss the law by more than seeds differ (F test, 5%).
    """

    left: int
    squares: float
    least: float
    curved: bool

    @classmethod
    def of(cls, width_P: Array, residual_P: Array) -> "_Scatter":
        squares, left = float(np.square(residual_P).sum()), len(width_P) - 3
        by_width = [residual_P[width_P == width] for width in np.unique(width_P)]
        within, seeds = (
            sum(float(np.square(r - r.mean()).sum()) for r in by_width),
            len(width_P) - len(by_width),
        )
        if seeds < LEAST_LEFT or len(by_width) < 4:
            return cls(left, squares, SEED_NOISE, False)
        from scipy.stats import f

        beyond = (squares - within) / (len(by_width) - 3)
        most = float(f.ppf(0.95, len(by_width) - 3, seeds))
        return cls(left, squares, 0.0, beyond * seeds > most * within)

    @property
    def assumed(self) -> float:
        return max(float(np.sqrt(self.squares / max(self.left, 1))), self.least)

    @property
    def most(self) -> float:
        """The upper end of the scatter's one-sided 90% interval, or `least` where that is more."""
        from scipy.stats import chi2

        least = float(chi2.ppf(0.1, max(self.left, 1)))
        return max(float(np.sqrt(self.squares / least)), self.least)

    def drawn(self, shape: tuple[int, ...], seed: int) -> Array:
        """Factors [R, P], of another standard deviation in every draw, as little is known of it."""
        rng = np.random.default_rng(seed)
        s_R1 = np.full((shape[0], 1), self.least)
        if self.left:
            chi2_R1 = rng.chisquare(self.left, s_R1.shape)
            s_R1 = np.maximum(np.sqrt(self.squares / chi2_R1), s_R1)
        factor_RP: Array = np.exp(np.minimum(s_R1, 1.0) * rng.standard_normal(shape))
        return factor_RP


def _identified(
    c: Value, m: Value, width_P: Array, least: float, scatter: _Scatter
) -> tuple[bool, str]:
    widths = len(np.unique(width_P))
    if widths < 4:
        return False, f"not identified: {widths} widths determine three parameters exactly"
    if scatter.left < LEAST_LEFT:
        return False, (
            f"not identified: {len(width_P)} SAEs are too few to tell how far FVUs lie from the "
            f"law by chance; it takes {3 + LEAST_LEFT}, of more widths or of more seeds"
        )
    if c.low is None or c.high is None or m.value is None:
        return False, "not identified: there are no draws to tell the uncertainty of c from"
    if m.value < EXPONENTS[1] or m.value > EXPONENTS[-2]:
        return False, f"not identified: m = {m.value:.2f} is at the edge of what is tried"
    if scatter.curved:
        return False, "not identified: the FVUs miss the law by more than seeds differ"
    spread = (c.high - c.low) / least
    if spread > WIDEST_FLOOR:
        return False, (
            f"not identified: the interval of c, [{c.low:.3g}, {c.high:.3g}], is {spread:.0%} "
            f"of the smallest FVU, {least:.3g}"
        )
    if spread * scatter.most > WIDEST_FLOOR * scatter.assumed:
        return False, (
            f"not identified: the FVUs scatter by {scatter.assumed:.1%} about the law, but so few "
            f"of them would by chance where it is {scatter.most:.1%}, and the interval of c, "
            f"[{c.low:.3g}, {c.high:.3g}], then too wide"
        )
    return True, (
        f"identified within [{c.low:.3g}, {c.high:.3g}] if the law holds beyond the widths, with a "
        f"scatter of {scatter.assumed:.1%} about it"
    )


Number = TypeVar("Number", float, NDArray[np.float64])


def bands(
    fvu_D: Array,
    nonlinear_D: Array,
    encoder_D: Array,
    c_D: Array | None = None,
) -> dict[str, Array]:
    """Shares of the variance of x at one width, as in Engels et al. 2024, figure 1; they add up to
    the FVU.

    Args:
        fvu_D: of all documents and of each draw; the others as well.
        nonlinear_D: FVU_nl.
        encoder_D: of FVU_nl, what better codes recover.
        c_D: the FVU of infinite width; None where it is not known.

    Returns:
        `absent` (FVU − c, what wider SAEs would recover; taken to be linear, as far as the linear
        part goes) and `linear`, the linear rest, where c is known; `linear_or_absent`, their sum;
        `nonlinear`, what stays of FVU_nl; and `encoder`.
    """
    linear_D = fvu_D - nonlinear_D
    shares = {
        LINEAR_OR_ABSENT: linear_D,
        NONLINEAR: nonlinear_D - encoder_D,
        ENCODER: encoder_D,
    }
    if c_D is None:
        return shares
    absent_D = np.clip(fvu_D - c_D, 0.0, np.maximum(linear_D, 0.0))
    return {ABSENT: absent_D, LINEAR: linear_D - absent_D} | shares


def added_percent(r2: Number, r2_with: Number) -> Number:
    """100·(R²' − R²)/(1 − R²): what one more predictor adds, of what was left."""
    return 100 * (r2_with - r2) / (1 - r2)
