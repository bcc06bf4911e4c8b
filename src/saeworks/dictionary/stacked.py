"""SAEs of one shape, stepped as one on a GPU.

One SAE of a usual width leaves a GPU idle between its launches. S of them, of several sites, groups
or k, are one dictionary of S·M latents whose rows are in S groups: the kernels that serve a Switch
SAE's experts serve them, in as many launches as one SAE takes. What each computes is what it would
compute alone, up to rounding.

Shapes: S SAEs, B tokens of each, D model width, M latents of each, V = S·B rows, L = S·M latents, K
the largest k, n dead latents of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from saeworks.dictionary.autograd import PairSort, apply, decode_sparse, encoder_gradients
from saeworks.dictionary.auxk import known, sparse_auxk
from saeworks.dictionary.base import SAE
from saeworks.dictionary.kernels import gather_dot
from saeworks.dictionary.selection import Precision, candidate_margin, in_bf16


@dataclass(frozen=True)
class StackOut:
    """A step of all of them; a number for each where there is one.

    Attributes:
        losses: terms by name; `auxk` is 0 for an SAE without dead latents.
    """

    losses: dict[str, Float[Tensor, " S"]]
    total: Float[Tensor, ""]
    x_hat: Float[Tensor, "S B D"]
    fired: Bool[Tensor, "S M"]
    stats: dict[str, Float[Tensor, " S"]]


class Stack:
    """SAEs whose class `stacks`, of equal d, width and type. Their parameters become views of
    stacked ones, so that what loads, saves or evaluates an SAE sees what is trained here.

    Attributes:
        parameters: by the names in `stacks`: encoder and decoder [L, D], the encoder's bias [L],
            the decoder's [S, D].
    """

    def __init__(self, saes: Sequence[SAE]) -> None:
        self.saes = len(saes)
        self.width, self.d = saes[0].width, saes[0].d
        self.parameters: dict[str, Tensor] = {}
        *_, last = saes[0].stacks
        for name in saes[0].stacks:
            parts = [sae.get_parameter(name) for sae in saes]
            together = torch.stack([part.detach() for part in parts])
            for part, view in zip(parts, together.unbind(), strict=True):
                part.data = view
            flat = together if name == last else together.flatten(0, 1)
            self.parameters[name] = flat.requires_grad_()
        device = together.device
        self._k = max(sae.config.k for sae in saes)
        self._k_S1 = torch.tensor([[sae.config.k] for sae in saes], device=device)
        coefficients = [sae.config.aux_coefficient for sae in saes]
        self._coefficient_S = torch.tensor(coefficients, device=device)
        self._equal_k = all(sae.config.k == self._k for sae in saes)

    def step(
        self,
        x_SBD: Float[Tensor, "S B D"],
        target_SBD: Float[Tensor, "S B D"],
        weight_SB: Float[Tensor, "S B"] | None,
        dead: Sequence[Int[Tensor, " _"]],
        precision: Precision,
    ) -> StackOut:
        """What `SAE.step` gives each of them."""
        w_enc, b_enc, w_dec, b_dec = self.parameters.values()
        sort, count = PairSort(), max(x_SBD.shape[1], 1)
        shifted_VD = (x_SBD - b_dec[:, None]).flatten(0, 1).detach()
        z_VK, indices_VK = self._select(shifted_VD, precision)
        inputs = (w_enc, b_enc, b_dec, shifted_VD, z_VK, indices_VK, sort)
        f_VK: Tensor = apply(_Selected, *inputs).relu()
        bare_VD = decode_sparse(f_VK, indices_VK, w_dec, b_dec.new_zeros(self.d), sort=sort)
        x_hat_SBD = bare_VD.view_as(x_SBD) + b_dec[:, None]
        square_SB = (x_hat_SBD - target_SBD).square().mean(2)
        weighted_SB = square_SB if weight_SB is None else weight_SB * square_SB
        losses = {"reconstruction": weighted_SB.sum(1) / count}
        total = losses["reconstruction"].sum()
        if any(map(len, dead)):
            error_VD = (target_SBD - x_hat_SBD).flatten(0, 1).detach()
            losses["auxk"], auxk = self._auxk(shifted_VD, error_VD, dead)
            total = total + auxk
        with torch.no_grad():
            fired_L = f_VK.new_zeros(len(b_enc)).index_add_(0, indices_VK.view(-1), f_VK.view(-1))
            stats = {
                "fvu": losses["reconstruction"] * count * self.d / _variation(target_SBD),
                "l0": (f_VK > 0).view(self.saes, -1).sum(1) / count,
            }
        losses = {name: term.detach() for name, term in losses.items()}
        fired_SM = (fired_L > 0).view(self.saes, self.width)
        return StackOut(losses, total, x_hat_SBD, fired_SM, stats)

    @torch.no_grad()
    def _select(self, x_VD: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
        """The K largest pre-activations of each row; 0 beyond its SAE's own k."""
        from saeworks.dictionary.triton.select import encoder_topk

        w_enc, b_enc, *_ = self.parameters.values()
        k, spare = self._k, candidate_margin(self._k)
        groups = self._groups(len(x_VD))
        if in_bf16(x_VD, precision) and k + spare < self.width:
            low = (x_VD.bfloat16(), w_enc.bfloat16(), b_enc.bfloat16())
            _, indices = encoder_topk(*low, k + spare, groups)
            z = gather_dot(x_VD, w_enc, indices).add_(b_enc[indices])
        else:
            z, indices = encoder_topk(x_VD, w_enc, b_enc, k, groups)
        z_VK, place_VK = z.topk(k, dim=1)
        if not self._equal_k:
            beyond_SK = torch.arange(k, device=z.device) >= self._k_S1
            z_VK.view(self.saes, -1, k).masked_fill_(beyond_SK[:, None], 0)
        return z_VK, indices.gather(1, place_VK)

    def _groups(self, rows: int) -> Any:
        """Each SAE's rows and latents."""
        from saeworks.dictionary.triton.select import Groups

        sae = torch.arange(self.saes + 1, device=self._k_S1.device)
        return Groups(sae * (rows // self.saes), sae * self.width, self.width)

    def _auxk(
        self, x_VD: Tensor, error_VD: Tensor, dead: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Each SAE's AuxK, weighted; and their sum, in the graph."""
        from saeworks.dictionary.triton.select import Groups, encoder_topk

        weights = tuple(self.parameters.values())[:3]
        half, most = max(self.d // 2, 1), max(map(len, dead))
        with torch.no_grad():
            dead_n = torch.cat([latents + i * self.width for i, latents in enumerate(dead)])
            whole = self._groups(len(x_VD))
            owned = torch.searchsorted(dead_n, whole.latents)
            w_enc_nD, b_enc_n, w_dec_nD = (weight[dead_n] for weight in weights)
            groups = Groups(whole.rows, owned, most)
            selected = encoder_topk(x_VD, w_enc_nD, b_enc_n, min(half, most), groups)
            variation_S = _variation(error_VD.view(self.saes, -1, self.d))
            tiny = torch.finfo(variation_S.dtype).tiny
            share_S = self._coefficient_S * (owned.diff() / half).clamp_max(1)
            slope_S = torch.where(variation_S > tiny, 2 * share_S / variation_S.clamp_min(tiny), 0)
            slope_V1 = slope_S[:, None].expand(-1, len(x_VD) // self.saes).reshape(-1, 1)
            aux = sparse_auxk(x_VD, error_VD, w_enc_nD, w_dec_nD, *selected, slope_V1)
        gradients = (aux.w_enc, aux.b_enc, aux.w_dec)
        whole_loss = known(aux.loss.sum(), dead_n, gradients, weights)
        return aux.loss.view(self.saes, -1).sum(1), whole_loss


def _variation(x_SBD: Tensor) -> Tensor:
    """Σ_b ‖x_b − x̄‖² of each SAE's rows."""
    return (x_SBD - x_SBD.mean(1, keepdim=True)).square().sum((1, 2))


class _Selected(Function):
    """z at the selected pairs, in the graph of w_enc, b_enc and each SAE's b_dec."""

    @staticmethod
    def forward(
        ctx: Any,
        w_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
        shifted: Tensor,
        z: Tensor,
        indices: Tensor,
        sort: PairSort,
    ) -> Tensor:
        ctx.save_for_backward(w_enc, b_dec, shifted, indices)
        ctx.sort = sort
        return z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor) -> Any:
        w_enc, b_dec, shifted, indices = ctx.saved_tensors
        pairs = ctx.sort(indices, len(w_enc), None)
        grad_w, grad_b, _ = encoder_gradients(grad_z, shifted, w_enc, None, pairs)
        saes, d = b_dec.shape
        grad_dec = -torch.bmm(grad_b.view(saes, 1, -1), w_enc.view(saes, -1, d)).squeeze(1)
        return grad_w, grad_b, grad_dec, None, None, None, None
