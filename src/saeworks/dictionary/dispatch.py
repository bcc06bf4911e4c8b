"""Dispatch: visits sorted by expert once, an encoder matmul per expert, TopK inside it.

Nothing of size [B, M] exists, not even a tile of it: pre-activations are [tile, E]. (The public
Switch code computes all M and masks.) On a GPU, one launch encodes all experts, each tile of visits
with the latents of its own, and the host never learns how many visits an expert has.

Shapes: B tokens, D model width, M latents, N experts of E = M/N, n experts per token, V visits,
K active latents per token.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from saeworks.dictionary.autograd import PairSort, apply, encoder_gradients
from saeworks.dictionary.experts import Routing
from saeworks.dictionary.kernels import gather_dot, gather_sum, triton_runs
from saeworks.dictionary.selection import (
    Precision,
    candidate_margin,
    in_bf16,
    padded_width,
    topk_rows,
)
from saeworks.dictionary.stages import stage

_TILE_BYTES = {"cpu": 16 * 2**20, "cuda": 2**30}


@dataclass(frozen=True)
class Dispatch:
    """Visits in the order of their experts, tokens ascending within an expert.

    Attributes:
        visit: places in the routing's flattened visits.
        token: the token of each.
        starts: expert e owns the visits starts[e]:starts[e + 1].
    """

    visit: Int[Tensor, " V"]
    token: Int[Tensor, " V"]
    starts: Int[Tensor, " N_plus_1"]

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """`starts` for the host, which waits for the device."""
        return tuple(self.starts.tolist())

    @property
    def experts(self) -> int:
        """N."""
        return len(self.starts) - 1

    def runs(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """(expert, first, last + 1) of the visits of each expert among visits start:end."""
        runs = []
        for expert, (low, high) in enumerate(pairwise(self.bounds)):
            first, last = max(low, start), min(high, end)
            if first < last:
                runs.append((expert, first, last))
        return runs


@dataclass(frozen=True)
class Picked:
    """Latents that were selected, K per token.

    Attributes:
        z: pre-activations, ReLU applied; no gradient.
        indices: latents, in [0, M).
        visit: place of each one's weight among the routing's flattened visits; [B, 1] where a
            token has one.
        order: the token of each row; None where that is its own number.
    """

    z: Float[Tensor, "B K"]
    indices: Int[Tensor, "B K"]
    visit: Int[Tensor, "B _"]
    order: Int[Tensor, " B"] | None


def dispatch(routing: Routing, experts: int) -> Dispatch:
    """Sort the visits by expert."""
    expert_V = routing.expert.flatten()
    sorted_V, visit_V = expert_V.int().sort(stable=True)
    starts = torch.searchsorted(
        sorted_V, torch.arange(experts + 1, dtype=torch.int32, device=sorted_V.device)
    )
    if routing.offsets is None:
        token_V = visit_V.div(routing.expert.shape[-1], rounding_mode="floor")
    else:
        token_V = torch.searchsorted(routing.offsets, visit_V, right=True).sub_(1)
    return Dispatch(visit_V, token_V, starts)


@torch.no_grad()
def select_within(
    x_VD: Float[Tensor, "V D"],
    w_enc_MD: Float[Tensor, "M D"],
    sent: Dispatch,
    k: int,
    precision: Precision = "float32",
) -> tuple[Float[Tensor, "V K"], Int[Tensor, "V K"]]:
    """TopK_k(ReLU(W_enc^e x)) of every visit within its own expert e: values and latents in
    [0, M). x is in the order of `sent`, b_dec taken off."""
    width = len(w_enc_MD) // sent.experts
    spare = candidate_margin(k)
    if in_bf16(x_VD, precision) and k + spare < width:
        low = (x_VD.bfloat16(), w_enc_MD.bfloat16())
        _, near_VC = _largest_within(*low, sent, k + spare)
        with stage("rescore"):
            z_VC = gather_dot(x_VD, w_enc_MD, near_VC)
            z_VK, place_VK = z_VC.topk(k, dim=1, sorted=False)
            return z_VK.relu_(), near_VC.gather(1, place_VK)
    z_VK, latent_VK = _largest_within(x_VD, w_enc_MD, sent, k)
    return z_VK.relu_(), latent_VK


def _largest_within(
    x_VD: Tensor, w_enc_MD: Tensor, sent: Dispatch, k: int
) -> tuple[Tensor, Tensor]:
    """The k largest W_enc^e x of every visit and their latents, in the precision of the inputs."""
    visits, width = x_VD.shape[0], w_enc_MD.shape[0] // sent.experts
    if triton_runs(x_VD):
        from saeworks.dictionary.triton.select import Groups, encoder_topk

        latents = torch.arange(0, len(w_enc_MD) + 1, width, device=x_VD.device)
        with stage("encoder"):
            return encoder_topk(x_VD, w_enc_MD, None, k, Groups(sent.starts, latents, width))
    values = x_VD.new_empty(visits, k)
    indices = torch.empty(visits, k, dtype=torch.int64, device=x_VD.device)
    padded = padded_width(width, k, x_VD.device)
    budget = _TILE_BYTES.get(x_VD.device.type, 2**28)
    tile = max(1, min(visits, budget // (padded * x_VD.element_size())))
    pre_tP = x_VD.new_empty(tile, padded)
    pre_tP[:, width:] = -torch.inf
    for start in range(0, visits, tile):
        end = min(start + tile, visits)
        runs = sent.runs(start, end)
        with stage("encoder"):
            for expert, first, last in runs:
                w_ED = w_enc_MD[expert * width : (expert + 1) * width]
                out_tE = pre_tP[first - start : last - start, :width]
                torch.mm(x_VD[first:last], w_ED.T, out=out_tE)
        with stage("topk"):
            values[start:end], indices[start:end] = topk_rows(pre_tP[: end - start], k)
            for expert, first, last in runs:
                indices[first:last] += expert * width
    return values, indices


@torch.no_grad()
def pick(
    x_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    routing: Routing,
    sent: Dispatch,
    k: int,
    precision: Precision = "float32",
) -> Picked:
    """The k active latents of each token: TopK of its expert; of several experts, the k largest of
    weight · ReLU(z) over their union.

    Args:
        x_BD: b_dec taken off; in the order of `sent` where a token has one expert.
    """
    if routing.offsets is None and routing.expert.shape[-1] == 1:
        z_BK, indices = select_within(x_BD, w_enc_MD, sent, k, precision)
        return Picked(z_BK, indices, sent.visit[:, None], sent.token)
    z_VK, latent_VK = select_within(x_BD[sent.token], w_enc_MD, sent, k, precision)
    with stage("topk"):
        place_V = torch.empty_like(sent.visit)  # of each visit of the routing in the order sent
        place_V[sent.visit] = torch.arange(len(place_V), device=place_V.device)
        weighted_VK = (z_VK * routing.weight.flatten()[sent.visit][:, None])[place_V]
        if routing.offsets is None:
            candidates_BC = weighted_VK.view(x_BD.shape[0], routing.expert.shape[1] * k)
            best_BK = candidates_BC.topk(k, dim=1, sorted=False).indices
            row_B1 = torch.arange(x_BD.shape[0], device=x_BD.device)[:, None]
            best_BK = best_BK + row_B1 * candidates_BC.shape[1]
        else:
            best_BK = _largest_per_token(weighted_VK, routing.offsets)
        visit_BK = best_BK.div(k, rounding_mode="floor")
        at_BK = place_V[visit_BK] * k + best_BK % k
        return Picked(z_VK.view(-1)[at_BK], latent_VK.view(-1)[at_BK], visit_BK, None)


def _largest_per_token(
    values_VK: Float[Tensor, "V K"], offsets: Int[Tensor, " rows_plus_1"]
) -> Int[Tensor, "B K"]:
    """Places of the K largest among each token's visits' values; every token has a visit, and so K
    of them. Two sorts, since tokens have different numbers of visits."""
    k = values_VK.shape[1]
    place = values_VK.flatten().argsort(descending=True, stable=True)
    token = torch.searchsorted(offsets, place.div(k, rounding_mode="floor"), right=True).sub_(1)
    place = place[token.argsort(stable=True)]
    rank = torch.arange(k, device=place.device)
    return place[(offsets[:-1, None] * k + rank)]


def picked_pre_activations(
    x_BD: Float[Tensor, "B D"],
    shifted_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_dec_D: Float[Tensor, " D"],
    picked: Picked,
    sort: PairSort,
) -> Float[Tensor, "B K"]:
    """ReLU(W_enc(x − b_dec)) at the picked latents, put into the graph of x, w_enc and b_dec.

    Args:
        shifted_BD: x − b_dec in the order of `picked`, as it was encoded.
    """
    inputs = (x_BD, w_enc_MD, b_dec_D, shifted_BD.detach())
    z_BK: Tensor = apply(_Picked, *inputs, picked.z, picked.indices, picked.order, sort)
    return z_BK


def reorder(
    rows_BD: Float[Tensor, "B D"], order_B: Int[Tensor, " B"] | None
) -> Float[Tensor, "B D"]:
    """out[order[r]] = rows[r], order a permutation; differentiable, each way one gather."""
    if order_B is None:
        return rows_BD
    out: Tensor = apply(_Reorder, rows_BD, order_B)
    return out


class _Picked(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w_enc: Tensor,
        b_dec: Tensor,
        shifted: Tensor,
        z: Tensor,
        indices: Tensor,
        order: Tensor | None,
        sort: PairSort,
    ) -> Tensor:
        ctx.save_for_backward(w_enc, shifted, z, indices, order)
        ctx.sort = sort
        return z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor) -> Any:
        w_enc, shifted, z, indices, order = ctx.saved_tensors
        grad_x = grad_w = grad_b = None
        with stage("sparse backward"):
            grad_z = grad_z * (z > 0)
            if any(ctx.needs_input_grad[1:3]):
                pairs = ctx.sort(indices, w_enc.shape[0], None)
                grad_w, total_M, _ = encoder_gradients(grad_z, shifted, w_enc, None, pairs)
                grad_b = -(total_M @ w_enc)
            if ctx.needs_input_grad[0]:
                rows = gather_sum(grad_z, indices, w_enc)
                grad_x = rows if order is None else _scattered(rows, order)
        return grad_x, grad_w, grad_b, None, None, None, None, None


class _Reorder(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return _scattered(rows, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (order,) = ctx.saved_tensors
        return grad.index_select(0, order), None


def _scattered(rows: Tensor, order: Tensor) -> Tensor:
    """out[order[r]] = rows[r], as a gather, which runs on several threads."""
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return rows.index_select(0, inverse)
