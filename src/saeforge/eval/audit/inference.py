"""Better inference with the same dictionary and the same number of latents, batched.

All state lives on the support [N, K]; only correlations are formed over all M latents, in tiles of
rows. Atoms are the decoder's rows at norm 1; signals are x − b_dec. Shapes: K the largest L0.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TILE = 2**23
"""Correlations in memory at once."""


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
    """x̂ − b_dec by orthogonal matching pursuit: as above, but w is the least squares on the support
    after every choice, of any sign."""
    return _tiled(signal_ND, atoms_MD, l0_N, orthogonal=True)


def refit(
    signal_ND: Float[Tensor, "N D"],
    atoms_MD: Float[Tensor, "M D"],
    support_NK: Int[Tensor, "N K"],
    on_NK: Bool[Tensor, "N K"],
) -> Float[Tensor, "N D"]:
    """x̂ − b_dec with least-squares coefficients, of any sign, on the latents that are on."""
    parts = [
        _project(signal, atoms_MD[support] * on[..., None])
        for signal, support, on in zip(
            torch.split(signal_ND, _rows(atoms_MD)),
            torch.split(support_NK, _rows(atoms_MD)),
            torch.split(on_NK, _rows(atoms_MD)),
        )
    ]
    return torch.cat(parts)


def _rows(atoms_MD: Tensor) -> int:
    return max(16, TILE // len(atoms_MD))


def _tiled(signal_ND: Tensor, atoms_MD: Tensor, l0_N: Tensor, orthogonal: bool) -> Tensor:
    found_ND = torch.zeros_like(signal_ND)
    order_N = l0_N.argsort()  # tokens of like L0 together: each tile stops at its own largest
    for part_n in torch.split(order_N, _rows(atoms_MD)):
        found_ND[part_n] = _pursue(signal_ND[part_n], atoms_MD, l0_N[part_n], orthogonal)
    return found_ND


def _pursue(signal_ND: Tensor, atoms_MD: Tensor, l0_N: Tensor, orthogonal: bool) -> Tensor:
    rows, steps = len(signal_ND), int(min(int(l0_N.max()), len(atoms_MD)))
    support_NK = torch.zeros(rows, steps, dtype=torch.long, device=signal_ND.device)
    w_NK = signal_ND.new_zeros(rows, steps)
    x_hat_ND = torch.zeros_like(signal_ND)
    for step in range(steps):
        active_N1 = (l0_N > step)[:, None]
        r_ND = signal_ND - x_hat_ND
        p_NM = r_ND @ atoms_MD.T
        chosen_NM = p_NM.scatter(1, support_NK[:, :step], -torch.inf)
        support_NK[:, step] = chosen_NM.argmax(dim=1)
        atoms_NkD = atoms_MD[support_NK[:, : step + 1]]
        if orthogonal:
            x_hat_ND = torch.where(active_N1, _project(signal_ND, atoms_NkD), x_hat_ND)
            continue
        g_Nk = p_NM.gather(1, support_NK[:, : step + 1])
        c_ND = torch.einsum("nk,nkd->nd", g_Nk, atoms_NkD)
        c2_N = c_ND.square().sum(dim=1)
        eta_N = torch.where(c2_N > 0, (c_ND * r_ND).sum(dim=1) / c2_N.clamp_min(1e-30), 0.0)
        new_Nk = (w_NK[:, : step + 1] + eta_N[:, None] * g_Nk).clamp_min(0.0)
        w_NK[:, : step + 1] = torch.where(active_N1, new_Nk, w_NK[:, : step + 1])
        x_hat_ND = torch.einsum("nk,nkd->nd", w_NK[:, : step + 1], atoms_NkD)
    return x_hat_ND


def _project(signal_ND: Tensor, atoms_NKD: Tensor) -> Tensor:
    """Of each signal, the part in the span of its atoms; zero or repeated atoms do no harm."""
    gram_NKK = (atoms_NKD @ atoms_NKD.mT).double()
    dot_NK = torch.einsum("nd,nkd->nk", signal_ND, atoms_NKD).double()
    eye_KK = torch.eye(gram_NKK.shape[1], dtype=torch.float64, device=gram_NKK.device)
    w_NK = torch.linalg.solve(gram_NKK + 1e-8 * eye_KK, dot_NK).to(signal_ND.dtype)
    return torch.einsum("nk,nkd->nd", w_NK, atoms_NKD)
