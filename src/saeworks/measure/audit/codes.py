"""What is fitted to an SAE's codes on the fit fold: a factor for each latent, and a decoder.

x̂ = Σ_m s_m f_m D_m + c with the best s, and x̂ = Σ_m f_m W_m + c with the best W. Both are least
squares with the matrix S = Σ_n (f − f̄)(f − f̄)ᵀ, which is never formed: conjugate gradients need
only its products S P with P [M, D], two walks over the active pairs. Memory: the pairs of a bounded
number of tokens and a few [M, D]. Shapes: n tokens, M latents, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.dictionary.base import SAE, SparseCode
from saeworks.dictionary.kernels import (
    SortedPairs,
    gather_sum,
    segment_outer,
    sort_pairs,
)

L0 = 32
"""Codes of more active latents than this are kept for fewer tokens."""
STEPS, TOLERANCE = 40, 1e-4
"""Of conjugate gradients: the most steps, and the relative residual at which they stop."""
PRIOR = 1.0
"""A latent's factor is fitted as if it had been right, at 1, in so many more firings."""
PRIORS = (10.0, 100.0, 1000.0)
"""A latent's direction is fitted as if it had been right in so many more firings; which of these
is best is decided on the second fold."""


@dataclass(frozen=True)
class CodeFit:
    """Maps of codes that were fitted on the fit fold.

    Attributes:
        scale_M: s; 1 for latents that never fire.
        rescaled: x̂ = Σ_m s_m f_m D_m + c, on the SAE's own decoder: no copy of it.
        decoders: W, with c, for each of `PRIORS`.
    """

    scale_M: Float[Tensor, " M"]
    rescaled: "Decoder"
    decoders: tuple["Decoder", ...]


@dataclass(frozen=True)
class Decoder:
    """x̂ = Σ_m s_m f_m W_m + c; without s, all are 1."""

    weight_MD: Float[Tensor, "M D"]
    bias_D: Float[Tensor, " D"]
    scale_M: Float[Tensor, " M"] | None = None

    def __call__(self, code: SparseCode) -> Float[Tensor, "N D"]:
        """x̂ in float64."""
        values = code.values.float()
        if self.scale_M is not None:
            values = values * self.scale_M[code.indices].float()
        x_hat_ND = gather_sum(values, code.indices, self.weight_MD, code.offsets)
        return x_hat_ND.double() + self.bias_D


