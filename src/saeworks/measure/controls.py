"""Controls beside which a suite's number is read: what an SAE would get that has learned nothing.

Three of them take something away each. The zero SAE has no latents that do anything; the SAE with
random directions has latents, but none that were trained; random latents are trained, but chosen
without looking at what they do. An evaluation that one of them passes does not measure what its
name says.

Shapes: N rows, D model width, M latents, K active latents per token.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.config import DEFAULT_SAE
from saeworks.dictionary.base import SAE
from saeworks.dictionary.initial import unit_rows
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError


@torch.no_grad()
def zero_sae(mean_D: Float[Tensor, " D"]) -> SAE:
    """x̂ = mean for every x: one latent that never fires.

    The constant is the site's mean, the best of all constants: FVU is 1, neither more nor less. All
    that tells one x from another is then in the error, so whatever this SAE does well (as a circuit
    whose error nodes are kept does) is due to the error, and not to latents.

    Args:
        mean_D: of the site's raw activations.
    """
    sae = _topk(len(mean_D), width=1, k=1, like_D=mean_D)
    sae.w_enc.zero_()
    sae.w_dec.zero_()
    sae.b_dec.copy_(mean_D)
    return sae


@torch.no_grad()
def random_directions(mean_D: Float[Tensor, " D"], width: int, k: int, seed: int) -> SAE:
    """f = TopK_k(ReLU(W(x − mean))), x̂ = Wᵀf + mean, with rows of W uniform on the unit sphere.

    A TopK SAE as it is before training, at the width and the sparsity of the suite that it stands
    beside.

    Args:
        mean_D: of the site's raw activations.
        k: active latents per token, such as `active_per_token` of the suite's SAE.

    Raises:
        UserError: if k is below 1 or above the width.
    """
    sae = _topk(len(mean_D), width, k, mean_D)
    w_MD = unit_rows(width, len(mean_D), torch.Generator().manual_seed(seed))
    sae.w_enc.copy_(w_MD)
    sae.w_dec.copy_(w_MD)
    sae.b_dec.copy_(mean_D)
    return sae


def shuffled(latents_n: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """The same latents in a random order: a ranking that knows nothing of them.

    Args:
        latents_n: the live ones, so that the control does not fail for choosing dead latents.
    """
    order_n = torch.randperm(len(latents_n), generator=torch.Generator().manual_seed(seed))
    return latents_n[order_n.to(latents_n.device)]


@torch.no_grad()
def active_per_token(sae: SAE, x_ND: Float[Tensor, "N D"]) -> int:
    """Latents with a strictly positive activation, on average over rows, rounded; at least 1.

    Raises:
        UserError: if there are no rows.
    """
    if not len(x_ND):
        raise UserError("the sparsity of an SAE is measured on activations; give at least one row")
    active = int((sae.encode_sparse(x_ND).values > 0).sum())
    return max(1, round(active / len(x_ND)))


def _topk(d: int, width: int, k: int, like_D: Tensor) -> SAE:
    """An SAE of the package's default architecture, which has exactly k latents on every token."""
    sae = build_sae(DEFAULT_SAE["arch"], d, width=width, k=k)
    return sae.to(like_D.device).requires_grad_(False).eval()
