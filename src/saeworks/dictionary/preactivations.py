"""Pre-activations z = W_enc(x − b_dec) + b_enc at the latents that may be active.

Architectures whose activation is a rule per latent (ReLU, JumpReLU, gates, thresholds) are written
once, on `Preactivations`: it holds z either at the (token, latent) pairs above a floor, with sparse
gradients, or at all latents, with dense ones. Which is faster depends on how many are above it.

Shapes: B tokens, D model width, M latents, nnz pairs.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from saeworks.dictionary.base import SparseCode
from saeworks.dictionary.fused import (
    PairSort,
    decode_sparse,
    encoder_gradients,
    tile_rows,
)
from saeworks.dictionary.kernels import gather_sum
from saeworks.dictionary.stages import stage

DENSE_SHARE = 1 / 8
"""Share of active latents above which dense matrices beat sparse pairs in a training step."""
PROBE_ROWS = 64


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
    return preactivations_above(x_BD, w_enc_MD, b_enc_M, floor, b_dec_D)


def preactivations_above(
    x_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    floor: Float[Tensor, "*latents"],
    b_dec_D: Float[Tensor, " D"] | None = None,
) -> AtPairs:
    """z at the pairs above the floor (and NaN), however many they are."""
    with torch.no_grad():
        z, indices, offsets = select_above(x_BD, w_enc_MD, b_enc_M, floor, b_dec_D)
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
    z = _AtPairs.apply(x_BD, w_enc_MD, b_enc_M, b_dec_D, z, indices, offsets, sort)  # type: ignore[no-untyped-call]
    return AtPairs(z, indices, offsets, w_enc_MD.shape[0], sort)


def select_above(
    x_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    floor: Float[Tensor, "*latents"],
    b_dec_D: Float[Tensor, " D"] | None = None,
) -> tuple[Float[Tensor, " nnz"], Int[Tensor, " nnz"], Int[Tensor, " rows_plus_1"]]:
    """z, latent and offsets of every pair with z > floor or z = NaN (which must not look like a
    latent that is off), without gradients, over tiles of tokens in one reused buffer."""
    rows, width = x_BD.shape[0], w_enc_MD.shape[0]
    tile = tile_rows(x_BD, width)
    pre_tM = x_BD.new_empty(min(tile, rows), width)
    values, latents, counts = [], [], [torch.zeros(1, dtype=torch.int64, device=x_BD.device)]
    for x_tD in torch.split(x_BD, tile):
        pre = pre_tM[: len(x_tD)]
        with stage("encoder"):
            shifted_tD = x_tD if b_dec_D is None else x_tD - b_dec_D
            torch.addmm(b_enc_M, shifted_tD, w_enc_MD.T, out=pre)
        with stage("select"):
            above = (pre <= floor).logical_not_()  # so, and not >, for NaN
            place = above.view(-1).nonzero().squeeze(1)
            bounds = torch.arange(0, pre.numel() + 1, width, device=place.device)
            counts.append(torch.searchsorted(place, bounds).diff())  # far faster than above.sum(1)
            values.append(pre.view(-1)[place])
            latents.append(place.remainder_(width))
    offsets = torch.cat(counts).cumsum(0)
    return torch.cat(values), torch.cat(latents), offsets


class _AtPairs(Function):
    """z at given pairs; gradients through the sparse primitives."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor | None,
        z: Tensor,
        indices: Tensor,
        offsets: Tensor,
        sort: PairSort,
    ) -> Tensor:
        ctx.save_for_backward(x, w_enc, b_dec, indices, offsets)
        ctx.sort = sort
        return z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor) -> Any:
        x, w_enc, b_dec, indices, offsets = ctx.saved_tensors
        with stage("sparse backward"):
            grads: tuple[Tensor | None, ...] = (None, None, None)
            if any(ctx.needs_input_grad[1:4]):
                pairs = ctx.sort(indices, w_enc.shape[0], offsets)
                grads = encoder_gradients(grad_z, x, w_enc, b_dec, pairs)
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = gather_sum(grad_z, indices, w_enc, offsets)
        return grad_x, *grads, None, None, None, None
