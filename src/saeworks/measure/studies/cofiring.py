"""Which latents fire on the same tokens.

Shapes: N tokens, M latents, n chosen ones, K partners that are kept, t chosen ones of a tile.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import csr_matrix
from torch import Tensor

from saeworks.dictionary.base import SparseCode
from saeworks.measure.banks import firing
from saeworks.results.records import four_digits
from saeworks.results.series import Partner

PARTNERS = 5
"""Latents that are kept of those that one fires with."""
FIRINGS = 2**25
"""CoFirings that are kept of all SAEs together; 128 MiB."""
_FIRINGS_OF_ONE = 2**23
_TILE = 2**22
"""Pairs of latents in memory at once."""


class CoFirings:
    """Which latents fire on each of the first tokens, as many as fit in the memory given.

    Attributes:
        tokens: how many were seen.
        whole: whether none was left out.
    """

    def __init__(self, width: int, most: int = _FIRINGS_OF_ONE) -> None:
        self.width, self.most = width, min(most, _FIRINGS_OF_ONE)
        self.tokens, self.whole = 0, True
        self._count = 0
        self._latents: list[np.ndarray] = []
        self._per_token: list[np.ndarray] = []

    def add(self, code: SparseCode) -> None:
        """Count some tokens in, or leave them and all later ones out."""
        owner, latents, _ = firing(code)
        self.whole = self.whole and self._count + len(latents) <= self.most
        if not self.whole:
            return
        rows = int(np.prod(code.shape))
        self._latents.append(latents.int().cpu().numpy())
        self._per_token.append(torch.bincount(owner, minlength=rows).int().cpu().numpy())
        self._count += len(latents)
        self.tokens += rows

    def partners(self, chosen_n: Int[Tensor, " n"]) -> "Partners":
        """Of each chosen latent those with the largest φ > 0 among all of the SAE."""
        fires = self._matrix()
        fired_M = np.asarray(fires.sum(axis=0)).ravel().astype(np.float64)
        by_latent = fires.T.tocsr()
        chosen_n = chosen_n.cpu()
        best = Partners.none(len(chosen_n))
        step = max(1, _TILE // self.width)
        for start in range(0, len(chosen_n), step):
            chosen_t = chosen_n[start : start + step].numpy()
            both = (by_latent[chosen_t] @ fires).tocsr()
            for slot, latent in enumerate(chosen_t.tolist(), start):
                row = slice(both.indptr[slot - start], both.indptr[slot - start + 1])
                partners = self._best(latent, both.indices[row], both.data[row], fired_M)
                for kept_nK, values in zip(best, partners, strict=True):
                    kept_nK[slot, : len(values)] = values
        return best

    def _matrix(self) -> csr_matrix:
        per_token = np.concatenate([np.zeros(1, np.int64), *self._per_token])
        latents = np.concatenate([np.zeros(0, np.int32), *self._latents])
        ones = np.ones(len(latents), np.int32)
        return csr_matrix((ones, latents, per_token.cumsum()), shape=(self.tokens, self.width))

    def _best(
        self, latent: int, others: np.ndarray, both: np.ndarray, fired_M: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of latents that fire together with one on so many tokens, the best: number, φ, share."""
        its, their = fired_M[latent], fired_M[others]
        spread = its * their * (self.tokens - its) * (self.tokens - their)
        able = (others != latent) & (spread > 0) & (self.tokens * both > its * their)
        others, both, their = others[able], both[able], their[able]
        phi = (self.tokens * both - its * their) / np.sqrt(spread[able])
        order = np.lexsort((others, -phi))[:PARTNERS]
        return others[order], phi[order], both[order] / its


class Partners(NamedTuple):
    """The latents that each chosen one fires with, by φ from the largest down; −1 where none is."""

    latent_nK: np.ndarray
    phi_nK: np.ndarray
    share_nK: np.ndarray

    @classmethod
    def none(cls, chosen: int) -> "Partners":
        """No partners yet."""
        shape = (chosen, PARTNERS)
        return cls(
            np.full(shape, -1, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        )

    def of(self, slot: int) -> list[Partner]:
        """Those of one of the chosen latents."""
        rows = zip(*(values_nK[slot].tolist() for values_nK in self), strict=True)
        return [
            Partner(latent, four_digits(phi), four_digits(share))
            for latent, phi, share in rows
            if latent >= 0
        ]
