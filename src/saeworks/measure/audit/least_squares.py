"""Least squares from moments: one factor of Σ(x − x̄)(x − x̄)ᵀ serves every target.

A truncated pseudo-inverse and no ridge: with a ridge, affine SAEs would no longer have u ≡ 0.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeworks.errors import UserError
from saeworks.measure.audit.moments import Cross, Gram

TRUNCATE = 1e-12
"""Eigenvalues of the correlation matrix below this share of the largest are taken for zeros: its
directions have a millionth of the spread, which is where float32 activations end."""


@dataclass(frozen=True)
class Affine:
    """y = (x − x̄) W + ȳ."""

    weight_DV: Float[Tensor, "D V"]
    x_mean_D: Float[Tensor, " D"]
    y_mean_V: Float[Tensor, " V"]

    def __call__(self, x_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """The predictions."""
        return (x_ND - self.x_mean_D) @ self.weight_DV + self.y_mean_V


@dataclass(frozen=True)
class Factor:
    """W with W Wᵀ = pinv(Σ(x − x̄)(x − x̄)ᵀ), from the eigenvectors of the correlation matrix.

    Attributes:
        root_DK: W.
        rank: K, eigenvalues that are kept.
        condition: the largest over the smallest kept eigenvalue of the correlation matrix.
    """

    gram: Gram
    root_DK: Float[Tensor, "D K"]
    rank: int
    condition: float

    @classmethod
    def of(cls, gram: Gram, where: str) -> "Factor":
        """Factor a Gram.

        Raises:
            UserError: if no coordinate of x varies.
        """
        scatter_DD, varies_D = gram.scatter_DD, varies(gram)
        scale_D = scatter_DD.diagonal().clamp_min(0.0).sqrt()
        if not bool(varies_D.any()):
            raise UserError(
                f"{where}: the activations are constant over the {gram.n} tokens of a fold, so "
                "there is nothing to explain; audit another site or more text"
            )
        inverse_D = torch.where(varies_D, 1.0 / scale_D.clamp_min(1e-300), 0.0)
        values_D, vectors_DD = torch.linalg.eigh(inverse_D[:, None] * scatter_DD * inverse_D)
        kept_D = values_D > TRUNCATE * values_D[-1]
        kept_K = values_D[kept_D]
        root_DK = inverse_D[:, None] * vectors_DD[:, kept_D] / kept_K.sqrt()
        return cls(gram, root_DK, len(kept_K), float(kept_K[-1] / kept_K[0]))

    def solve(self, centred_DV: Float[Tensor, "D V"]) -> Float[Tensor, "D V"]:
        """The weights that minimise Σ‖y − ȳ − (x − x̄)W‖², from Σ(x − x̄)(y − ȳ)ᵀ."""
        return self.root_DK @ (self.root_DK.T @ centred_DV)

    def fit(self, cross: Cross) -> Affine:
        """OLS of y on x, with bias."""
        return Affine(self.solve(cross.centred_DV(self.gram)), self.gram.mean_D, cross.mean_V)


def varies(gram: Gram) -> Bool[Tensor, " D"]:
    """Which coordinates vary by more than float32 rounds a constant of x's size."""
    scale_D = gram.scatter_DD.diagonal().clamp_min(0.0).sqrt()
    floor = 1e-7 * math.sqrt(gram.n) * gram.mean_D.abs().max()
    return scale_D > floor
