"""Pre-activations z = W_enc(x − b_dec) + b_enc at the latents that may be active.

Architectures whose activation is a rule per latent (ReLU, JumpReLU, gates, thresholds) are written
once, on `Preactivations`: it holds z either at the (token, latent) pairs above a floor, with sparse
gradients, or at all latents, with dense ones. Which is faster depends on how many are above it.

Shapes: B tokens, D model width, M latents, nnz pairs.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeworks.dictionary.autograd import PairSort, decode_sparse, pre_activations_at
from saeworks.dictionary.base import SparseCode
from saeworks.dictionary.selection import PROBE_ROWS, Precision, select_above
from saeworks.dictionary.stages import stage

DENSE_SHARE = 1 / 8
"""Share of active latents above which dense matrices beat sparse pairs in a training step."""


class Preactivations(ABC):
    """z of a batch; `values` below are tensors of z's shape, one number per place.

    Attributes:
        z: differentiable in x, w_enc, b_enc and b_dec.
        tokens: B.
        width: M.
    """

    def __init__(self, z: Tensor, tokens: int, width: int) -> None:
        self.z, self.tokens, self.width = z, tokens, width

    @abstractmethod
    def at(self, per_latent_M: Float[Tensor, " M"]) -> Float[Tensor, "*places"]:
        """A number per latent, at every place of z; differentiable."""

    @abstractmethod
    def decode(
        self,
        values: Float[Tensor, "*places"],
        w_dec_MD: Float[Tensor, "M D"],
        b_dec_D: Float[Tensor, " D"],
    ) -> Float[Tensor, "B D"]:
        """Σ_m values[b, m] · W_dec[m] + b_dec; differentiable."""

    @abstractmethod
    def fired(self, values: Float[Tensor, "*places"]) -> Bool[Tensor, " M"]:
        """Latents with a positive value; no value may be negative."""

    def mean_sum(self, values: Float[Tensor, "*places"]) -> Float[Tensor, ""]:
        """mean_b Σ_m values[b, m]."""
        return values.sum() / max(self.tokens, 1)

    def l0(self, values: Float[Tensor, "*places"]) -> Float[Tensor, ""]:
        """Positive values per token, on average."""
        return (values > 0).sum() / max(self.tokens, 1)


@final
class AtAll(Preactivations):
    """z at every latent, [B, M]."""

    def at(self, per_latent_M: Float[Tensor, " M"]) -> Float[Tensor, "*places"]:
        return per_latent_M.expand(self.tokens, self.width)

    def decode(
        self,
        values: Float[Tensor, "*places"],
        w_dec_MD: Float[Tensor, "M D"],
        b_dec_D: Float[Tensor, " D"],
    ) -> Float[Tensor, "B D"]:
        return torch.addmm(b_dec_D, values, w_dec_MD)

    def fired(self, values: Float[Tensor, "*places"]) -> Bool[Tensor, " M"]:
        return (values.detach() > 0).any(0)


@final
class AtPairs(Preactivations):
    """z at pairs, [nnz], in compressed rows: token b owns the pairs offsets[b]:offsets[b + 1]."""

    def __init__(
        self, z: Tensor, indices: Tensor, offsets: Tensor, width: int, sort: PairSort
    ) -> None:
        super().__init__(z, offsets.shape[0] - 1, width)
        self.indices, self.offsets, self._sort = indices, offsets, sort

    def at(self, per_latent_M: Float[Tensor, " M"]) -> Float[Tensor, "*places"]:
        return per_latent_M[self.indices]

    def decode(
        self,
        values: Float[Tensor, "*places"],
        w_dec_MD: Float[Tensor, "M D"],
        b_dec_D: Float[Tensor, " D"],
    ) -> Float[Tensor, "B D"]:
        with stage("decode"):
            return decode_sparse(
                values, self.indices, w_dec_MD, b_dec_D, self.offsets, sort=self._sort
            )

    def fired(self, values: Float[Tensor, "*places"]) -> Bool[Tensor, " M"]:
        total_M = values.new_zeros(self.width).index_add_(0, self.indices, values.detach())
        return total_M > 0

    def code(self, values: Float[Tensor, "*places"]) -> SparseCode:
        """The values as a code of B tokens."""
        return SparseCode(self.indices, values, self.width, (self.tokens,), self.offsets)


def preactivations(
    x_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    floor: Float[Tensor, "*latents"],
    b_dec_D: Float[Tensor, " D"] | None = None,
    precision: Precision = "float32",
) -> Preactivations:
    """z where it is above the floor or NaN; at all latents where that is the faster way.

    The first rows of the batch decide, so that the same batch goes the same way.

    Args:
        b_dec_D: subtracted from x, unless None.
    """
    if x_BD.shape[0]:
        with torch.no_grad():
            head_bD = x_BD[:PROBE_ROWS] if b_dec_D is None else x_BD[:PROBE_ROWS] - b_dec_D
            above = torch.addmm(b_enc_M, head_bD, w_enc_MD.T) > floor
            dense = bool(above.float().mean() > DENSE_SHARE)
        if dense:
            with stage("encoder"):
                shifted_BD = x_BD if b_dec_D is None else x_BD - b_dec_D
                z_BM = torch.addmm(b_enc_M, shifted_BD, w_enc_MD.T)
            return AtAll(z_BM, *z_BM.shape)
    return preactivations_above(x_BD, w_enc_MD, b_enc_M, floor, b_dec_D, precision)


def preactivations_above(
    x_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    floor: Float[Tensor, "*latents"],
    b_dec_D: Float[Tensor, " D"] | None = None,
    precision: Precision = "float32",
) -> AtPairs:
    """z at the pairs above the floor (and NaN), however many they are."""
    with torch.no_grad():
        z, indices, offsets = select_above(x_BD, w_enc_MD, b_enc_M, floor, b_dec_D, precision)
    return at_pairs(x_BD, w_enc_MD, b_enc_M, b_dec_D, z, indices, offsets)


def at_pairs(
    x_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    b_dec_D: Float[Tensor, " D"] | None,
    z: Float[Tensor, " nnz"],
    indices: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_plus_1"],
) -> AtPairs:
    """Pairs that were selected, with their z put into the graph."""
    sort = PairSort()
    z = pre_activations_at(x_BD, w_enc_MD, b_enc_M, b_dec_D, z, indices, offsets, sort)
    return AtPairs(z, indices, offsets, w_enc_MD.shape[0], sort)
