"""One pure function per term of the loss. Activations are normalised to E‖x‖² = D, so every
coefficient is free of scale."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import mse_loss

from saeworks.dictionary.kernels import counts


def reconstruction(
    target_BD: Float[Tensor, "B D"],
    x_hat_BD: Float[Tensor, "B D"],
    weight_B: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """mean_b w_b ‖x_b − x̂_b‖² / D, w = 1 unless given; 1 for x̂ = 0 on normalised activations, 0
    for an empty batch."""
    if target_BD.numel() == 0:
        return x_hat_BD.sum()
    if weight_B is None:
        return mse_loss(x_hat_BD, target_BD)
    return (weight_B * (x_hat_BD - target_BD).square().mean(1)).mean()


def l1(norms: Float[Tensor, "*places"], tokens: int, d: int) -> Float[Tensor, ""]:
    """mean_b Σ_m a_bm / √D, where a is a latent's share of x̂'s norm, f·‖w_dec‖.

    Free of D: x has norm √D. (Conerly et al. 2024, Update on how we train SAEs; their λ = 5 at
    D ≈ 4000 is 0.08 here.)
    """
    total: Tensor = norms.sum()
    return total / (max(tokens, 1) * math.sqrt(d))


def annealed_lp(
    norms: Float[Tensor, "*places"], tokens: int, d: int, p: float
) -> Float[Tensor, ""]:
    """s · mean_b Σ_m (a_bm + ε)^p / √D, with s such that its value is `l1`'s at every p.

    As p falls from 1, large activations are shrunk less, small ones more. The factor s, a constant
    to the gradient, keeps the penalty's strength (Karvonen et al. 2024, Measuring progress in
    dictionary learning, §4; they carry it from step to step, here it is the batch's own). Only
    active latents count; ε = 10⁻² keeps the gradient finite.
    """
    penalty = l1((norms + 1e-2).pow(p), tokens, d)
    strength = l1(norms.detach(), tokens, d) / penalty.detach().clamp_min(1e-30)
    return penalty * strength


def total_variation(x_BD: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Σ_b ‖x_b − x̄‖²."""
    if x_BD.numel() == 0:
        return x_BD.new_zeros(())
    norm: Tensor = torch.linalg.vector_norm(x_BD - x_BD.mean(0))
    return norm.square()


def batch_fvu(target_BD: Float[Tensor, "B D"], mse: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Σ‖x − x̂‖²/Σ‖x − x̄‖² of a batch, detached, from its `reconstruction`."""
    return mse.detach() * target_BD.numel() / total_variation(target_BD.detach())


def fvu_by_site(
    target_BD: Float[Tensor, "B D"],
    x_hat_BD: Float[Tensor, "B D"],
    site_B: Int[Tensor, " B"],
    sites: int,
) -> Float[Tensor, " S"]:
    """Σ‖x − x̂‖²/Σ‖x − x̄‖² over the rows of each site, x̄ their own mean; NaN without rows."""
    target_BD, x_hat_BD = target_BD.detach(), x_hat_BD.detach()
    count_S = counts(site_B, sites).to(target_BD.dtype)
    zero_SD = target_BD.new_zeros(sites, target_BD.shape[1])
    mean_SD = zero_SD.index_add(0, site_B, target_BD) / count_S[:, None].clamp_min(1)
    error_B = (x_hat_BD - target_BD).square().sum(1)
    spread_B = (target_BD - mean_SD[site_B]).square().sum(1)
    total_S = target_BD.new_zeros(sites)
    return total_S.index_add(0, site_B, error_B) / total_S.index_add(0, site_B, spread_B)
