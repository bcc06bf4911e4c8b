"""AuxK's value and gradient in one pass over tiles of tokens, on the dead latents alone.

The target e is a constant, so the gradient is known as soon as the value is: nothing is kept for
a backward pass, and memory is one tile plus the dead rows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from saeworks.dictionary.losses import best_multiple, inverse_variation

_TILE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class AuxK:
    """The loss and its gradients with respect to the dead latents' rows.

    Attributes:
        loss: Σ_b min_{α ≥ 0} ‖e_b − α ê_b‖² / Σ‖e − ē‖².
        w_enc, b_enc, w_dec: gradients, rows as in the `dead` it was computed for.
    """

    loss: Float[Tensor, ""]
    w_enc: Float[Tensor, "n D"]
    b_enc: Float[Tensor, " n"]
    w_dec: Float[Tensor, "n D"]


def auxk_of_dead(
    x_BD: Float[Tensor, "B D"],
    error_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    w_dec_MD: Float[Tensor, "M D"],
    dead: Int[Tensor, " n"],
    k: int,
) -> Float[Tensor, ""]:
    """AuxK of the latents in `dead`; differentiable in their rows of w_enc, b_enc and w_dec alone.

    Args:
        x_BD: the encoder's input, b_dec taken off; a constant here, as is the error.
        k: dead latents per token, at least 1 and at most n.
    """
    loss: Tensor = _AuxK.apply(  # type: ignore[no-untyped-call]
        x_BD.detach(), error_BD.detach(), w_enc_MD, b_enc_M, w_dec_MD, dead, k
    )
    return loss


class _AuxK(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        error: Tensor,
        w_enc: Tensor,
        b_enc: Tensor,
        w_dec: Tensor,
        dead: Tensor,
        k: int,
    ) -> Tensor:
        found = auxk_with_gradients(x, error, w_enc[dead], b_enc[dead], w_dec[dead], k)
        ctx.found, ctx.width = found, w_enc.shape[0]
        ctx.save_for_backward(dead)
        return found.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (dead,) = ctx.saved_tensors

        def spread(rows: Tensor) -> Tensor:
            out = rows.new_zeros(ctx.width, *rows.shape[1:])
            return out.index_copy_(0, dead, rows * grad)

        found = ctx.found
        return None, None, spread(found.w_enc), spread(found.b_enc), spread(found.w_dec), None, None


def auxk_with_gradients(
    x_BD: Float[Tensor, "B D"],
    error_BD: Float[Tensor, "B D"],
    w_enc_nD: Float[Tensor, "n D"],
    b_enc_n: Float[Tensor, " n"],
    w_dec_nD: Float[Tensor, "n D"],
    k: int,
    inverse: Float[Tensor, ""] | None = None,
) -> AuxK:
    """ê = W_decᵀ TopK_k(ReLU(W_enc x + b_enc)) over n dead latents, its best multiple compared with
    e (`losses.auxk`).

    Args:
        x_BD: the encoder's input, b_dec taken off.
        error_BD: e, detached.
        k: dead latents per token, at most n.
        inverse: 1/Σ‖e − ē‖², where these rows are not all; theirs, unless given.

    Matrices are dense within a tile: with k near n, as it is while few latents are dead, that is
    much faster than gathering rows.
    """
    n = w_enc_nD.shape[0]
    square = error_BD.new_zeros(())
    grad_enc, grad_bias = torch.zeros_like(w_enc_nD), torch.zeros_like(b_enc_n)
    grad_dec = torch.zeros_like(w_dec_nD)
    tile = max(1, _TILE_BYTES // (n * x_BD.element_size()))
    for x_tD, e_tD in zip(torch.split(x_BD, tile), torch.split(error_BD, tile), strict=True):
        f_tn = torch.addmm(b_enc_n, x_tD, w_enc_nD.T).relu_()
        if k < n:
            values, indices = f_tn.topk(k, dim=1, sorted=False)
            f_tn.zero_().scatter_(1, indices, values)
        residual_tD = f_tn @ w_dec_nD
        multiple_t1 = best_multiple(e_tD, residual_tD)
        residual_tD.mul_(multiple_t1).sub_(e_tD)
        square += residual_tD.square().sum()
        f_tn.mul_(multiple_t1)
        grad_dec.addmm_(f_tn.T, residual_tD)
        grad_tn = (residual_tD @ w_dec_nD.T).mul_(f_tn > 0).mul_(multiple_t1)
        grad_enc.addmm_(grad_tn.T, x_tD)
        grad_bias += grad_tn.sum(0)
    inverse = inverse_variation(error_BD) if inverse is None else inverse
    for grad in (grad_enc, grad_bias, grad_dec):
        grad.mul_(2 * inverse)
    return AuxK(square * inverse, grad_enc, grad_bias, grad_dec)
