"""Activations of which everything is known, and SAEs whose error is known on them.

Shapes: N tokens, D dimensions, F features, M latents, K active ones, R the rank of the dense part.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from experiments.audit_truth.settings import Setting
from saeworks.dictionary.base import SAE, Batch, Context
from saeworks.dictionary.registry import build_sae

TOKENS, D, F, K = 40_000, 64, 256, 6
RANK = 8
PARTS = ("missing", "dense", "scale", "coefficients", "choice", "directions")
INTRODUCED = PARTS[2:]


@dataclass(frozen=True)
class World:
    """Rows of which everything is known.

    Attributes:
        y_FD: directions.
        w_NF: the features' activations.
        g_ND: the dense part.
    """

    y_FD: Tensor
    w_NF: Tensor
    g_ND: Tensor

    @property
    def x_ND(self) -> Tensor:
        return self.w_NF @ self.y_FD + self.g_ND


def world(setting: Setting, seed: int) -> World:
    random = torch.Generator().manual_seed(seed)
    y_FD = normalize(torch.randn(F, D, generator=random), dim=1)
    active_NK = torch.rand(TOKENS, F, generator=random).topk(K, dim=1).indices
    w_NK = torch.rand(TOKENS, K, generator=random) + 0.5
    w_NF = torch.zeros(TOKENS, F).scatter_(1, active_NK, w_NK)
    dense = dense_part(setting.dense, random)
    strength = (setting.power * variance(w_NF @ y_FD)) ** 0.5
    return World(y_FD, w_NF, strength * dense)


def dense_part(kind: str, random: torch.Generator) -> Tensor:
    """g of power 1."""
    if not kind:
        return torch.zeros(TOKENS, D)
    if kind == "noise":
        return torch.randn(TOKENS, D, generator=random) / D**0.5
    basis_DR = torch.linalg.qr(torch.randn(D, RANK, generator=random)).Q
    if kind == "low-rank":
        return torch.randn(TOKENS, RANK, generator=random) @ basis_DR.T / RANK**0.5
    angle_N1 = 2 * torch.pi * torch.rand(TOKENS, 1, generator=random)
    harmonics_NR = angle_N1 * torch.arange(1, RANK // 2 + 1)
    curve_NR = torch.cat([harmonics_NR.cos(), harmonics_NR.sin()], dim=1)
    return curve_NR @ basis_DR.T / (RANK / 2) ** 0.5


def variance(v_ND: Tensor) -> float:
    """tr Var."""
    return float((v_ND - v_ND.mean(dim=0)).double().square().sum()) / len(v_ND)


@dataclass(frozen=True)
class Made:
    """An SAE and its codes, with the power of each part of its error in shares of tr Var x."""

    sae: SAE
    f_NM: Tensor
    truth: dict[str, float]


def by_hand(setting: Setting, at: World, seed: int) -> Made:
    """The SAE of a setting, its faults put in one after another."""
    random = torch.Generator().manual_seed(seed + 1000)
    learned_M = torch.randperm(F, generator=random)[round(setting.missing * F) :].sort().values
    y_MD, right_NM = at.y_FD[learned_M], at.w_NF[:, learned_M]
    low, high = setting.scale
    scaled_NM = right_NM * (low + (high - low) * torch.rand(len(y_MD), generator=random))
    on_NM, readout_NM = right_NM > 0, (at.x_ND @ y_MD.T).relu()
    factor_NM = 1 + setting.coefficients * torch.randn(right_NM.shape, generator=random)
    coefficients_NM = (scaled_NM * factor_NM).relu()
    if setting.crosstalk:
        coefficients_NM = torch.where(on_NM, readout_NM, 0.0)
    f_NM = replaced(coefficients_NM, y_MD, setting.choice, random)
    if setting.encoder:
        top = readout_NM.topk(K, dim=1)
        f_NM = torch.zeros_like(readout_NM).scatter_(1, top.indices, top.values)
        coefficients_NM = torch.where(on_NM & (f_NM > 0), f_NM, right_NM)
    turned_MD = torch.randn(y_MD.shape, generator=random) * setting.directions / D**0.5
    decoder_MD = normalize(y_MD + turned_MD, dim=1)
    parts = {
        "missing": at.w_NF @ at.y_FD - right_NM @ y_MD,
        "dense": at.g_ND,
        "scale": (right_NM - scaled_NM) @ y_MD,
        "coefficients": (scaled_NM - coefficients_NM) @ y_MD,
        "choice": (coefficients_NM - f_NM) @ y_MD,
        "directions": f_NM @ (y_MD - decoder_MD),
    }
    return Made(sae_of(decoder_MD, at.x_ND, f_NM), f_NM, powers(parts, at.x_ND))


def replaced(f_NM: Tensor, y_MD: Tensor, share: float, random: torch.Generator) -> Tensor:
    """The code with a share of its active latents replaced by their nearest neighbours."""
    if not share:
        return f_NM
    nearest_M = (y_MD @ y_MD.T).fill_diagonal_(-1.0).argmax(dim=1)
    swapped_NM = torch.where(torch.rand(f_NM.shape, generator=random) < share, f_NM, 0.0)
    return (f_NM - swapped_NM).index_add(1, nearest_M, swapped_NM)


def sae_of(decoder_MD: Tensor, x_ND: Tensor, f_NM: Tensor) -> SAE:
    """With the bias that centres the error."""
    sae = build_sae("topk", d=D, width=len(decoder_MD), k=K)
    with torch.no_grad():
        sae.w_dec.copy_(decoder_MD)
        sae.b_dec.copy_((x_ND - f_NM @ decoder_MD).mean(dim=0))
    return sae


def powers(parts: dict[str, Tensor], x_ND: Tensor) -> dict[str, float]:
    total = variance(x_ND)
    found = {name: variance(part) / total for name, part in parts.items()}
    introduced_ND = sum((parts[name] for name in INTRODUCED), torch.zeros_like(x_ND))
    not_scale_ND = introduced_ND - parts["scale"]
    fvu = variance(sum(parts.values(), torch.zeros_like(x_ND))) / total
    return found | {
        "missing + dense": variance(parts["missing"] + parts["dense"]) / total,
        "introduced": variance(introduced_ND) / total,
        "introduced less scale": variance(not_scale_ND) / total,
        "fvu": fvu,
        "cross": fvu - sum(found.values()),
    }


def trained(width: int, at: World, seed: int) -> Made:
    """A TopK SAE trained on the rows. A feature is learned where a latent's direction has a cosine
    of at least .9 with it; that latent is taken for it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sae, x_ND = build_sae("topk", d=D, width=width, k=K), at.x_ND
        mean_D, scale = x_ND.mean(dim=0), (variance(x_ND) / D) ** 0.5
        rows_ND = (x_ND - mean_D) / scale
        sae.initialise(rows_ND[:4096], torch.Generator().manual_seed(seed))
        optimiser = torch.optim.Adam(sae.parameters(), lr=3e-3)
        nothing = Context(torch.zeros(0, dtype=torch.long), 0.0)
        for step in range(3000):
            optimiser.param_groups[0]["lr"] = 3e-3 * min(1.0, (3000 - step) / 1000)
            batch_BD = rows_ND[torch.randint(len(rows_ND), (1024,))]
            loss = sum(sae.step(Batch(batch_BD, batch_BD), nothing).loss_terms.values())
            optimiser.zero_grad()
            torch.as_tensor(loss).backward()
            optimiser.step()
            with torch.no_grad():
                sae.w_dec.copy_(normalize(sae.w_dec, dim=1))
    with torch.no_grad():
        sae = sae.folded(mean_D, torch.tensor(scale))
        f_NM = sae.encode(x_ND)
        weight_M1 = sae.w_dec.norm(dim=1, keepdim=True)
        cosine_FM = at.y_FD @ (sae.w_dec / weight_M1).T
        best_F, latent_F = cosine_FM.max(dim=1)
        learned_F = best_F >= 0.9
        own_NF = torch.where(learned_F, (f_NM * weight_M1[:, 0])[:, latent_F], 0.0)
        right_NF = at.w_NF * learned_F
        matched_FD = (sae.w_dec / weight_M1)[latent_F]
        others_ND = f_NM @ sae.w_dec - own_NF @ matched_FD
        agreed_NF = torch.where((own_NF > 0) & (right_NF > 0), own_NF, right_NF)
        parts = {
            "missing": (at.w_NF * ~learned_F) @ at.y_FD,
            "dense": at.g_ND,
            "scale": torch.zeros_like(x_ND),
            "coefficients": (right_NF - agreed_NF) @ at.y_FD,
            "choice": (agreed_NF - own_NF) @ at.y_FD - others_ND,
            "directions": own_NF @ (at.y_FD - matched_FD),
        }
    truth = powers(parts, x_ND) | {"learned": float(learned_F.float().mean())}
    return Made(sae, f_NM, truth)
