"""What each node of a site does to m: effects by attribution, and by patching one latent alone.

A site's activation is x = x̂ + e = Σ_j f_j W_dec[j] + b_dec + e. Its nodes are its latents'
activations f_j and its error e, at every position. A node that goes from its clean to its patched
value, with all other sites as they are in the clean run, has the effect

    (f_patch − f_clean) · ∂m/∂f with ∂m/∂f_j = W_dec[j] · ∂m/∂x, and (e_patch − e_clean) · ∂m/∂x

(attribution patching; Syed et al. 2023, Marks et al. 2024). The nodes are where the gradient ends:
it goes through the decoder once, and neither through the encoder nor around it through e, which is
a node of its own. Integrated gradients take the mean of ∂m/∂x over points of the straight line from
clean to patched. Since x is linear in its nodes, x moves on that line when all of them do. So ∂m/∂x
needs no SAE, and one set of gradients serves all SAEs of a site. The effects of all nodes of a site
add up to what patching the whole site changes, as far as the points make up the line.

Shapes: P pairs of prompts, T positions, D model width, M latents, S sampled latents, n pairs of a
row and an active latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.dictionary.kernels import gather_dot, pair_rows
from saeworks.measure.circuits.config import Attribution
from saeworks.measure.circuits.passes import Passes
from saeworks.measure.circuits.prompts import Activations, CodedSite, Prompts
from saeworks.measure.progress import Tick


def points(attribution: Attribution, steps: int) -> list[float]:
    """Where on the way from clean (0) to patched (1) the gradient is taken: the middles of equal
    stretches, whose sum is exact for a quadratic m; plain: at the clean end."""
    if attribution == "plain":
        return [0.0]
    return [(step + 0.5) / steps for step in range(steps)]


def mean_gradient(
    passes: Passes, x: Activations, at: Sequence[float], tick: Tick
) -> Float[Tensor, "P T D"]:
    """The mean of ∂m/∂x over points between a site's clean and patched activations."""
    total_PTD = torch.zeros_like(x.clean_PTD)
    for block in passes.prompts.blocks():
        clean_PTD, way_PTD = x.clean_PTD[block], (x.patch_PTD - x.clean_PTD)[block]
        for number in passes.chunks(block, len(at)):
            at_V111 = clean_PTD.new_tensor([at[n] for n in number])[:, None, None, None]
            x_VPTD = (clean_PTD + at_V111 * way_PTD).requires_grad_()
            with torch.enable_grad():
                m_VP = passes.differences(block, x_VPTD)
                (gradient_VPTD,) = torch.autograd.grad(m_VP.sum(), x_VPTD)
            total_PTD[block] += gradient_VPTD.sum(0)
            tick(m_VP.numel() * clean_PTD.shape[1])
    return total_PTD / len(at)


@dataclass(frozen=True)
class NodeEffects:
    """The effects of the nodes of one SAE at one site, at every prompt and position.

    Attributes:
        row_n: prompt · T + position of each active latent, of the clean and of the patched prompts;
            where a latent is active in both it stands twice, and its effect is the sum.
        latent_n: its number.
        effect_n: its effect.
        error_PT: that of the error.
        width: M.
    """

    row_n: Int[Tensor, " n"]
    latent_n: Int[Tensor, " n"]
    effect_n: Float[Tensor, " n"]
    error_PT: Float[Tensor, "P T"]
    width: int

    @cached_property
    def total_M(self) -> Float[Tensor, " M"]:
        """Each latent's effect, summed over positions, mean over prompts; float64."""
        total_M = self.effect_n.new_zeros(self.width, dtype=torch.float64)
        return total_M.index_add_(0, self.latent_n, self.effect_n.double()) / len(self.error_PT)

    @property
    def error_total(self) -> float:
        """The error's effect, summed over positions, mean over prompts."""
        return float(self.error_PT.double().sum()) / len(self.error_PT)

    @cached_property
    def ranked_n(self) -> Int[Tensor, " n"]:
        """The latents that are active somewhere, by |effect|, the largest first; ties by number."""
        active_n: Tensor = torch.unique(self.latent_n)
        return active_n[self.total_M[active_n].abs().argsort(descending=True, stable=True)]

    @property
    def error_place(self) -> int:
        """How many latents have a larger |effect| than the error."""
        return int((self.total_M.abs() > abs(self.error_total)).sum())

    def by_prompt(self, latents_S: Int[Tensor, " S"]) -> Float[Tensor, "P S"]:
        """The effects of some latents on every prompt, summed over positions."""
        prompts, length = self.error_PT.shape
        column_M = torch.full((self.width,), -1, device=latents_S.device)
        column_M[latents_S] = torch.arange(len(latents_S), device=latents_S.device)
        column_n = column_M[self.latent_n]
        chosen = column_n >= 0
        out_PS = self.effect_n.new_zeros(prompts, len(latents_S), dtype=torch.float64)
        place = (self.row_n[chosen].div(length, rounding_mode="floor"), column_n[chosen])
        return out_PS.index_put_(place, self.effect_n[chosen].double(), accumulate=True)


