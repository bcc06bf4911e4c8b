"""e. The synthetic test: how much noise in activation and reconstruction would look the same.

x' is a reconstruction, taken for a signal that the SAE gives back exactly; the activation is
x'' = x' + z + a with a ~ N(0, σ_a² I) and z what is left out, the reconstruction x' + r with
r ~ N(0, σ_r² I). λ are the eigenvalues of Cov(x').
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeworks.measure.audit.fits import Fit, Parts
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.results.metric import Metric, Value

ROUNDING = 1e-9
"""A variance of noise below zero by no more than this share of λ's mean is zero."""


def recover(
    eigenvalues_D: NDArray[np.float64], fvu: float, fvu_nonlinear: float
) -> tuple[float, float] | None:
    """(σ_a, σ_r) that give these FVU and FVU_nl; None where no noise does.

    FVU_nl = (dσ_r² + Σ σ_a²λ/(λ + σ_a²))/(Σλ + dσ_a²) and FVU = (dσ_a² + dσ_r²)/(Σλ + dσ_a²), so
    FVU − FVU_nl = Σ σ_a⁴/(λ + σ_a²)/(Σλ + dσ_a²), which rises with σ_a from 0 to 1; σ_r follows.
    """
    from scipy.optimize import brentq

    linear, d = fvu - fvu_nonlinear, len(eigenvalues_D)
    power = float(eigenvalues_D.sum())
    if not 0 <= linear < 1 or fvu_nonlinear < 0 or power <= 0:
        return None

    def gap(a2: float) -> float:
        share = np.sum(a2**2 / np.maximum(eigenvalues_D + a2, 1e-300)) / (power + d * a2)
        return float(share) - linear

    high = power / d
    while gap(high) < 0:
        high *= 4
        if high > 1e12 * power:
            return None
    a2 = float(brentq(gap, 0.0, high, xtol=1e-16 * power, rtol=1e-12)) if linear > 0 else 0.0
    r2 = (fvu * (power + d * a2) - d * a2) / d
    return (a2**0.5, max(r2, 0.0) ** 0.5) if r2 >= -ROUNDING * power / d else None


class SyntheticTest(Measurement):
    """The noise of activation and reconstruction that would give the measured FVU and FVU_nl."""

    name = "synthetic"
    title = "Synthetic test"
    chapter = "sources"
    about = (
        "If the SAE's output were the whole signal and the SAE gave it back exactly, Gaussian "
        "noise of these sizes in activation (dense, linear: what ℓ would be) and reconstruction "
        "(introduced error: u) would give the same FVU and FVU_nl. An equivalent, not a "
        "finding: noise is assumed isotropic, independent of x̂ and of one another, and no "
        "latent is left out."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        "activation_noise": Metric(
            "σ_a", "Share of Σ‖x − x̄‖² that dσ_a² is, in the equivalent; null where there is none."
        ),
        "reconstruction_noise": Metric("σ_r", "The same of dσ_r²."),
    }

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._eigenvalues_D: NDArray[np.float64] = np.zeros(0)
        self._total = torch.zeros(3, dtype=torch.float64, device=place.device)

    def fitted(self, fit: Fit) -> None:
        covariance_DD = fit.x_hat_covariance_DD.cpu().numpy()
        self._eigenvalues_D = np.linalg.eigvalsh(covariance_DD).clip(min=0.0)

    def test(self, parts: Parts) -> dict[str, Tensor]:
        common = parts.common
        self._total += torch.stack([common[key].sum() for key in ("e", "u", "variance")])
        return {}

    def fixed(self) -> dict[str, Value]:
        e, u, variance = self._total.tolist()
        u = max(u, 0.0)  # of an affine SAE it is a rounding error
        sigmas = recover(self._eigenvalues_D, e / variance, u / variance) if variance > 0 else None
        if sigmas is None:
            return {"activation_noise": Value(None), "reconstruction_noise": Value(None)}
        d, a2, r2 = len(self._eigenvalues_D), sigmas[0] ** 2, sigmas[1] ** 2
        total = float(self._eigenvalues_D.sum()) + d * a2
        return {
            "activation_noise": Value(d * a2 / total),
            "reconstruction_noise": Value(d * r2 / total),
        }
