"""a. The vector probe: how much of the error is linear in the activation."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeworks.measure.audit.fits import Fit, Parts
from saeworks.measure.audit.least_squares import Factor
from saeworks.measure.audit.measurement import (
    CONSTANT,
    Measurement,
    Place,
    r_squared,
)
from saeworks.measure.audit.words import Sections, shown, side
from saeworks.measure.bootstrap import Statistic, all_sums, interval
from saeworks.results.figure import Figure, Trace
from saeworks.results.metric import Metric, Value

BLOCKS = 64
"""Documents are put into so many blocks for the number whose sums are vectors."""
RESAMPLES = 200
"""The most resamples of these blocks."""
R2_ERROR, FIT_COST = "r2_error", "fit_cost"
NEXT_TO_NONE = 0.05
"""Below this share, of the error or of what is linear in it, a part is next to nothing."""


def fit_cost(factor: Factor) -> float:
    """The share by which what a fit leaves is too small on its own tokens: (rank + 1)/tokens."""
    return (factor.rank + 1) / factor.gram.n


class VectorProbe(Measurement):
    """x → e by OLS with bias."""

    name = "vector"
    title = "Vector probe"
    chapter = "layers"
    about = (
        "OLS of the error e on the activation x, with bias, fitted on the fit documents and again "
        "on the second documents, and measured on the test documents. What both fits leave, u and "
        "u′, is multiplied: ⟨u, u′⟩ has the nonlinear part without the cost of fitting, which "
        "‖u‖² has once (Σ‖u‖² is too large by about the fit cost, and R² too small). A constant e "
        "has no R² (null)."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        R2_ERROR: Metric(
            "R² of e", "1 − Σ⟨u, u′⟩/Σ⟨e − ē, e − ē′⟩, pooled over dimensions and test tokens."
        ),
        "r2_error_per_dimension": Metric(
            "R² of e (mean over dimensions)",
            "The mean over dimensions of each dimension's R², as in Engels et al. 2024; intervals "
            f"from {BLOCKS} blocks of documents, resampled at most {RESAMPLES} times.",
        ),
        "rank": Metric("Rank", "Directions of x that the fit uses, of D."),
        "condition": Metric(
            "Condition", "Largest over smallest kept eigenvalue of x's correlation matrix."
        ),
        FIT_COST: Metric(
            "Fit cost",
            "(rank + 1)/tokens of the fit fold: about the share by which Σ‖u‖² of one fit is too "
            "large where tokens are independent; more where those of a document are alike.",
        ),
    }
    headline: ClassVar[Mapping[str, str]] = {R2_ERROR: "R² e"}

    figures = (Figure("vector", "line", (Trace(metric=R2_ERROR),), lines="suites"),)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._fit: Fit | None = None
        self._blocks_B2D = torch.zeros(BLOCKS, 2, place.d, dtype=torch.float64, device=place.device)
        self._scale_D = torch.zeros(place.d, dtype=torch.float64, device=place.device)

    def fitted(self, fit: Fit) -> None:
        self._fit = fit

    def test(self, parts: Parts) -> dict[str, Tensor]:
        block_N = parts.rows.tokens.document_N % BLOCKS
        assert parts.again_ND is not None and parts.fit.again is not None
        means = (parts.fit.linear.y_mean_V, parts.fit.again.y_mean_V)
        deviation_ND, again_deviation_ND = (parts.e_ND - mean_D for mean_D in means)
        self._blocks_B2D[:, 0].index_add_(0, block_N, parts.u_ND * parts.again_ND)
        self._blocks_B2D[:, 1].index_add_(0, block_N, deviation_ND * again_deviation_ND)
        self._scale_D += parts.rows.x_ND.square().sum(dim=0)
        return {}

    def statistics(self) -> dict[str, Statistic]:
        return {R2_ERROR: lambda s: r_squared(s, "u", "e_centred", "variance")}

    def fixed(self) -> dict[str, Value]:
        assert self._fit is not None
        factor = self._fit.factor
        return {
            "rank": Value(float(factor.rank)),
            "condition": Value(factor.condition),
            FIT_COST: Value(fit_cost(factor)),
        }

    def drawn(self, resamples: int, seed: int) -> dict[str, Value]:
        return {"r2_error_per_dimension": self._per_dimension(min(RESAMPLES, resamples), seed)}

    def _per_dimension(self, resamples: int, seed: int) -> Value:
        sums_BS = self._blocks_B2D.flatten(1).cpu().numpy()
        sums_BS = sums_BS[sums_BS.any(axis=1)]
        if not len(sums_BS):
            return Value(None)
        residual_RD, total_RD = np.split(all_sums(sums_BS, resamples, seed), 2, axis=1)
        return interval(self._mean_r2(residual_RD, total_RD), len(sums_BS))

    def _mean_r2(
        self, residual_RD: NDArray[np.float64], total_RD: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Dimensions whose error is constant have no R² and are left out."""
        varies_D = total_RD[0] > CONSTANT * self._scale_D.cpu().numpy()
        if not varies_D.any():
            return np.array([np.nan])
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_r2_R: NDArray[np.float64] = np.mean(
                1.0 - residual_RD[:, varies_D] / total_RD[:, varies_D], axis=1
            )
        return mean_r2_R

    def series(self) -> dict[str, Any]:
        total_2D = self._blocks_B2D.sum(dim=0)
        varies_D = total_2D[1] > CONSTANT * self._scale_D
        if not bool(varies_D.any()):
            return {}
        r2_d = 1.0 - total_2D[0, varies_D] / total_2D[1, varies_D]
        deciles = torch.linspace(0, 1, 11, dtype=torch.float64, device=r2_d.device)
        return {"r2_by_dimension_deciles": r2_d.quantile(deciles).tolist()}

    @classmethod
    def sentences(cls, sections: Sections) -> tuple[str, ...]:
        r2 = cls.value(sections, R2_ERROR)
        words = {
            1: "More than half of the error is linear in x",
            -1: "Less than half of the error is linear in x",
            0: "Whether half of the error is linear in x is not settled",
            None: "What of the error is linear in x is known as a point estimate only",
        }
        start = words[side(r2, 0.5)]
        if side(r2, NEXT_TO_NONE) == -1:
            start = "Next to none of the error is linear in x"
        return (f"{start}: an affine map of x predicts R² {shown(r2)} of its variance.",)
