"""The numbers of the synthetic test in closed form: what the audit is compared with."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def closed_form(
    eigenvalues_D: NDArray[np.float64], activation: float, reconstruction: float
) -> tuple[float, float]:
    """FVU and FVU_nl of an idempotent SAE with noise of these standard deviations.

    FVU_nl = (dσ_r² + Σ σ_a²λ/(λ + σ_a²))/(Σλ + dσ_a²) and FVU = (dσ_a² + dσ_r²)/(Σλ + dσ_a²).
    """
    d, a2, r2 = len(eigenvalues_D), activation**2, reconstruction**2
    total = float(eigenvalues_D.sum()) + d * a2
    lost = float(np.sum(a2 * eigenvalues_D / np.maximum(eigenvalues_D + a2, 1e-300)))
    return (d * a2 + d * r2) / total, (d * r2 + lost) / total


def closed_form_zeroed(
    x_hat_ND: Tensor,
    z_ND: Tensor,
    activation: float,
    reconstruction: float,
) -> tuple[float, float]:
    """The same where z was removed from the reconstruction x' as well: x'' = x' + z + a.

    e = z + a − r is regressed on x''; with C = Cov(z + a, x'') and S = Cov(x'') what is left of
    it is tr(Cov(z + a) − C S⁻¹ Cᵀ) + dσ_r², over tr S.
    """
    x_ND, z_ND = (x_hat_ND + z_ND).double(), z_ND.double()
    x_ND, z_ND = x_ND - x_ND.mean(dim=0), z_ND - z_ND.mean(dim=0)
    d, n = x_ND.shape[1], len(x_ND)
    noise_DD = activation**2 * torch.eye(d, dtype=torch.float64, device=x_ND.device)
    s_DD, c_DD = x_ND.T @ x_ND / n + noise_DD, z_ND.T @ x_ND / n + noise_DD
    own = float((z_ND.T @ z_ND / n + noise_DD).trace())
    explained = float((c_DD @ torch.linalg.pinv(s_DD, hermitian=True) * c_DD).sum())
    total, r2 = float(s_DD.trace()), d * reconstruction**2
    return (own + r2) / total, (own - explained + r2) / total
