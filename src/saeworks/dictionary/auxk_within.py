"""AuxK of experts: each expert's dead latents explain what is missed of the tokens it was sent.

Shapes: B tokens, D model width, M latents, N experts, V visits, n dead latents.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from saeworks.dictionary.auxk import auxk_with_gradients
from saeworks.dictionary.dispatch import Dispatch
from saeworks.dictionary.losses import auxk_latents, inverse_variation


def auxk_within(
    x_VD: Float[Tensor, "V D"],
    error_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    w_dec_MD: Float[Tensor, "M D"],
    sent: Dispatch,
    dead: Int[Tensor, " n"],
) -> Float[Tensor, ""]:
    """(B/V) · Σ_v c_e min_{α ≥ 0} ‖e_b − α ê_v‖² / Σ_b ‖e_b − ē‖² over visits v of token b to
    expert e, with ê_v = W_decᵀ TopK_k(ReLU(W_enc x_b)) over the n_e dead latents of e,
    k = min(D/2, n_e) and c_e = min(1, n_e/(D/2)). (`losses.auxk` inside each expert; the router's
    weight is one more multiple of ê, so it does not matter.)

    Differentiable in the dead rows of w_enc and w_dec alone; their gradients are sparse tensors of
    those rows, which autograd adds to the dense ones in place.

    Args:
        x_VD: the encoder's input in the order of `sent`, b_dec taken off; a constant here, as is
            the error.
        dead: latents, ascending.
    """
    constants = (x_VD.detach(), error_BD.detach())
    loss: Tensor = _AuxKWithin.apply(*constants, w_enc_MD, w_dec_MD, sent, dead)  # type: ignore[no-untyped-call]
    return loss


class _AuxKWithin(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        error: Tensor,
        w_enc: Tensor,
        w_dec: Tensor,
        sent: Dispatch,
        dead: Tensor,
    ) -> Tensor:
        experts = len(sent.bounds) - 1
        every = torch.arange(0, w_enc.shape[0] + 1, w_enc.shape[0] // experts, device=dead.device)
        owned = torch.searchsorted(dead, every).tolist()
        rows_per_visit = error.shape[0] / max(x.shape[0], 1)
        inverse = inverse_variation(error)
        loss = error.new_zeros(())
        grad_enc, grad_dec = (w.new_zeros(len(dead), w.shape[1]) for w in (w_enc, w_dec))
        for expert, first, last in sent.experts(0, x.shape[0]):
            mine = slice(owned[expert], owned[expert + 1])
            latents = dead[mine]
            k, share = auxk_latents(x.shape[1], len(latents))
            if not k:
                continue
            found = auxk_with_gradients(
                x[first:last],
                error[sent.token[first:last]],
                w_enc[latents],
                w_enc.new_zeros(len(latents)),
                w_dec[latents],
                k,
                inverse,
            )
            scale = share * rows_per_visit
            loss += scale * found.loss
            grad_enc[mine] = scale * found.w_enc
            grad_dec[mine] = scale * found.w_dec
        ctx.save_for_backward(dead, grad_enc, grad_dec)
        ctx.width = w_enc.shape[0]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        dead, grad_enc, grad_dec = ctx.saved_tensors

        def spread(rows: Tensor) -> Tensor:
            shape = (ctx.width, rows.shape[1])
            return torch.sparse_coo_tensor(
                dead[None], rows * grad, shape, is_coalesced=True, check_invariants=False
            )

        return None, None, spread(grad_enc), spread(grad_dec), None, None
