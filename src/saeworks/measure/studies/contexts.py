"""Where chosen latents respond most: followed through held-out text, with what lies around it.

Shapes: B sequences, T positions, N kept tokens, D model width, M latents, n chosen latents,
P contexts in a pool, W tokens of a context, G peaks (latent, document), t latents of a tile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.measure.banks import firing
from saeworks.measure.engine import Chunk
from saeworks.measure.held_out import HeldOut

TOP, SAMPLED = 10, 24
"""Contexts of a latent that are kept: those with the largest activations, and a sample."""
BEFORE, AFTER = 24, 16
"""Tokens of a context on either side of its peak."""
BINS = 20
"""Bins of an activation histogram."""
_NONE = -1
_PAIRS = 2**21
"""Activations of chosen latents that are collected before they are counted."""
_TILE = 1024
"""Latents whose new contexts are in memory at once, beside the pools."""


def _order(*keys: Tensor) -> Int[Tensor, " G"]:
    """The stable order by the first key, then the second, and so on."""
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in reversed(keys):
        order = order[key[order].argsort(stable=True)]
    return order


def _starts(*sorted_keys: Tensor) -> Bool[Tensor, " G"]:
    """Where a run of equal keys begins."""
    begins = torch.ones_like(sorted_keys[0], dtype=torch.bool)
    begins[1:] = torch.stack([key[1:] != key[:-1] for key in sorted_keys]).any(0)
    return begins


@dataclass(frozen=True)
class Peaks:
    """The largest activation of a latent in a document, and where it is.

    Attributes:
        slot: which of the chosen latents.
        document: row of the held-out documents.
        place: token, counted through all held-out sequences.
    """

    slot: Int[Tensor, " G"]
    document: Int[Tensor, " G"]
    place: Int[Tensor, " G"]
    value: Float[Tensor, " G"]

    def at(self, index: Tensor | slice) -> "Peaks":
        """The peaks at some indices."""
        return Peaks(self.slot[index], self.document[index], self.place[index], self.value[index])

    def joined(self, more: "Peaks") -> "Peaks":
        """These peaks, followed by others."""
        return Peaks(
            torch.cat([self.slot, more.slot]),
            torch.cat([self.document, more.document]),
            torch.cat([self.place, more.place]),
            torch.cat([self.value, more.value]),
        )

    def by_document(self) -> "Peaks":
        """The largest of each latent and document, in their order; of equal ones the first."""
        ordered = self.at(_order(self.slot, self.document, -self.value))
        return ordered.at(_starts(ordered.slot, ordered.document))


Key = Callable[[Peaks], Float[Tensor, " G"]]
Window = Callable[[Peaks], Float[Tensor, "G W"]]


class Pool:
    """For each latent the P documents with the largest key, each with its peak; −1 where empty.

    The key is a function of latent, document and value that does not fall as the value rises, so
    a document that was left out never has to come back at the same value.
    """

    def __init__(self, latents: int, size: int, key: Key, device: torch.device) -> None:
        self.key = key
        self.document = torch.full((latents, size), _NONE, dtype=torch.int32, device=device)
        self.place = torch.zeros(latents, size, dtype=torch.int64, device=device)
        self.value = torch.zeros(latents, size, device=device)
        self.activations = torch.zeros(latents, size, BEFORE + 1 + AFTER, device=device)

    def take(self, more: Peaks, window: Window) -> None:
        """Keep the best of what is there and of `more`, which is in the order of its slots;
        `window` gives the activations around new peaks."""
        touched_t = more.slot[_starts(more.slot)]
        row, rank = (self.document[touched_t] != _NONE).nonzero(as_tuple=True)
        slot = touched_t[row]
        old = Peaks(
            slot,
            self.document[slot, rank].long(),
            self.place[slot, rank],
            self.value[slot, rank],
        )
        best = old.joined(more).by_document()
        best = best.at(_order(best.slot, -self.key(best)))
        begins = _starts(best.slot).nonzero().squeeze(1)
        length = torch.diff(begins, append=begins.new_tensor([len(best.slot)]))
        rank = torch.arange(len(best.slot), device=slot.device) - begins.repeat_interleave(length)
        kept = rank < self.document.shape[1]
        best, rank = best.at(kept), rank[kept]
        activations = self._windows(best, touched_t, more, window)
        self.document[touched_t] = _NONE
        self.document[best.slot, rank] = best.document.int()
        self.place[best.slot, rank] = best.place
        self.value[best.slot, rank] = best.value
        self.activations[best.slot, rank] = activations

    def _windows(
        self, best: Peaks, touched_t: Tensor, more: Peaks, window: Window
    ) -> Float[Tensor, "G W"]:
        """The activations around each peak: kept where it was there already, else by `window`."""
        index_G = torch.searchsorted(touched_t, best.slot)
        same = (self.place[touched_t][index_G] == best.place[:, None]) & (
            self.document[touched_t][index_G] != _NONE
        )
        held = same.any(1)
        activations = self.activations.new_zeros(len(held), self.activations.shape[2])
        activations[held] = self.activations[best.slot[held], same[held].int().argmax(1)]
        activations[~held] = window(best.at(~held))
        return activations


def _lottery(seed: int) -> Key:
    """A random number in [0, 1) that depends on seed, latent and document alone, so that the sample
    does, too (splitmix64's finaliser; Steele, Lea and Flood 2014)."""

    def key(peaks: Peaks) -> Float[Tensor, " G"]:
        x = (seed + 1) * 0x1E3779B97F4A7C15 + peaks.slot * 0x3C79AC492BA7B653 + peaks.document
        for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
            x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
        return (x >> 11 & (1 << 53) - 1).double() / 2**53

    return key


class Watcher:
    """Follows the chosen latents of one SAE through the held-out tokens.

    In memory are the pools [n, P, W] and a batch's nonzero activations of the chosen latents; no
    array has a place for every token and latent.
    """

    def __init__(
        self,
        sae: SAE,
        chosen: Int[Tensor, " n"],
        peaks: Float[Tensor, " n"],
        seed: int,
        held_out: HeldOut,
    ) -> None:
        device = chosen.device
        self.sae, self.chosen, self.peaks = sae, chosen, peaks
        self.slot_M = torch.full((sae.width,), _NONE, device=device)
        self.slot_M[chosen] = torch.arange(len(chosen), device=device)
        self.top = Pool(len(chosen), TOP, lambda peaks: peaks.value, device)
        self.sampled = Pool(len(chosen), SAMPLED, _lottery(seed), device)
        self.histogram = torch.zeros(len(chosen) * BINS, dtype=torch.int64, device=device)
        self._row_X = held_out.row_NT.flatten().to(device)
        self._length = held_out.tokens_NT.shape[1]
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def see(self, chunk: Chunk) -> None:
        """Collect where chosen latents fire; what is collected is counted in whole sequences."""
        owner, latents, values = firing(chunk.code(self.sae))
        slots = self.slot_M[latents]
        chosen = slots >= 0
        self._pending.append((chunk.place_N[owner[chosen]], slots[chosen], values[chosen].float()))
        if chunk.last:
            self._count(len(self._row_X))
        elif sum(len(place) for place, _, _ in self._pending) >= _PAIRS:
            self._count(int(chunk.place_N[-1]) // self._length * self._length)

    def _count(self, end: int) -> None:
        """Count what was collected of the places before `end`."""
        place, slot, value = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        now = place < end
        self._pending = [(place[~now], slot[~now], value[~now])]
        place, slot, value = place[now], slot[now], value[now]
        if not len(place):
            return
        bins = (value / self.peaks[slot] * BINS).long().clamp_(0, BINS - 1)
        self.histogram += torch.bincount(slot * BINS + bins, minlength=len(self.histogram))
        span = len(self._row_X)
        key, order = (slot * span + place).sort()
        place, slot, value = place[order], slot[order], value[order]
        collected = Peaks(slot, self._row_X[place], place, value).by_document()

        def window(peaks: Peaks) -> Float[Tensor, "G W"]:
            return _around(peaks, self._length, span, key, value)

        edges = torch.arange(0, len(self.peaks) + _TILE, _TILE, device=slot.device)
        ends = torch.searchsorted(collected.slot, edges).tolist()
        for start, end in pairwise(ends):
            if start < end:
                self.top.take(collected.at(slice(start, end)), window)
                self.sampled.take(collected.at(slice(start, end)), window)


def _around(
    peaks: Peaks, length: int, span: int, key: Tensor, value: Tensor
) -> Float[Tensor, "G W"]:
    """A latent's activations around its peaks, within the sequence, 0 outside.

    Args:
        length: tokens of a sequence; `span` are in all of them.
        key: slot · span + place of the activations `value` that are there, sorted.
    """
    offset_W = torch.arange(-BEFORE, AFTER + 1, device=key.device)
    at_GW = peaks.place[:, None] + offset_W
    inside = at_GW.div(length, rounding_mode="floor") == (peaks.place // length)[:, None]
    wanted_GW = peaks.slot[:, None] * span + at_GW
    found_GW = torch.searchsorted(key, wanted_GW).clamp_(max=len(key) - 1)
    return torch.where(inside & (key[found_GW] == wanted_GW), value[found_GW], 0.0)
