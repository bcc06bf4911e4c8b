"""d. Scaling: FVU(W) = c + a·W^(−m) over widths, and whether c is identified at all.

Pure functions of numbers: what is compared (equal L0, equal tokens) is for the caller to see to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from saeforge.errors import UserError
from saeforge.eval.bootstrap import interval
from saeforge.eval.result import Value

EXPONENTS = np.geomspace(0.01, 4.0, 400)
WIDEST_FLOOR = 0.25
"""c is not identified where its interval is wider than this share of the smallest FVU."""


@dataclass(frozen=True)
class PowerLaw:
    """c + a·W^(−m), with 95% intervals from the draws.

    Attributes:
        c: the FVU of infinite width.
        identified: whether the numbers say what c is; see `why`.
        why: in words.
        residual: largest relative difference of the fit from an FVU.
        draws_R3: c, a and m of all documents, then of each draw.
    """

    c: Value
    a: Value
    m: Value
    identified: bool
    why: str
    residual: float
    draws_R3: NDArray[np.float64] = field(repr=False)

    def __call__(self, width: int) -> float:
        """The FVU at a width."""
        assert self.c.value is not None and self.a.value is not None and self.m.value is not None
        return float(self.c.value + self.a.value * float(width) ** -self.m.value)


def power_law(
    widths: Sequence[int], fvu: Sequence[float], draws_RW: NDArray[np.float64] | None = None
) -> PowerLaw:
    """Least squares of relative errors, with c ≥ 0 and a ≥ 0, over a grid of m: no start values, no
    seed.

    Args:
        draws_RW: the FVUs of resamples (of the same documents for every width), for intervals.

    Raises:
        UserError: with fewer than three widths, equal widths, or an FVU that is not above 0.
    """
    width_W, fvu_W = np.asarray(widths, float), np.asarray(fvu, float)
    if len(set(widths)) < 3 or len(width_W) != len(fvu_W) or len(set(widths)) < len(widths):
        raise UserError(
            f"scaling: {len(set(widths))} different widths and {len(fvu_W)} FVUs; a law with three "
            "parameters needs at least 3 widths, each once with its FVU, and 5 to be worth reading"
        )
    if not np.all(np.isfinite(fvu_W)) or fvu_W.min() <= 0:
        raise UserError("scaling: every FVU must be a number above 0; leave out broken SAEs")
    found_3 = _fit(width_W, fvu_W)
    draws = [] if draws_RW is None else [_fit(width_W, row_W) for row_W in draws_RW]
    all_R3 = np.array([found_3, *draws])
    c, a, m = (interval(all_R3[:, at]) for at in range(3))
    fitted_W = found_3[0] + found_3[1] * width_W ** -found_3[2]
    identified, why = _identified(c, m, width_W, fvu_W)
    residual = float(np.abs(fitted_W / fvu_W - 1).max())
    return PowerLaw(c, a, m, identified, why, residual, all_R3)


def _fit(width_W: NDArray[np.float64], fvu_W: NDArray[np.float64]) -> tuple[float, float, float]:
    """For every m on the grid the best (c, a) in closed form; then the best m."""
    scaled_W = width_W / width_W.min()
    basis_XW = scaled_W ** -EXPONENTS[:, None] / fvu_W
    one_W = 1 / fvu_W
    bb, ob, oo = (basis_XW**2).sum(1), basis_XW @ one_W, float(one_W @ one_W)
    b1, o1 = basis_XW.sum(1), float(one_W.sum())
    determinant = bb * oo - ob**2
    with np.errstate(divide="ignore", invalid="ignore"):
        a_X = np.where(determinant > 1e-14 * bb * oo, (b1 * oo - ob * o1) / determinant, 0.0)
        c_X = (o1 - a_X * ob) / oo
        a_X, c_X = np.where(c_X < 0, b1 / bb, a_X), np.maximum(c_X, 0.0)
    a_X, c_X = np.where(a_X < 0, 0.0, a_X), np.where(a_X < 0, o1 / oo, c_X)
    left_X = ((c_X[:, None] * one_W + a_X[:, None] * basis_XW - 1) ** 2).sum(1)
    best = int(left_X.argmin())
    m = float(EXPONENTS[best])
    return float(c_X[best]), float(a_X[best] * width_W.min() ** m), m


def _identified(
    c: Value, m: Value, width_W: NDArray[np.float64], fvu_W: NDArray[np.float64]
) -> tuple[bool, str]:
    least = float(fvu_W.min())
    if len(width_W) < 4:
        return False, f"not identified: {len(width_W)} widths determine three parameters exactly"
    if c.low is None or c.high is None or m.value is None:
        return False, "not identified: there are no draws to tell the uncertainty of c from"
    if m.value in (EXPONENTS[0], EXPONENTS[-1]):
        return False, f"not identified: m = {m.value:.2f} is at the edge of what is tried"
    spread = (c.high - c.low) / least
    if spread > WIDEST_FLOOR:
        return False, (
            f"not identified: the interval of c, [{c.low:.3g}, {c.high:.3g}], is {spread:.0%} "
            f"of the smallest FVU, {least:.3g}"
        )
    return True, f"identified within [{c.low:.3g}, {c.high:.3g}] if the law holds beyond the widths"


Number = TypeVar("Number", float, NDArray[np.float64])


def bands(
    fvu_D: NDArray[np.float64],
    nonlinear_D: NDArray[np.float64],
    encoder_D: NDArray[np.float64],
    c_D: NDArray[np.float64] | None = None,
) -> dict[str, NDArray[np.float64]]:
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
    found = {
        "linear_or_absent": linear_D,
        "nonlinear": nonlinear_D - encoder_D,
        "encoder": encoder_D,
    }
    if c_D is None:
        return found
    absent_D = np.clip(fvu_D - c_D, 0.0, np.maximum(linear_D, 0.0))
    return {"absent": absent_D, "linear": linear_D - absent_D} | found


def added_percent(r2: Number, r2_with: Number) -> Number:
    """100·(R²' − R²)/(1 − R²): what one more predictor adds, of what was left."""
    return 100 * (r2_with - r2) / (1 - r2)
