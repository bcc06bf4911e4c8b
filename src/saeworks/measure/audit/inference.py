"""Better inference with the same dictionary and the same number of latents, batched.

All state lives on the support [N, K]; only correlations are formed over all M latents. Rows are cut
into tiles, so that memory is bounded for dense codes, too. Atoms are the decoder's rows at norm 1;
signals are x − b_dec. Shapes: K the largest L0.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TILE = 2**23
"""Numbers in memory at once: correlations, gathered atoms, or their Gram matrices."""
SPANNED = 1e-4
"""An atom of which less than this is left after those before it adds no dimension."""


def gradient_pursuit(
    signal_ND: Float[Tensor, "N D"], atoms_MD: Float[Tensor, "M D"], l0_N: Int[Tensor, " N"]
) -> Float[Tensor, "N D"]:
    """x̂ − b_dec by gradient pursuit (Blumensath & Davies 2008; Engels et al. 2024, section 6).

    From w = 0, as often as the token has latents: r = s − wD; the atom with the largest ⟨r, D_i⟩
    among those not yet chosen joins the support; g = the correlations on the support; c = gD;
    η = ⟨c, r⟩/⟨c, c⟩; w ← max(0, w + ηg).
    """
    return _tiled(signal_ND, atoms_MD, l0_N, orthogonal=False)


def matching_pursuit(
    signal_ND: Float[Tensor, "N D"], atoms_MD: Float[Tensor, "M D"], l0_N: Int[Tensor, " N"]
) -> Float[Tensor, "N D"]:
    """x̂ − b_dec by orthogonal matching pursuit (Pati et al. 1993): as above, but w is the least
    squares on the support after every choice, of any sign. x̂ − b_dec is the projection on the span
    of what is chosen, so an orthonormal basis of it is all that is kept; at most D choices."""
    return _tiled(signal_ND, atoms_MD, l0_N, orthogonal=True)


def refit(
    signal_ND: Float[Tensor, "N D"],
    atoms_MD: Float[Tensor, "M D"],
    support_NK: Int[Tensor, "N K"],
    on_NK: Bool[Tensor, "N K"],
) -> Float[Tensor, "N D"]:
    """x̂ − b_dec with least-squares coefficients, of any sign, on the latents that are on."""
    x_hat_ND, count_N = torch.zeros_like(signal_ND), on_NK.sum(dim=1)
    first_NK = on_NK.to(torch.uint8).argsort(dim=1, descending=True)  # what is on comes first
    for part_n, k in _tiles(count_N, atoms_MD):
        at_nK = first_NK[part_n, :k]
        on_nK = on_NK[part_n].gather(1, at_nK)
        support_nK = support_NK[part_n].gather(1, at_nK)
        x_hat_ND[part_n] = _project(signal_ND[part_n], atoms_MD[support_nK] * on_nK[..., None])
    return x_hat_ND


def _tiles(count_N: Tensor, atoms_MD: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows of like support together, the largest first, and the largest support K of each tile:
    as many rows as M correlations, K atoms and their Gram have room for. Rows of none are left out.
    """
    (m, d), start = atoms_MD.shape, 0
    order_N = count_N.argsort(descending=True)
    while start < len(order_N):
        k = min(int(count_N[order_N[start]]), m)
        if k == 0:
            return
        part_n = order_N[start : start + max(1, TILE // max(m, k * d, k * k))]
        start += len(part_n)
        yield part_n, k


def _tiled(signal_ND: Tensor, atoms_MD: Tensor, l0_N: Tensor, orthogonal: bool) -> Tensor:
    pursue, most = (_orthogonal, atoms_MD.shape[1]) if orthogonal else (_gradient, len(atoms_MD))
    x_hat_ND = torch.zeros_like(signal_ND)
    for part_n, k in _tiles(l0_N.clamp_max(most), atoms_MD):
        x_hat_ND[part_n] = pursue(signal_ND[part_n], atoms_MD, l0_N[part_n], k)
    return x_hat_ND


def _gradient(signal_ND: Tensor, atoms_MD: Tensor, l0_N: Tensor, steps: int) -> Tensor:
    support_NK = torch.zeros(len(signal_ND), steps, dtype=torch.long, device=signal_ND.device)
    w_NK = signal_ND.new_zeros(support_NK.shape)
    x_hat_ND = torch.zeros_like(signal_ND)
    for step in range(steps):
        active_N1 = (l0_N > step)[:, None]
        r_ND = signal_ND - x_hat_ND
        p_NM = r_ND @ atoms_MD.T
        support_NK[:, step] = _next(p_NM, support_NK[:, :step])
        atoms_NkD = atoms_MD[support_NK[:, : step + 1]]
        g_Nk = p_NM.gather(1, support_NK[:, : step + 1])
        c_ND = torch.einsum("nk,nkd->nd", g_Nk, atoms_NkD)
        c2_N = c_ND.square().sum(dim=1)
        eta_N = torch.where(c2_N > 0, (c_ND * r_ND).sum(dim=1) / c2_N.clamp_min(1e-30), 0.0)
        new_Nk = (w_NK[:, : step + 1] + eta_N[:, None] * g_Nk).clamp_min(0.0)
        w_NK[:, : step + 1] = torch.where(active_N1, new_Nk, w_NK[:, : step + 1])
        x_hat_ND = torch.einsum("nk,nkd->nd", w_NK[:, : step + 1], atoms_NkD)
    return x_hat_ND


def _orthogonal(signal_ND: Tensor, atoms_MD: Tensor, l0_N: Tensor, steps: int) -> Tensor:
    support_NK = torch.zeros(len(signal_ND), steps, dtype=torch.long, device=signal_ND.device)
    basis_NKD = signal_ND.new_zeros(*support_NK.shape, signal_ND.shape[1])
    x_hat_ND = torch.zeros_like(signal_ND)
    for step in range(steps):
        p_NM = (signal_ND - x_hat_ND) @ atoms_MD.T
        support_NK[:, step] = _next(p_NM, support_NK[:, :step])
        q_ND = atoms_MD[support_NK[:, step]]
        before_NkD = basis_NKD[:, :step]
        for _ in range(2):  # once leaves q off by as much as rounding is of what is left
            along_Nk = torch.einsum("nkd,nd->nk", before_NkD, q_ND)
            q_ND = q_ND - torch.einsum("nk,nkd->nd", along_Nk, before_NkD)
        norm_N1 = q_ND.norm(dim=1, keepdim=True)
        adds_N1 = (norm_N1 > SPANNED) & (l0_N > step)[:, None]
        q_ND = torch.where(adds_N1, q_ND / norm_N1.clamp_min(SPANNED), 0.0)
        basis_NKD[:, step] = q_ND
        x_hat_ND = x_hat_ND + (q_ND * signal_ND).sum(dim=1, keepdim=True) * q_ND
    return x_hat_ND


def _next(p_NM: Tensor, chosen_Nk: Tensor) -> Tensor:
    """The latent of the largest correlation among those not yet chosen [N]."""
    left_NM: Tensor = p_NM.scatter(1, chosen_Nk, -torch.inf)
    return left_NM.argmax(dim=1)


def _project(signal_ND: Tensor, atoms_NKD: Tensor) -> Tensor:
    """Of each signal, the part in the span of its atoms; zero or repeated atoms do no harm."""
    atoms_NKD = atoms_NKD.double()
    gram_NKK = atoms_NKD @ atoms_NKD.mT
    dot_NK1 = atoms_NKD @ signal_ND.double()[..., None]
    eye_KK = torch.eye(gram_NKK.shape[1], dtype=torch.float64, device=gram_NKK.device)
    w_NK1: Tensor = torch.linalg.solve(gram_NKK + 1e-8 * eye_KK, dot_NK1)
    return (atoms_NKD.mT @ w_NK1)[..., 0].to(signal_ND.dtype)
