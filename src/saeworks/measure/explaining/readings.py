"""Which latents are explained, and where they fire.

Shapes: N kept tokens of all held-out ones, M latents, R documents, n drawn latents;
f and j tokens of the two halves.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saeworks.errors import UserError
from saeworks.measure.banks import Bank, firing, widest
from saeworks.measure.engine import Chunk, Reading
from saeworks.measure.explaining.config import ExplainConfig
from saeworks.measure.held_out import HeldOut
from saeworks.results.series import Drawn

UNIFORMLY = "uniformly from those that fire often enough"
NAMED = "named by the user"
_NONE = -1


@dataclass(frozen=True)
class Halves:
    """The documents that make explanations, and those that judge them.

    Attributes:
        fitting_R: the documents of the first half.
        fitting, judging: rows among the kept tokens.
    """

    fitting_R: Bool[np.ndarray, " R"]
    fitting: Int[np.ndarray, " f"]
    judging: Int[np.ndarray, " j"]

    @classmethod
    def of(cls, held_out: HeldOut, seed: int) -> "Halves":
        """A random half of the documents with kept tokens, and the others.

        Raises:
            UserError: if there are fewer than two.
        """
        row_N = held_out.row_NT[held_out.keep_NT].numpy()
        documents = np.unique(row_N)
        if len(documents) < 2:
            raise UserError(
                "explain: the held-out tokens are of one document, and another one must judge what "
                "is learnt of it; raise tokens, or give a text with more documents"
            )
        first = np.random.default_rng(seed).permutation(documents)[: len(documents) // 2]
        fitting_R = np.zeros(held_out.rows, bool)
        fitting_R[first] = True
        in_first = fitting_R[row_N]
        return cls(fitting_R, np.flatnonzero(in_first), np.flatnonzero(~in_first))


@final
class FiredByHalf(Reading):
    """On how many tokens of either half each latent fires.

    Attributes:
        counts: bank, site → [2, M]: of the fitting and of the judging half.
    """

    title = "how often latents fire"

    def __init__(
        self, banks: Mapping[str, Bank], held_out: HeldOut, halves: Halves, device: torch.device
    ) -> None:
        self.banks, self.held_out, self.halves = banks, held_out, halves
        self.sites = {site for bank in banks.values() for site in bank}
        self.width = widest(banks)
        self._judging_R = torch.from_numpy(~halves.fitting_R).long().to(device)
        self.counts: dict[tuple[str, str], Int[Tensor, "2 M"]] = {
            (name, site): torch.zeros(2, sae.width, dtype=torch.int64, device=device)
            for name, bank in banks.items()
            for site, sae in bank.items()
        }

    def rows(self, site: str, chunk: Chunk) -> None:
        half_N = self._judging_R[chunk.document_N]
        for name, bank in self.banks.items():
            if site in bank:
                owner, latents, _ = firing(chunk.code(bank[site]))
                counts_2M = self.counts[name, site]
                at = half_N[owner] * counts_2M.shape[1] + latents
                counts_2M += torch.bincount(at, minlength=counts_2M.numel()).view_as(counts_2M)


@dataclass(frozen=True)
class DrawnFirings:
    """Where the drawn latents of one SAE fire.

    Attributes:
        latents: their numbers, in the order in which they were drawn.
        rows, values: for each of them, the kept tokens on which it fires, and its activations.
    """

    latents: list[int]
    drawn: Drawn
    rows: list[np.ndarray]
    values: list[np.ndarray]


@final
class Traced(Reading):
    """The drawn latents of every SAE, followed through the tokens; call `trace` when it is over."""

    title = "latents to explain"

    def __init__(self, fired: FiredByHalf, config: ExplainConfig) -> None:
        self.held_out, self.sites, self.width = fired.held_out, fired.sites, fired.width
        self.needs, self._fired, self._config = (fired,), fired, config
        self._chosen: dict[tuple[str, str], tuple[list[int], Drawn]] = {}
        self._slots: dict[tuple[str, str], Int[Tensor, " M"]] = {}
        self._seen: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
        keep_X = fired.held_out.keep_NT.flatten()
        self._row_X = (keep_X.cumsum(0) - 1).numpy()

    def begin(self) -> None:
        for (name, site), counts_2M in self._fired.counts.items():
            chosen, drawn = draw(counts_2M.cpu(), self._config, name, site)
            slot_M = torch.full((counts_2M.shape[1],), _NONE, device=counts_2M.device)
            slot_M[chosen] = torch.arange(len(chosen), device=counts_2M.device)
            self._chosen[name, site], self._slots[name, site] = (chosen, drawn), slot_M
            self._seen[name, site] = []

    def rows(self, site: str, chunk: Chunk) -> None:
        for name, bank in self._fired.banks.items():
            if site in bank:
                owner, latents, values = firing(chunk.code(bank[site]))
                slots = self._slots[name, site][latents]
                kept = slots >= 0
                parts = (chunk.place_N[owner[kept]], slots[kept], values[kept].float())
                place, slot, value = (part.cpu().numpy() for part in parts)
                self._seen[name, site].append((place, slot, value))

    def trace(self, name: str, site: str) -> DrawnFirings:
        """Where the drawn latents of an SAE fire."""
        place, slot, value = (
            np.concatenate(parts) for parts in zip(*self._seen[name, site], strict=True)
        )
        order = np.lexsort((place, slot))
        row, value = self._row_X[place[order]], value[order]
        chosen, drawn = self._chosen[name, site]
        ends = np.searchsorted(slot[order], np.arange(len(chosen) + 1))
        parts = [slice(start, end) for start, end in pairwise(ends)]
        return DrawnFirings(
            chosen, drawn, [row[part] for part in parts], [value[part] for part in parts]
        )


def draw(
    counts_2M: Int[Tensor, "2 M"], config: ExplainConfig, name: str, site: str
) -> tuple[list[int], Drawn]:
    """The latents to explain, in random order, and among how many they were drawn.

    Raises:
        UserError: if a latent that was named is not there or fires too rarely to be explained.
    """
    width = counts_2M.shape[1]
    dead_M = counts_2M.sum(0) == 0
    enough_M = (counts_2M >= config.least).all(0)
    if config.latent:
        chosen, how = list(dict.fromkeys(config.latent)), NAMED
        for latent in chosen:
            _check(latent, counts_2M, config.least, f"{name}, site {site}")
    else:
        rng = np.random.default_rng([config.seed, zlib.crc32(site.encode())])
        enough = enough_M.nonzero()[:, 0].numpy()
        chosen, how = [int(m) for m in rng.permutation(enough)[: config.latents]], UNIFORMLY
    dead, rare = int(dead_M.sum()), int((~dead_M & ~enough_M).sum())
    return chosen, Drawn(width, dead, rare, config.least, len(chosen), how)


def _check(latent: int, counts_2M: Int[Tensor, "2 M"], least: int, where: str) -> None:
    """Refuse a latent that cannot be explained."""
    width = counts_2M.shape[1]
    if latent >= width:
        raise UserError(f"{where} has no latent {latent}: its latents are 0 to {width - 1}")
    first, second = counts_2M[:, latent].tolist()
    if first + second == 0:
        raise UserError(
            f"{where}: latent {latent} never fires on these tokens; raise tokens, or name another"
        )
    if min(first, second) < least:
        raise UserError(
            f"{where}: latent {latent} fires on {first} and {second} tokens of the two halves, and "
            f"{least} of each are needed; raise tokens, or lower least"
        )
