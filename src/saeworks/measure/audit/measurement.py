"""The seam of every measurement: what it sees in each phase, and the numbers it makes of it."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from saeworks.measure.audit.fits import Fit, Parts, Rows
from saeworks.measure.audit.least_squares import Affine, Factor
from saeworks.measure.audit.moments import Cross
from saeworks.measure.audit.study import AuditStudy
from saeworks.measure.bootstrap import Statistic, Sums
from saeworks.results.metric import Value

CONSTANT = 1e-12
"""A target that varies by less than this share of what it is measured in is constant: R² is then
undefined (null), not a ratio of rounding errors."""


@dataclass(frozen=True)
class Place:
    """Where a measurement is made.

    Attributes:
        d: width of the site.
        documents: rows of the per-document sums.
        seed: of whatever is drawn.
        codes: tokens of the fit fold to whose codes a factor for each latent and a decoder are
            fitted; 0: none.
    """

    d: int
    documents: int
    device: torch.device
    seed: int
    codes: int = 0


class Measurement(AuditStudy, ABC):
    """One measurement of one SAE at one site; every method may be left as it is.

    The phases come in the order `fit` (rows of the fit fold), `fitted`, `second` (parts of the
    second fold), `seconded`, `test` (parts of the test fold; returns what is summed by document).
    """

    reads: ClassVar[str | None] = None
    """The other measurement whose sums its statistics read; None where they read its own sums."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def fit(self, rows: Rows) -> None:
        """Count rows of the fit fold in."""

    def fitted(self, fit: Fit) -> None:
        """The fit fold is over."""

    def second(self, parts: Parts) -> None:
        """Count rows of the second fold in."""

    def seconded(self, factor: Factor) -> None:
        """The second fold is over; `factor` is that of its x."""

    def test(self, parts: Parts) -> dict[str, Float[Tensor, " N"]]:
        """Per token of the test fold, what is to be summed by document."""
        return {}

    def statistics(self) -> dict[str, Statistic]:
        """Metrics as functions of the sums of `test` and of `Parts.common`."""
        return {}

    def fixed(self) -> dict[str, Value]:
        """Metrics that are no functions of sums over documents."""
        return {}

    def drawn(self, resamples: int, seed: int) -> dict[str, Value]:
        """Metrics with an interval that is not from sums of scalars by document."""
        return {}

    def series(self) -> dict[str, Any]:
        """Lists for charts, as plain JSON."""
        return {}


class NormProbe:
    """OLS with bias of scalars on x, fitted on one fold or on two: v → â(x).

    R² is without the cost of fitting. Of two fits, the residuals are multiplied (see
    `Parts.common`); of one, their squares are taken times 1 − (rank + 1)/tokens, which is what is
    too much where tokens are independent.
    """

    def __init__(self, names: tuple[str, ...], place: Place) -> None:
        self.names, self.place = names, place
        self.maps: list[Affine] = []
        self._cross: Cross | None = None
        self._kept = 1.0

    def add(self, shifted_ND: Tensor, targets: Mapping[str, Tensor]) -> None:
        """Add rows of the fold that it is fitted on."""
        if self._cross is None:
            self._cross = Cross(self.place.d, len(self.names), self.place.device)
        self._cross.add(shifted_ND, torch.stack([targets[name] for name in self.names], dim=1))

    def solve(self, factor: Factor) -> None:
        """Fit on the rows added, at the end of a fold."""
        assert self._cross is not None
        self.maps.append(factor.fit(self._cross))
        self._cross = None
        self._kept = 1.0 if len(self.maps) > 1 else 1.0 - (factor.rank + 1) / factor.gram.n

    def test(self, x_ND: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Squared residuals (`<name>_residual`), deviations from the mean (`<name>_total`) and
        targets (`<name>_square`) of held-out rows."""
        y_NV = torch.stack([targets[name] for name in self.names], dim=1)
        first_NV, last_NV = (y_NV - map_(x_ND) for map_ in (self.maps[0], self.maps[-1]))
        residual_NV = self._kept * first_NV * last_NV
        total_NV = (y_NV - self.maps[0].y_mean_V) * (y_NV - self.maps[-1].y_mean_V)
        values = {}
        for at, name in enumerate(self.names):
            values[f"{name}_residual"] = residual_NV[:, at]
            values[f"{name}_total"] = total_NV[:, at]
            values[f"{name}_square"] = y_NV[:, at].square()
        return values

    def statistic(self, name: str) -> Statistic:
        """The held-out R² of a target."""
        return lambda s: r_squared(s, f"{name}_residual", f"{name}_total", f"{name}_square")


def r_squared(s: Sums, residual: str, total: str, scale: str) -> NDArray[np.float64]:
    """1 − residual/total, NaN where the total is a rounding error beside the scale."""
    constant = s[total] <= CONSTANT * s[scale]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(constant, np.nan, 1.0 - s[residual] / s[total])
