"""Latents that are nearly equal, made one: as shared decoder rows, or as one latent.

Shapes: M latents, D model width, N tokens, C clusters (a leader and the latents that join it).
"""

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.dictionary.cosines import leaders, unit
from saeworks.dictionary.experts import experts_of
from saeworks.errors import UserError


@dataclass(frozen=True)
class Clusters:
    """Which latent stands for each.

    Attributes:
        leader: of each latent; its own for those that stand for themselves.
        weight: of each latent in its cluster's mean.
    """

    leader: Int[Tensor, " M"]
    weight: Float[Tensor, " M"]

    @property
    def distinct(self) -> int:
        """Live latents that stand for themselves."""
        leads_M = self.leader == torch.arange(len(self.leader), device=self.leader.device)
        return int((leads_M & (self.weight > 0)).sum())


def clusters(
    sae: SAE, weight_M: Float[Tensor, " M"], threshold: float = 0.9, *, across: bool = True
) -> Clusters:
    """Latents whose decoder rows have a cosine above the threshold with that of a leader, which is
    the heaviest of them (`leaders`).

    Args:
        weight_M: how much each latent is used, such as on how many tokens it fires. Latents of
            weight 0 are dead and stay as they are.
        across: also join latents of different experts.

    Raises:
        UserError: if the threshold is not between 0 and 1, or there is not one weight per latent.
    """
    if not 0 < threshold < 1:
        raise UserError(f"threshold = {threshold}: a cosine above 0 and below 1, as 0.9 is")
    if weight_M.shape != (sae.width,):
        raise UserError(
            f"{weight_M.numel()} weights for {sae.width} latents: give one for each latent"
        )
    experts = experts_of(sae)
    blocks = 1 if across or experts is None else experts.experts
    leader_M = torch.arange(sae.width, device=sae.w_dec.device)
    for latent_E in leader_M.clone().chunk(blocks):
        live = latent_E[weight_M[latent_E] > 0]
        order = weight_M[live].argsort(descending=True, stable=True)
        leader_M[live] = live[leaders(sae.w_dec[live], order, threshold)]
    return Clusters(leader_M, weight_M)


@torch.no_grad()
def tie(sae: SAE, joined: Clusters) -> SAE:
    """A copy in which the latents of a cluster have one decoder direction,

        w_dec_m = ‖w_dec_m‖ · u / ‖u‖,  u = Σ_j weight_j · w_dec_j / ‖w_dec_j‖ over the cluster,

    so that only `joined.distinct` directions are left to store. Encoder, router and code are
    untouched, and so it is defined for latents of different experts as well, of which no encoder
    row can be spared: where a token goes, only its expert's are computed.
    """
    tied = copy.deepcopy(sae)
    rows_MD = unit(sae.w_dec)
    sums_MD = torch.zeros_like(rows_MD)
    sums_MD.index_add_(0, joined.leader, rows_MD * joined.weight.to(rows_MD)[:, None])
    alone_M = torch.bincount(joined.leader, minlength=sae.width)[joined.leader] == 1
    shared_MD = unit(sums_MD)[joined.leader] * sae.w_dec.norm(dim=1, keepdim=True)
    tied.w_dec.copy_(torch.where(alone_M[:, None], sae.w_dec, shared_MD.to(sae.w_dec.dtype)))
    return tied


@torch.no_grad()
def merge(sae: SAE, joined: Clusters) -> SAE:
    """A narrower copy in which a cluster is one latent: every parameter of its own (encoder and
    decoder rows, biases, thresholds) is the mean over the cluster, by weight; the decoder row keeps
    the leader's norm.

    Where equal latents fire together, the merged one gives their mean and not their sum; where
    their encoders differ, it fires where neither may have: measure FVU. Latents that are in no
    cluster, dead ones among them, are as they were.

    Experts stay equally wide, as wide as the one that is left with most; the others are filled up
    with latents whose rows are 0 and that never fire.

    Raises:
        UserError: if a cluster joins latents of different experts (each token's expert would need
            it: use `tie`), or the SAE cannot have so few latents.
    """
    experts = experts_of(sae)
    blocks = 1 if experts is None else experts.experts
    latent_M = torch.arange(sae.width, device=joined.leader.device)
    run = sae.width // blocks
    if bool((latent_M // run != joined.leader // run).any()):
        raise UserError(
            "merge: latents of different experts cannot become one, since a token's expert computes"
            " only its own; find the clusters with across=False, or use tie"
        )
    leaders_of = [part[joined.leader[part] == part] for part in latent_M.chunk(blocks)]
    width = max(len(part) for part in leaders_of)
    chosen = torch.full((blocks, width), -1, dtype=torch.int64, device=latent_M.device)
    for block, part in enumerate(leaders_of):
        chosen[block, : len(part)] = part
    config = replace(sae.config, width=blocks * width)  # which refuses what cannot be
    with torch.device("meta"):
        narrow = type(sae)(sae.d, config)
    narrow.share(sae.sites)
    kept = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    narrow.load_state_dict(kept | _merged(sae, joined, chosen.flatten()), assign=True)
    return narrow


def _merged(sae: SAE, joined: Clusters, chosen: Int[Tensor, " kept"]) -> dict[str, Tensor]:
    """What is kept per latent: means over clusters, one row for each chosen leader, 0 where that is
    −1."""
    weight_M = joined.weight.clamp_min(0).double()
    size_M = torch.bincount(joined.leader, minlength=sae.width)
    weight_M = torch.where(size_M[joined.leader] == 1, 1.0, weight_M)  # of the dead, too
    total_M = torch.zeros_like(weight_M).index_add_(0, joined.leader, weight_M)
    share_M = weight_M / total_M[joined.leader].clamp_min(torch.finfo(torch.float64).tiny)
    state = {}
    for name in sae.per_latent:
        tensor = sae.state_dict()[name]
        shape = (-1, *[1] * (tensor.dim() - 1))
        sums = torch.zeros_like(tensor, dtype=torch.float64)
        sums.index_add_(0, joined.leader, tensor.double() * share_M.view(shape))
        if name == "w_dec":
            norm_M1 = tensor.double().norm(dim=1, keepdim=True)
            sums = torch.nn.functional.normalize(sums, dim=1) * norm_M1
        picked = sums[chosen.clamp_min(0)] * (chosen >= 0).view(shape)
        state[name] = picked.to(tensor.dtype)
    return state
