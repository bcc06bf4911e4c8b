"""Rows of known features, and an SAE of known faults in the form that the audit's engine takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.audit_arrays import documents
from saeworks.dictionary.base import SAE, SparseCode
from saeworks.dictionary.registry import build_sae
from saeworks.measure.audit import folds
from saeworks.measure.audit.engine import (
    Make,
    SaeAudit,
    SaeOutput,
    SiteAudit,
)
from saeworks.measure.audit.fits import Tokens
from saeworks.measure.audit.measurement import Place

D, M, K = 24, 40, 4
CHUNK = 1000


@dataclass(frozen=True)
class Planted:
    """x = Σ f D, with K of M features active."""

    atoms_MD: Tensor
    indices_NK: Tensor
    values_NK: Tensor

    @classmethod
    def draw(cls, tokens: int, seed: int = 0) -> "Planted":
        random = torch.Generator().manual_seed(seed)
        atoms_MD = torch.nn.functional.normalize(torch.randn(M, D, generator=random), dim=1)
        indices_NK = torch.rand(tokens, M, generator=random).topk(K, dim=1).indices
        return cls(atoms_MD, indices_NK, torch.rand(tokens, K, generator=random) + 0.5)

    def x(self, values_NK: Tensor | None = None, atoms_MD: Tensor | None = None) -> Tensor:
        values_NK = self.values_NK if values_NK is None else values_NK
        atoms_MD = self.atoms_MD if atoms_MD is None else atoms_MD
        return torch.einsum("nk,nkd->nd", values_NK, atoms_MD[self.indices_NK])


def sae_of(atoms_MD: Tensor) -> SAE:
    """One with this decoder and no bias."""
    sae = build_sae("topk", d=atoms_MD.shape[1], width=len(atoms_MD), k=K)
    with torch.no_grad():
        sae.w_dec.copy_(atoms_MD)
        sae.b_dec.zero_()
    return sae


def audited(
    x_ND: Tensor,
    indices_NK: Tensor,
    values_NK: Tensor,
    sae: SAE,
    make: Make,
    codes: int = 4000,
    packed: bool = False,
) -> SaeAudit:
    """Codes through the engine, `CHUNK` rows at a time."""
    document_N = documents(len(x_ND))
    place = Place(x_ND.shape[1], int(document_N[-1]) + 1, x_ND.device, 0, codes)
    site = SiteAudit("x", place, ["sae"], make)
    fold_N = torch.from_numpy(folds.assign(torch.bincount(document_N).numpy(), 0))[document_N]
    with torch.no_grad():
        for phase in range(3):
            for rows in torch.split((fold_N == phase).nonzero()[:, 0], CHUNK):
                made = {"sae": known(sae, indices_NK[rows], values_NK[rows], packed)}
                site.add(phase, x_ND[rows], Tokens(document_N[rows]), made)
            site.finish(phase)
    return site.saes["sae"]


def known(
    sae: SAE, indices_NK: Tensor, values_NK: Tensor, packed: bool
) -> Callable[[Tensor], SaeOutput]:
    """What the engine asks of an SAE, from codes that are given."""
    code = SparseCode(indices_NK, values_NK, sae.width, (len(indices_NK),))
    if packed:  # the pairs that fire, row by row
        on_NK = values_NK > 0
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), on_NK.sum(dim=1).cumsum(0)])
        code = SparseCode(indices_NK[on_NK], values_NK[on_NK], sae.width, code.shape, offsets)
    return lambda x_ND: SaeOutput(sae.decode(code), sae, code)


def value(one: SaeAudit, section: str, metric: str) -> float:
    found = one.values(0, 0)[section][metric].value
    assert found is not None, (section, metric)
    return found


def dense(indices_NK: Tensor, values_NK: Tensor, width: int) -> Tensor:
    """f, float64."""
    f_NM = torch.zeros(len(indices_NK), width, dtype=torch.float64)
    return f_NM.scatter_(1, indices_NK, values_NK.double())


__all__: Sequence[str] = ("CHUNK", "D", "K", "M", "Planted", "audited", "dense", "sae_of", "value")