@torch.no_grad()
def effects(
    coded: CodedSite, prompts: Prompts, gradient_PTD: Float[Tensor, "P T D"]
) -> NodeEffects:
    """The effects of an SAE's nodes at a site, from the site's mean gradient.

    Positions of padding have none: the gradient is 0 there, and their latents are left out.
    """
    gradient_RD = gradient_PTD.flatten(0, 1)
    rows, latents, values = [], [], []
    difference_RD = torch.zeros_like(gradient_RD)
    sae, x = coded.sae, coded.x
    sides = ((1.0, x.patch_PTD, coded.patch), (-1.0, x.clean_PTD, coded.clean))
    for sign, x_PTD, code in sides:
        difference_RD += sign * (x_PTD.flatten(0, 1) - sae.decode(code))
        slope = gather_dot(gradient_RD, sae.w_dec, code.indices, code.offsets)
        row_n = pair_rows(code.indices, code.offsets)
        seen = (code.values.flatten() != 0) & prompts.read_PT.flatten()[row_n]
        rows.append(row_n[seen])
        latents.append(code.indices.flatten()[seen])
        values.append((sign * slope * code.values).flatten()[seen])
    error_PT = (difference_RD * gradient_RD).sum(-1).view(prompts.shape)
    return NodeEffects(torch.cat(rows), torch.cat(latents), torch.cat(values), error_PT, sae.width)


@torch.no_grad()
def changed_latents(coded: CodedSite, prompts: Prompts) -> Int[Tensor, " n"]:
    """The latents whose activation differs between a clean and its patched prompt somewhere."""
    read_R, width = prompts.read_PT.flatten(), coded.sae.width
    keys, values = [], []
    for sign, code in ((1.0, coded.patch), (-1.0, coded.clean)):
        row_n = pair_rows(code.indices, code.offsets)
        keys.append((row_n * width + code.indices.flatten())[read_R[row_n]])
        values.append(sign * code.values.flatten()[read_R[row_n]])
    key_n, place = torch.unique(torch.cat(keys), return_inverse=True)
    change_n = torch.zeros(len(key_n), device=key_n.device).index_add_(0, place, torch.cat(values))
    changed_n: Tensor = torch.unique(key_n[change_n != 0] % width)
    return changed_n


@torch.no_grad()
def patched_alone(
    passes: Passes, coded: CodedSite, latents_S: Int[Tensor, " S"], tick: Tick
) -> Float[Tensor, "P S"]:
    """What attribution estimates, exactly: m with one latent at its patched activation at all
    positions and all else clean, less m of the clean run."""
    clean_P, x = passes.clean_P, coded.x
    out_PS = torch.empty(len(clean_P), len(latents_S), dtype=torch.float64, device=clean_P.device)
    changes_SPT = _changes(coded, latents_S).view(len(latents_S), *x.clean_PTD.shape[:2])
    for block in passes.prompts.blocks():
        for number in passes.chunks(block, len(latents_S)):
            rows_VD = coded.sae.w_dec[latents_S[number.start : number.stop]]
            changes_VPT = changes_SPT[number.start : number.stop, block]
            x_VPTD = x.clean_PTD[block] + changes_VPT[..., None] * rows_VD[:, None, None]
            m_VP = passes.differences(block, x_VPTD)
            out_PS[block, number.start : number.stop] = (m_VP - clean_P[block]).T.double()
            tick(changes_VPT.numel())
    return out_PS


def _changes(coded: CodedSite, latents_S: Tensor) -> Float[Tensor, "S R"]:
    """f_patch − f_clean of some latents at every row."""
    column_M = torch.full((coded.sae.width,), -1, device=latents_S.device)
    column_M[latents_S] = torch.arange(len(latents_S), device=latents_S.device)
    prompts, length, _ = coded.x.clean_PTD.shape
    out_SR = coded.x.clean_PTD.new_zeros(len(latents_S), prompts * length)
    for sign, code in ((1.0, coded.patch), (-1.0, coded.clean)):
        column_n = column_M[code.indices.flatten()]
        chosen = column_n >= 0
        place = (column_n[chosen], pair_rows(code.indices, code.offsets)[chosen])
        out_SR.index_put_(place, sign * code.values.flatten()[chosen], accumulate=True)
    return out_SR