class CodeMoments:
    """Codes of the first tokens of the fit fold, and their moments with x.

    Args:
        tokens: to keep, to the end of the chunk; fewer where more than `L0` latents are active.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens_left, self._pairs_left = tokens, tokens * L0
        self._codes: list[SparseCode] = []
        self._sae: SAE | None = None
        self._n = 0

    def add(self, x_ND: Float[Tensor, "N D"], code: SparseCode, sae: SAE) -> None:
        """Count rows in, as long as there is room."""
        if min(self._tokens_left, self._pairs_left) <= 0 or not len(x_ND):
            return
        values, indices = code.values.detach().float(), code.indices
        if self._sae is None:
            self._sae, self._shift_D = sae, x_ND.mean(dim=0)
            self._sum_D = torch.zeros_like(self._shift_D)
            self._sum_M = self._sum_D.new_zeros(code.width)
            self._square_M, self._count_M = self._sum_M.clone(), self._sum_M.clone()
            self._target_MD = self._sum_D.new_zeros(code.width, len(self._sum_D))
        shifted_ND = x_ND - self._shift_D
        flat, at = values.reshape(-1).double(), indices.reshape(-1)
        self._sum_M.index_add_(0, at, flat)
        self._square_M.index_add_(0, at, flat.square())
        self._count_M.index_add_(0, at, (flat > 0).double())
        pairs = sort_pairs(indices, code.width, code.offsets)
        self._target_MD += segment_outer(values, shifted_ND.float(), pairs)
        self._sum_D += shifted_ND.sum(dim=0)
        self._n += len(x_ND)
        self._tokens_left -= len(x_ND)
        self._pairs_left -= values.numel()
        self._codes.append(SparseCode(indices, values, code.width, code.shape, code.offsets))

    def solve(self) -> CodeFit | None:
        """Fit everything; None where there were no codes."""
        if self._sae is None:
            return None
        atoms_MD = self._sae.w_dec.detach().double()
        square_M = self._square_M - self._sum_M.square() / self._n  # diagonal of S
        weight_M = torch.where(
            self._count_M > 0, self._square_M / self._count_M.clamp_min(1.0), 1.0
        )  # of one firing
        target_MD = self._target_MD - torch.outer(self._sum_M, self._sum_D / self._n)
        norm_M1 = atoms_MD.square().sum(dim=1, keepdim=True).clamp_min(1e-30)
        gram = self._gram()

        prior_M1 = PRIOR * weight_M[:, None] * norm_M1
        scale_M1 = _conjugate_gradients(
            lambda s_M1: (gram(s_M1 * atoms_MD) * atoms_MD).sum(1, keepdim=True) + prior_M1 * s_M1,
            torch.ones_like(norm_M1),
            (target_MD * atoms_MD).sum(dim=1, keepdim=True) + prior_M1,
            square_M[:, None] * norm_M1 + prior_M1,
        )

        def ridged(ridge_M1: Tensor, w_MD: Tensor) -> Tensor:
            return gram(w_MD) + ridge_M1 * w_MD

        decoders, start_MD = [], scale_M1 * atoms_MD
        for prior in reversed(PRIORS):
            ridge_M1 = prior * weight_M[:, None]
            start_MD = _conjugate_gradients(
                partial(ridged, ridge_M1),
                start_MD,
                target_MD + ridge_M1 * atoms_MD,
                square_M[:, None] + ridge_M1,
            )
            decoders.append(self._decoder(start_MD))
        bias_D = self._decoder(scale_M1 * atoms_MD).bias_D
        rescaled = Decoder(self._sae.w_dec.detach().float(), bias_D, scale_M1[:, 0])
        self._codes = []
        return CodeFit(scale_M1[:, 0], rescaled, tuple(reversed(decoders)))

    def _gram(self) -> Callable[[Tensor], Tensor]:
        """The function P → S P."""
        kept: list[tuple[SparseCode, SortedPairs]] = [
            (code, sort_pairs(code.indices, code.width, code.offsets)) for code in self._codes
        ]

        def product(p_MD: Tensor) -> Tensor:
            single_MD = p_MD.float()
            product_MD = -torch.outer(self._sum_M, self._sum_M @ p_MD / self._n)
            for code, pairs in kept:
                rows_ND = gather_sum(code.values, code.indices, single_MD, code.offsets)
                product_MD += segment_outer(code.values, rows_ND, pairs)
            return product_MD

        return product

    def _decoder(self, weight_MD: Tensor) -> Decoder:
        mean_D = self._shift_D + self._sum_D / self._n
        return Decoder(weight_MD.float(), mean_D - self._sum_M @ weight_MD / self._n)


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor], start_MV: Tensor, target_MV: Tensor, diagonal_M1: Tensor
) -> Tensor:
    """Solve A X = T for every column of T, preconditioned by A's diagonal; A is positive."""
    x_MV, inverse_M1 = start_MV, 1.0 / diagonal_M1.clamp_min(1e-30)
    r_MV = target_MV - product(x_MV)
    p_MV = z_MV = inverse_M1 * r_MV
    rz_V = (r_MV * z_MV).sum(dim=0)
    enough = TOLERANCE**2 * float((inverse_M1 * target_MV.square()).sum())
    for _ in range(STEPS):
        if float(rz_V.sum()) <= enough:
            break
        ap_MV = product(p_MV)
        step_V = rz_V / (p_MV * ap_MV).sum(dim=0).clamp_min(1e-300)
        x_MV, r_MV = x_MV + step_V * p_MV, r_MV - step_V * ap_MV
        z_MV = inverse_M1 * r_MV
        new_V = (r_MV * z_MV).sum(dim=0)
        p_MV, rz_V = z_MV + new_V / rz_V.clamp_min(1e-300) * p_MV, new_V
    return x_MV
