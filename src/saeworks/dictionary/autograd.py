"""Autograd functions of sparse dictionaries: sparse gradients, bounded memory.

Gradients go through the sparse primitives, so neither [B·K, D] nor a dense [B, M] gradient exists.

Shapes: B tokens, D model width, M latents, K active latents per token, nnz pairs.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from saeworks.dictionary.kernels import (
    SortedPairs,
    gather_dot,
    gather_sum,
    segment_outer,
    sort_pairs,
)
from saeworks.dictionary.selection import Precision, select_topk
from saeworks.dictionary.stages import stage


def apply(function: type[Function], *inputs: Any) -> Any:
    """`function.apply`, which torch leaves without types."""
    return function.apply(*inputs)


class PairSort:
    """`sort_pairs` of one batch's pairs, done when first asked for."""

    def __init__(self) -> None:
        self._pairs: SortedPairs | None = None

    def __call__(self, indices: Tensor, width: int, offsets: Tensor | None) -> SortedPairs:
        if self._pairs is None:
            self._pairs = sort_pairs(indices, width, offsets)
        return self._pairs


def encode_topk(
    x_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    b_dec_D: Float[Tensor, " D"],
    k: int,
    sort: PairSort | None = None,
    precision: Precision = "float32",
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """TopK_k(ReLU(W_enc(x − b_dec) + b_enc)) as values and latents; differentiable.

    Args:
        sort: shared with the other users of the same pairs, so that they are sorted once.
    """
    weights = (w_enc_MD, b_enc_M, b_dec_D)
    with torch.no_grad():
        values, indices = select_topk(x_BD, *weights, k, precision)
    z = pre_activations_at(x_BD, *weights, values, indices, None, sort or PairSort())
    return z.relu(), indices


def pre_activations_at(
    x_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    b_dec_D: Float[Tensor, " D"] | None,
    z: Float[Tensor, "*pairs"],
    indices: Int[Tensor, "*pairs"],
    offsets: Int[Tensor, " rows_plus_1"] | None,
    sort: PairSort,
) -> Float[Tensor, "*pairs"]:
    """z = W_enc(x − b_dec) + b_enc at pairs that were selected, put into the graph.

    Args:
        z: the pre-activations, as they were computed without gradients.
        b_dec_D: subtracted from x, unless None.
    """
    inputs = (x_BD, w_enc_MD, b_enc_M, b_dec_D, z, indices, offsets, sort)
    out: Tensor = apply(_PreActivations, *inputs)
    return out


def decode_sparse(
    values: Float[Tensor, "*pairs"],
    indices: Int[Tensor, "*pairs"],
    w_dec_MD: Float[Tensor, "M D"],
    b_dec_D: Float[Tensor, " D"],
    offsets: Int[Tensor, " rows_plus_1"] | None = None,
    sort: PairSort | None = None,
) -> Float[Tensor, "B D"]:
    """Σ_j values[b, j] · W_dec[indices[b, j]] + b_dec; differentiable.

    Args:
        sort: as of `encode_topk`.
    """
    x_hat: Tensor = apply(_Decode, values, indices, w_dec_MD, b_dec_D, offsets, sort or PairSort())
    return x_hat


def encoder_gradients(
    grad: Float[Tensor, "*pairs"],
    x: Float[Tensor, "B D"],
    w_enc: Float[Tensor, "M D"],
    b_dec: Float[Tensor, " D"] | None,
    pairs: SortedPairs,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of w_enc, b_enc and (through x − b_dec, unless it is None) b_dec, from that of the
    pre-activations."""
    grad_w = segment_outer(grad, x if b_dec is None else x - b_dec, pairs)
    grad_b = segment_outer(grad, x.new_ones(x.shape[0], 1), pairs).squeeze(1)
    return grad_w, grad_b, None if b_dec is None else -(grad_b @ w_enc)


class _PreActivations(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor | None,
        z: Tensor,
        indices: Tensor,
        offsets: Tensor | None,
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


class _Decode(Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        indices: Tensor,
        w_dec: Tensor,
        b_dec: Tensor,
        offsets: Tensor | None,
        sort: PairSort,
    ) -> Tensor:
        ctx.save_for_backward(values, indices, w_dec, offsets)
        ctx.sort = sort
        return gather_sum(values, indices, w_dec, offsets).add_(b_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_x_hat: Tensor) -> Any:
        values, indices, w_dec, offsets = ctx.saved_tensors
        grad_values = grad_w = None
        with stage("sparse backward"):
            if ctx.needs_input_grad[0]:
                grad_values = gather_dot(grad_x_hat, w_dec, indices, offsets)
            if ctx.needs_input_grad[2]:
                pairs = ctx.sort(indices, w_dec.shape[0], offsets)
                grad_w = segment_outer(values, grad_x_hat.contiguous(), pairs)
            grad_b = grad_x_hat.sum(0) if ctx.needs_input_grad[3] else None
        return grad_values, None, grad_w, grad_b, None, None
