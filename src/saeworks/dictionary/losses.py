"""One pure function per term of the loss. Activations are normalised to E‖x‖² = D, so every
coefficient is free of scale."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import mse_loss


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


def auxk(error_BD: Float[Tensor, "B D"], error_hat_BD: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Σ_b min_{α ≥ 0} ‖e_b − α ê_b‖² / Σ‖e − ē‖²: how much of what the live latents miss points
    where the dead latents' reconstruction points.

    e = x − x̂ and the denominator are constants; ê is the dead latents' reconstruction of e,
    without b_dec. Gao et al. 2024 (Scaling and evaluating sparse autoencoders, A.2) have α = 1;
    then the loss first shrinks latents whose ê is larger than e, and they never fire again
    (docs/decisions.md). 0 where e does not vary.
    """
    error_BD = error_BD.detach()
    multiple_B1 = best_multiple(error_BD, error_hat_BD)
    left_BD = multiple_B1 * error_hat_BD - error_BD
    return left_BD.square().sum() * inverse_variation(error_BD)


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
    count_S = torch.bincount(site_B, minlength=sites).to(target_BD.dtype)
    zero_SD = target_BD.new_zeros(sites, target_BD.shape[1])
    mean_SD = zero_SD.index_add(0, site_B, target_BD) / count_S[:, None].clamp_min(1)
    error_B = (x_hat_BD - target_BD).square().sum(1)
    spread_B = (target_BD - mean_SD[site_B]).square().sum(1)
    total_S = target_BD.new_zeros(sites)
    return total_S.index_add(0, site_B, error_B) / total_S.index_add(0, site_B, spread_B)


def auxk_latents(d: int, dead: int) -> tuple[int, float]:
    """How many dead latents AuxK uses per token, and its weight: (min(D/2, dead),
    min(1, dead/(D/2))) (Gao et al. 2024, A.2; the weight lets few dead latents pull gently)."""
    half = max(d // 2, 1)
    return min(half, dead), min(1.0, dead / half)
