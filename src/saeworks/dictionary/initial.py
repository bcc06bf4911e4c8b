"""Starting values of dictionaries."""

import torch
from jaxtyping import Float
from torch import Tensor


def unit_rows(
    rows: int, d: int, generator: torch.Generator | None = None
) -> Float[Tensor, "rows D"]:
    """Random directions, uniform on the sphere; drawn on the CPU, so that a seed means the same
    everywhere."""
    w = torch.randn(rows, d, generator=generator)
    return w.div_(torch.linalg.vector_norm(w, dim=1, keepdim=True).clamp_min_(1e-12))


def start_tied(
    w_enc_MD: Tensor, w_dec_MD: Tensor, generator: torch.Generator, norm: float = 1.0
) -> None:
    """Random decoder rows of one norm, the encoder their clone (Gao et al. 2024, A.1)."""
    width, d = w_dec_MD.shape
    w_dec_MD.copy_(norm * unit_rows(width, d, generator))
    w_enc_MD.copy_(w_dec_MD)


def geometric_median(
    x_ND: Float[Tensor, "N D"], iterations: int = 100, tolerance: float = 1e-6
) -> Float[Tensor, " D"]:
    """argmin_m Σ_n ‖x_n − m‖, by Weiszfeld's iteration; the mean's robust cousin, in which
    outlying tokens weigh no more than others (Bricken et al. 2023). 0 for no rows."""
    if x_ND.shape[0] == 0:
        return x_ND.new_zeros(x_ND.shape[1])
    median_D = x_ND.mean(0)
    for _ in range(iterations):
        distance_N = torch.linalg.vector_norm(x_ND - median_D, dim=1)
        weight_N = 1 / distance_N.clamp_min(1e-8)
        before_D, median_D = median_D, (weight_N @ x_ND) / weight_N.sum()
        if torch.linalg.vector_norm(median_D - before_D) <= tolerance * distance_N.mean():
            break
    return median_D
