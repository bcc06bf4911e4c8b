"""AuxK, the loss that revives dead latents: they explain what the live ones miss (Gao et al. 2024,
Scaling and evaluating sparse autoencoders, A.2).

With e = x − x̂, a constant, and ê = W_decᵀ TopK_k(ReLU(W_enc x + b_enc)) over the dead latents,

    AuxK = Σ_b min_{α ≥ 0} ‖e_b − α ê_b‖² / Σ_b ‖e_b − ē‖²:

how much of the error does not point where the dead latents' reconstruction points. (Gao et al. have
α = 1; then the loss first shrinks latents whose ê is larger than e, and they never fire again:
docs/decisions.md.) 0 where e does not vary.

The target is a constant, so the gradient is known as soon as the value is: nothing is kept for a
backward pass, and memory is one tile of tokens plus the dead rows.

Two ways compute the same: dense matrices [t, n] within a tile of tokens, where many of the dead
latents are used, in float32, since their values are read; or the sparse primitives over the K
latents of each token, selected in the precision of the step. On a GPU those serve all experts at
once.

Shapes: B tokens, t tokens of a tile, D model width, M latents, N experts, V visits (of a token to
an expert), n dead latents, K of them per token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from saeworks.dictionary.autograd import apply, encoder_gradients
from saeworks.dictionary.dispatch import Dispatch
from saeworks.dictionary.kernels import (
    gather_dot,
    gather_sum,
    segment_outer,
    sort_pairs,
    triton_runs,
)
from saeworks.dictionary.losses import total_variation
from saeworks.dictionary.selection import Precision, select_topk
from saeworks.dictionary.stages import stage

_TILE_BYTES = {"cpu": 16 * 2**20, "cuda": 2**28}
_DENSE_UP_TO = {"cpu": 10, "cuda": 32}
"""Dead latents per latent used, up to which dense matrices are taken. CPU: measured on one core of
a Xeon at D 768, K 384: 263 ms dense and 288 sparse with 3072 dead, 1082 and 646 with 12,288. GPU:
in float32 an H100 multiplies n · D numbers (60 TFLOP/s) about as fast as L2 delivers n/32 rows of D
(4 TB/s); from those rates, not measured."""


def auxk_latents(d: int, dead: int) -> tuple[int, float]:
    """How many dead latents AuxK uses per token, and its weight: (min(D/2, dead),
    min(1, dead/(D/2))) (Gao et al. 2024, A.2; the weight lets few dead latents pull gently)."""
    half = max(d // 2, 1)
    return min(half, dead), min(1.0, dead / half)


def auxk_terms(
    coefficient: float,
    dead: Int[Tensor, " n"],
    x_BD: Float[Tensor, "B D"],
    target_BD: Float[Tensor, "B D"],
    x_hat_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    w_dec_MD: Float[Tensor, "M D"],
    b_dec_D: Float[Tensor, " D"],
    precision: Precision = "float32",
) -> dict[str, Float[Tensor, ""]]:
    """`auxk`, a term of the loss: coefficient · min(1, n/(D/2)) · AuxK of the n dead latents; no
    term where there are none, or the coefficient is 0."""
    k, weight = auxk_latents(x_BD.shape[1], len(dead) if coefficient else 0)
    if not k:
        return {}
    with stage("auxk"):
        inputs = (x_BD - b_dec_D, target_BD - x_hat_BD)
        auxk = auxk_of_dead(*inputs, w_enc_MD, b_enc_M, w_dec_MD, dead, k, precision)
        return {"auxk": coefficient * weight * auxk}


@dataclass(frozen=True)
class AuxK:
    """The loss and its gradients with respect to the dead latents' rows.

    Attributes:
        loss: Σ_b min_{α ≥ 0} ‖e_b − α ê_b‖² / Σ‖e − ē‖²; or the part of each row.
        w_enc, b_enc, w_dec: gradients, rows as in the `dead` it was computed for.
    """

    loss: Float[Tensor, "*rows"]
    w_enc: Float[Tensor, "n D"]
    b_enc: Float[Tensor, " n"]
    w_dec: Float[Tensor, "n D"]

    def whole(self) -> "AuxK":
        """With the loss of all rows."""
        return replace(self, loss=self.loss.sum())


def auxk_of_dead(
    x_BD: Float[Tensor, "B D"],
    error_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    w_dec_MD: Float[Tensor, "M D"],
    dead: Int[Tensor, " n"],
    k: int,
    precision: Precision = "float32",
) -> Float[Tensor, ""]:
    """AuxK of the latents in `dead`; differentiable in their rows of w_enc, b_enc and w_dec alone.

    Args:
        x_BD: the encoder's input, b_dec taken off; a constant here, as is the error.
        k: dead latents per token, at least 1 and at most n.
    """
    with torch.no_grad():
        rows = (w_enc_MD[dead], b_enc_M[dead], w_dec_MD[dead])
        aux = auxk_with_gradients(x_BD, error_BD, *rows, k, precision=precision)
    gradients = (aux.w_enc, aux.b_enc, aux.w_dec)
    return known(aux.loss, dead, gradients, (w_enc_MD, b_enc_M, w_dec_MD))


def auxk_with_gradients(
    x_BD: Float[Tensor, "B D"],
    error_BD: Float[Tensor, "B D"],
    w_enc_nD: Float[Tensor, "n D"],
    b_enc_n: Float[Tensor, " n"],
    w_dec_nD: Float[Tensor, "n D"],
    k: int,
    inverse: Float[Tensor, ""] | None = None,
    precision: Precision = "float32",
) -> AuxK:
    """AuxK of n dead latents, and its gradients.

    Args:
        x_BD: the encoder's input, b_dec taken off.
        error_BD: e, detached.
        k: dead latents per token, at most n.
        inverse: 1/Σ‖e − ē‖²; that of these rows, unless given.

    Matrices are dense within a tile: with k near n, as it is while few latents are dead, that is
    much faster than gathering rows.
    """
    n = w_enc_nD.shape[0]
    inverse = inverse_variation(error_BD) if inverse is None else inverse
    on_cpu = x_BD.device.type == "cpu"
    if (on_cpu or triton_runs(x_BD)) and n > _DENSE_UP_TO[x_BD.device.type] * k:
        nothing_D = x_BD.new_zeros(x_BD.shape[1])
        selected = select_topk(x_BD, w_enc_nD, b_enc_n, nothing_D, k, precision)
        return sparse_auxk(x_BD, error_BD, w_enc_nD, w_dec_nD, *selected, 2 * inverse).whole()
    square = error_BD.new_zeros(())
    grad_enc, grad_bias = torch.zeros_like(w_enc_nD), torch.zeros_like(b_enc_n)
    grad_dec = torch.zeros_like(w_dec_nD)
    budget = _TILE_BYTES.get(x_BD.device.type, 2**24)
    tile = max(1, budget // (n * x_BD.element_size()))
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
    for grad in (grad_enc, grad_bias, grad_dec):
        grad.mul_(2 * inverse)
    return AuxK(square * inverse, grad_enc, grad_bias, grad_dec)


def sparse_auxk(
    x_VD: Float[Tensor, "V D"],
    error_VD: Float[Tensor, "V D"],
    w_enc_nD: Float[Tensor, "n D"],
    w_dec_nD: Float[Tensor, "n D"],
    z_VK: Float[Tensor, "V K"],
    indices_VK: Int[Tensor, "V K"],
    slope: Float[Tensor, "*V_1"],
) -> AuxK:
    """The same by the sparse primitives, from the pre-activations that were selected; the loss is
    that of each visit.

    Args:
        slope: twice what ‖e_v − α ê_v‖² counts in the loss, for all or for each visit.
    """
    f_VK = z_VK.relu()
    residual_VD = gather_sum(f_VK, indices_VK, w_dec_nD)
    multiple_V1 = best_multiple(error_VD, residual_VD)
    residual_VD.mul_(multiple_V1).sub_(error_VD)
    grad_VD = residual_VD * slope
    f_VK.mul_(multiple_V1)
    grad_VK = gather_dot(grad_VD, w_dec_nD, indices_VK).mul_(f_VK > 0).mul_(multiple_V1)
    pairs = sort_pairs(indices_VK, len(w_enc_nD))
    grad_enc, grad_bias, _ = encoder_gradients(grad_VK, x_VD, w_enc_nD, None, pairs)
    loss_V = (residual_VD * grad_VD).sum(1) / 2
    return AuxK(loss_V, grad_enc, grad_bias, segment_outer(f_VK, grad_VD, pairs))


def auxk_of_experts(
    x_VD: Float[Tensor, "V D"],
    error_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    w_dec_MD: Float[Tensor, "M D"],
    sent: Dispatch,
    dead: Int[Tensor, " n"],
) -> Float[Tensor, ""]:
    """AuxK inside each expert: its dead latents explain what is missed of the tokens it was sent,

        (B/V) · Σ_v c_e min_{α ≥ 0} ‖e_b − α ê_v‖² / Σ_b ‖e_b − ē‖²

    over visits v of token b to expert e, with ê_v of the n_e dead latents of e, without b_enc,
    k = min(D/2, n_e) and c_e = min(1, n_e/(D/2)). The router's weight would be one more multiple of
    ê, so it does not matter. Differentiable in the dead rows of w_enc and w_dec alone.

    Args:
        x_VD: the encoder's input by visits in the order of their experts, b_dec taken off; a
            constant here, as is the error.
        dead: latents, ascending.
    """
    width = len(w_enc_MD) // sent.experts
    edges = torch.arange(0, len(w_enc_MD) + 1, width, device=dead.device)
    owned = torch.searchsorted(dead, edges)
    compute = _experts_at_once if triton_runs(x_VD) else _experts_in_turn
    with torch.no_grad():
        inverse = inverse_variation(error_BD) * (len(error_BD) / max(len(x_VD), 1))
        aux = compute(x_VD, error_BD, w_enc_MD[dead], w_dec_MD[dead], sent, owned, inverse)
    return known(aux.loss, dead, (aux.w_enc, aux.w_dec), (w_enc_MD, w_dec_MD))


def _experts_in_turn(
    x_VD: Tensor,
    error_BD: Tensor,
    w_enc_nD: Tensor,
    w_dec_nD: Tensor,
    sent: Dispatch,
    owned: Tensor,
    inverse: Tensor,
) -> AuxK:
    """A dense computation per expert; its dead latents are owned[e]:owned[e + 1]."""
    loss, bias_n = x_VD.new_zeros(()), x_VD.new_zeros(len(w_enc_nD))
    grad_enc, grad_dec = torch.zeros_like(w_enc_nD), torch.zeros_like(w_dec_nD)
    visits, latents = pairwise(sent.bounds), pairwise(owned.tolist())
    for (first, last), (start, end) in zip(visits, latents, strict=True):
        k, share = auxk_latents(x_VD.shape[1], end - start)
        if not k or first == last:
            continue
        rows = (x_VD[first:last], error_BD[sent.token[first:last]])
        weights = (w_enc_nD[start:end], bias_n[start:end], w_dec_nD[start:end])
        aux = auxk_with_gradients(*rows, *weights, k, inverse)
        loss += share * aux.loss
        grad_enc[start:end] = share * aux.w_enc
        grad_dec[start:end] = share * aux.w_dec
    return AuxK(loss, grad_enc, bias_n, grad_dec)


def _experts_at_once(
    x_VD: Tensor,
    error_BD: Tensor,
    w_enc_nD: Tensor,
    w_dec_nD: Tensor,
    sent: Dispatch,
    owned: Tensor,
    inverse: Tensor,
) -> AuxK:
    """The same on a GPU, in one launch of each kernel and without the host."""
    from saeworks.dictionary.triton.select import Groups, encoder_topk

    n, half = len(w_enc_nD), max(x_VD.shape[1] // 2, 1)
    groups = Groups(sent.starts, owned, n)
    selected = encoder_topk(x_VD, w_enc_nD, None, min(half, n), groups)
    visit = torch.arange(len(x_VD), device=x_VD.device)
    expert_V = torch.searchsorted(sent.starts, visit, right=True).sub_(1)
    share_N = (owned.diff().to(x_VD.dtype) / half).clamp_max(1)
    slope_V1 = (2 * inverse * share_N[expert_V])[:, None]
    error_VD = error_BD[sent.token]
    return sparse_auxk(x_VD, error_VD, w_enc_nD, w_dec_nD, *selected, slope_V1).whole()


def known(
    loss: Float[Tensor, ""],
    rows: Int[Tensor, " n"],
    gradients: Sequence[Tensor],
    tensors: Sequence[Tensor],
) -> Float[Tensor, ""]:
    """The loss, put into the graph of the tensors, with known gradients of some of their rows."""
    out: Tensor = apply(_Known, loss, rows, gradients, *tensors)
    return out


class _Known(Function):
    """Gradients are sparse tensors of the rows, which autograd adds to the dense ones."""

    @staticmethod
    def forward(
        ctx: Any, loss: Tensor, rows: Tensor, gradients: Sequence[Tensor], *tensors: Tensor
    ) -> Tensor:
        ctx.save_for_backward(rows, *gradients)
        ctx.shapes = [tensor.shape for tensor in tensors]
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        rows, *gradients = ctx.saved_tensors
        spread = [
            torch.sparse_coo_tensor(
                rows[None], gradient * grad, shape, is_coalesced=True, check_invariants=False
            )
            for gradient, shape in zip(gradients, ctx.shapes, strict=True)
        ]
        return None, None, None, *spread


@torch.no_grad()
def best_multiple(
    error_BD: Float[Tensor, "B D"], error_hat_BD: Float[Tensor, "B D"]
) -> Float[Tensor, "B 1"]:
    """The α_b ≥ 0 that minimises ‖e_b − α_b ê_b‖²; 0 where ê is.

    A constant: at the minimum the loss does not change with α, so its gradient is complete without.
    """
    along_B1 = (error_BD * error_hat_BD).sum(1, keepdim=True)
    square_B1 = error_hat_BD.square().sum(1, keepdim=True)
    tiny = torch.finfo(square_B1.dtype).tiny
    return along_B1.clamp_min(0) / square_B1.clamp_min(tiny)


def inverse_variation(error_BD: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """1 / Σ‖e − ē‖², or 0 where there is no variation to explain."""
    variation = total_variation(error_BD.detach())
    tiny = torch.finfo(variation.dtype).tiny
    return torch.where(variation > tiny, 1 / variation.clamp_min(tiny), 0)
