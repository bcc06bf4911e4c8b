"""Control: targets with nothing to find, shuffled errors and noise of the errors' norms."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from saeworks.measure.audit.fits import (
    Fit,
    Parts,
    Rows,
    square,
)
from saeworks.measure.audit.least_squares import Affine
from saeworks.measure.audit.measurement import Measurement, Place, r_squared
from saeworks.measure.audit.moments import Cross
from saeworks.measure.audit.vector import R2_ERROR, VectorProbe, fit_cost
from saeworks.measure.bootstrap import Statistic
from saeworks.results.figure import ENCODER, GREY, LINEAR, NONLINEAR, Figure, Trace
from saeworks.results.metric import Metric, Value

DIRECTIONS = 16
R2_SHUFFLED, R2_NOISE, EXPECTED = "r2_shuffled", "r2_noise", "r2_expected"


class NullTargets(Measurement):
    """The vector probe on errors of other tokens, and on isotropic noise with each error's norm."""

    name = "null"
    title = "Null targets"
    chapter = "controls"
    about = (
        "The vector probe where there is nothing linear to find: each token gets the error of "
        "another one near it in the text, or isotropic noise with the norm of its error. Measured "
        f"on {DIRECTIONS} random directions; about −(fit cost) is expected."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        R2_SHUFFLED: Metric("R² of shuffled e", "x → the error of another token."),
        R2_NOISE: Metric("R² of noise", "x → Gaussian noise of norm ‖e‖."),
        EXPECTED: Metric("R² expected of noise", "−(fit cost) of the vector probe."),
    }
    figures = (
        Figure(
            "null",
            "line",
            (
                Trace("e", f"{VectorProbe.name}.{R2_ERROR}", ink=LINEAR),
                Trace("shuffled e", R2_SHUFFLED, ink=ENCODER),
                Trace("noise", R2_NOISE, ink=NONLINEAR),
                Trace("−(fit cost)", EXPECTED, ink=GREY),
            ),
            "R² of the vector probe where there is nothing to find",
            wide=True,
        ),
    )

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._random = np.random.default_rng(place.seed)
        width = min(DIRECTIONS, place.d)
        directions_DP, _ = np.linalg.qr(self._random.standard_normal((place.d, width)))
        self._directions_DP = torch.from_numpy(directions_DP).to(place.device)
        self._crosses = {
            name: Cross(place.d, width, place.device) for name in ("shuffled", "noise")
        }
        self._maps: dict[str, Affine] = {}
        self._expected = 0.0

    def _targets(self, e_ND: Tensor) -> dict[str, Tensor]:
        rows, width = len(e_ND), self._directions_DP.shape[1]
        order_N = torch.from_numpy(self._random.permutation(rows)).to(e_ND.device)
        # Isotropic noise seen on `width` directions; of the others only the norm matters.
        noise_NP = self._random.standard_normal((rows, width))
        rest_N = self._random.chisquare(self.place.d - width, rows) if self.place.d > width else 0.0
        noise_NP /= np.sqrt(np.square(noise_NP).sum(axis=1) + rest_N)[:, None]
        norm_N1 = square(e_ND).sqrt()[:, None]
        return {
            "shuffled": (e_ND @ self._directions_DP)[order_N],
            "noise": torch.from_numpy(noise_NP).to(e_ND.device) * norm_N1,
        }

    def fit(self, rows: Rows) -> None:
        for name, y_NP in self._targets(rows.x_ND - rows.x_hat_ND).items():
            self._crosses[name].add(rows.shifted_ND, y_NP)

    def fitted(self, fit: Fit) -> None:
        self._maps = {name: fit.factor.fit(cross) for name, cross in self._crosses.items()}
        self._expected = -fit_cost(fit.factor)

    def test(self, parts: Parts) -> dict[str, Tensor]:
        values = {}
        for name, y_NP in self._targets(parts.e_ND).items():
            map_ = self._maps[name]
            values[f"{name}_residual"] = square(y_NP - map_(parts.rows.x_ND))
            values[f"{name}_total"] = square(y_NP - map_.y_mean_V)
        return values

    def statistics(self) -> dict[str, Statistic]:
        return {
            R2_SHUFFLED: lambda s: r_squared(s, "shuffled_residual", "shuffled_total", "variance"),
            R2_NOISE: lambda s: r_squared(s, "noise_residual", "noise_total", "variance"),
        }

    def fixed(self) -> dict[str, Value]:
        return {EXPECTED: Value(self._expected)}
