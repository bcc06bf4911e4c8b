"""What single latents respond to, for the report's browser: contexts, histogram, neighbours.

Shapes: B sequences, T positions, N kept tokens, D model width, M latents, n chosen latents,
P contexts in a pool, W tokens of a context, G peaks (latent, document), t latents of a tile.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeforge.config import EvalConfig
from saeforge.dictionary.base import SAE
from saeforge.dictionary.cosines import unit
from saeforge.eval.banks import (
    Bank,
    firing,
    for_each_site,
    row_chunks,
    rows_at_once,
    site_means,
    sites_of,
)
from saeforge.eval.held_out import HeldOut
from saeforge.eval.pieces import Pieces
from saeforge.eval.progress import Tracker, silent
from saeforge.eval.reconstruction import SiteSums, Tallies, tally
from saeforge.eval.result import Result
from saeforge.files import Rows
from saeforge.lm.model import LanguageModel

TOP, QUANTILES, SAMPLED = 10, 4, 24
"""Contexts with the largest activations; others shown, spread over the rest; sampled for that."""
BEFORE, AFTER = 24, 16
"""Tokens of a context on either side of its peak."""
BINS = 20
"""Bins of an activation histogram."""
NEIGHBOURS = 5
"""Nearest latents by the cosine of decoder rows."""
_NONE = -1
_PAIRS = 2**21
"""Activations of chosen latents that are kept back before they are counted in,"""
_TILE = 1024
"""and latents whose contexts are in memory beside the pools' own then."""
_COSINES = 2**22
"""In memory at once."""


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
        """Some of them."""
        return Peaks(self.slot[index], self.document[index], self.place[index], self.value[index])

    def joined(self, more: "Peaks") -> "Peaks":
        """These, then others."""
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
    """The P documents of largest key per latent, each with its peak; document −1 where empty.

    The key is a function of latent, document and value that does not fall with the value, so that
    what was left out once need never be let in again at the same value.
    """

    def __init__(self, latents: int, size: int, key: Key, device: torch.device) -> None:
        self.key = key
        self.document = torch.full((latents, size), _NONE, dtype=torch.int32, device=device)
        self.place = torch.zeros(latents, size, dtype=torch.int64, device=device)
        self.value = torch.zeros(latents, size, device=device)
        self.activations = torch.zeros(latents, size, BEFORE + 1 + AFTER, device=device)

    def take(self, more: Peaks, window: Window) -> None:
        """Keep the best of what is there and of `more`, whose activations `window` gives; they
        come in the order of their slots."""
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
        """Of those that were there already as they are, of the others by `window`."""
        own = torch.searchsorted(touched_t, best.slot)
        same = (self.place[touched_t][own] == best.place[:, None]) & (
            self.document[touched_t][own] != _NONE
        )
        held = same.any(1)
        activations = self.activations.new_zeros(len(held), self.activations.shape[2])
        activations[held] = self.activations[best.slot[held], same[held].int().argmax(1)]
        activations[~held] = window(best.at(~held))
        return activations


def _lottery(seed: int) -> Key:
    """A number in [0, 1) by seed, latent and document: a sample that hangs on nothing else
    (splitmix64's finaliser; Steele, Lea and Flood 2014)."""

    def key(peaks: Peaks) -> Float[Tensor, " G"]:
        x = (seed + 1) * 0x1E3779B97F4A7C15 + peaks.slot * 0x3C79AC492BA7B653 + peaks.document
        for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
            x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
        return (x >> 11 & (1 << 53) - 1).double() / 2**53

    return key


class Watcher:
    """Follows the chosen latents of one SAE through the held-out tokens.

    Held are the pools, [n, P, W], and of a batch the activations of the chosen latents that are
    not 0; no array has a place for every token and latent.
    """

    def __init__(
        self, sae: SAE, chosen: Int[Tensor, " n"], peaks: Float[Tensor, " n"], seed: int
    ) -> None:
        device = chosen.device
        self.sae, self.peaks = sae, peaks
        self.slot_M = torch.full((sae.width,), _NONE, device=device)
        self.slot_M[chosen] = torch.arange(len(chosen), device=device)
        self.top = Pool(len(chosen), TOP, lambda peaks: peaks.value, device)
        self.sampled = Pool(len(chosen), SAMPLED, _lottery(seed), device)
        self.histogram = torch.zeros(len(chosen) * BINS, dtype=torch.int64, device=device)
        self.seen = 0

    def see(self, rows_ND: Float[Tensor, "N D"], batch: HeldOut) -> None:
        """Count a batch in: of all sequences, one after the other."""
        place_N = batch.keep_NT.flatten().nonzero().squeeze(1)
        pending: list[tuple[Tensor, Tensor, Tensor]] = []
        for rows in _whole_sequences(batch.keep_NT, rows_at_once(self.sae.width)):
            pending += self._active(rows_ND[rows], place_N[rows])
            if sum(len(place) for place, _, _ in pending) >= _PAIRS:
                self._count(pending, batch)
                pending = []
        self._count(pending, batch)
        self.seen += batch.keep_NT.numel()

    def _active(self, rows_ND: Tensor, place_N: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Place, slot and activation wherever a chosen latent fires."""
        for part in row_chunks(len(rows_ND), self.sae.width):
            owner, latents, values = firing(self.sae.encode_sparse(rows_ND[part]))
            slots = self.slot_M[latents]
            chosen = slots >= 0
            yield place_N[part][owner[chosen]], slots[chosen], values[chosen].float()

    def _count(self, pending: Sequence[tuple[Tensor, Tensor, Tensor]], batch: HeldOut) -> None:
        if not pending:
            return
        place, slot, value = (torch.cat(parts) for parts in zip(*pending, strict=True))
        bins = (value / self.peaks[slot] * BINS).long().clamp_(0, BINS - 1)
        self.histogram += torch.bincount(slot * BINS + bins, minlength=len(self.histogram))
        span = batch.keep_NT.numel()
        key, order = (slot * span + place).sort()
        place, slot, value = place[order], slot[order], value[order]
        found = Peaks(slot, batch.row_NT.flatten()[place], place + self.seen, value).by_document()

        def window(peaks: Peaks) -> Float[Tensor, "G W"]:
            return _around(peaks, self.seen, batch.keep_NT.shape[1], span, key, value)

        edges = torch.arange(0, len(self.peaks) + _TILE, _TILE, device=slot.device)
        ends = torch.searchsorted(found.slot, edges).tolist()
        for start, end in pairwise(ends):
            if start < end:
                self.top.take(found.at(slice(start, end)), window)
                self.sampled.take(found.at(slice(start, end)), window)


def _whole_sequences(keep_BT: Bool[Tensor, "B T"], rows: int) -> Iterator[slice]:
    """Slices of the kept tokens, each of so many or more, that end where a sequence ends."""
    start = end = 0
    for end in keep_BT.sum(dim=1).cumsum(0).tolist():
        if end - start >= rows:
            yield slice(start, end)
            start = end
    if start < end:
        yield slice(start, end)


def _around(
    peaks: Peaks, seen: int, length: int, span: int, key: Tensor, value: Tensor
) -> Float[Tensor, "G W"]:
    """A latent's activations around its peaks, within the sequence, 0 outside.

    Args:
        seen: tokens before the batch; `span` tokens are in it, `length` in a sequence.
        key: slot · span + place of the batch's activations `value`, sorted.
    """
    offset_W = torch.arange(-BEFORE, AFTER + 1, device=key.device)
    at_GW = (peaks.place - seen)[:, None] + offset_W
    inside = at_GW.div(length, rounding_mode="floor") == ((peaks.place - seen) // length)[:, None]
    wanted_GW = peaks.slot[:, None] * span + at_GW
    found_GW = torch.searchsorted(key, wanted_GW).clamp_(max=len(key) - 1)
    return torch.where(inside & (key[found_GW] == wanted_GW), value[found_GW], 0.0)


HOW_CHOSEN = (
    "one at random from each of as many equal parts of the live ones, in the order of how often "
    "they fire"
)


def choose(fired_M: Int[Tensor, " M"], latents: int, seed: Sequence[int]) -> list[int]:
    """Live latents spread over the range of frequencies: one at random from each of as many equal
    parts of the live ones in order of frequency; returned from the most frequent down."""
    order = torch.argsort(fired_M, descending=True, stable=True).cpu().numpy()
    live = order[: int((fired_M > 0).sum())]
    if len(live) <= latents:
        return [int(latent) for latent in live]
    rng = np.random.default_rng(list(seed))
    return [int(rng.choice(part)) for part in np.array_split(live, latents)]


@torch.no_grad()
def latents(
    banks: Mapping[str, Bank],
    lm: LanguageModel,
    held_out: HeldOut,
    config: EvalConfig,
    progress: Tracker = silent,
    tallies: Tallies | None = None,
) -> dict[str, Result]:
    """Per site `config.latents` live latents with contexts, activation histogram, neighbours.

    One language-model pass for all sites and banks. A latent's contexts are from distinct
    documents: those with its largest activations, and some spread over the quantiles of a sample
    of its other documents. Memory: some 6 kB for each latent chosen, whatever the widths; what is
    told of a latent is put together when it is asked for.

    Args:
        tallies: what `reconstruction` counted on the same tokens; counted here if not given.

    Raises:
        UserError: as `reconstruction`.
    """
    sites = sites_of(banks, lm)
    passes = 1 if tallies is not None else 3
    with progress("latents", passes * held_out.tokens_NT.numel()) as tick:
        if tallies is None:
            means = site_means(lm, sites, held_out, tick)
            tallies = tally(banks, lm, held_out, means, tick)
        chosen: dict[tuple[str, str], list[int]] = {}
        watchers: dict[tuple[str, str], Watcher] = {}
        for name, bank in banks.items():
            for site, sae in bank.items():
                sums = tallies[name][site]
                picked = choose(
                    sums.fired, config.latents, (config.seed, zlib.crc32(site.encode()))
                )
                index = torch.tensor(picked, dtype=torch.int64, device=lm.device)
                chosen[name, site] = picked
                watchers[name, site] = Watcher(sae, index, sums.peak[index].float(), config.seed)

        def visit(site: str, rows_ND: Tensor, batch: HeldOut) -> None:
            for name, bank in banks.items():
                if site in bank:
                    watchers[name, site].see(rows_ND, batch)

        for_each_site(lm, sites, held_out, visit, tick)
    pieces = Pieces(lm.tokenizer)
    return {
        name: Result(
            evaluation="latents",
            title="Latents and what they respond to",
            config=asdict(config),
            tokens=held_out.kept,
            documents=held_out.documents,
            series={
                site: _series(
                    chosen[name, site],
                    watchers[name, site],
                    tallies[name][site],
                    held_out,
                    pieces,
                )
                for site in bank
            },
        )
        for name, bank in banks.items()
    }


def _series(
    chosen: Sequence[int],
    watcher: Watcher,
    sums: SiteSums,
    held_out: HeldOut,
    pieces: Pieces,
) -> dict[str, Any]:
    told = _Told(chosen, watcher, sums, held_out, pieces)
    return {
        "choice": {
            "width": watcher.sae.width,
            "live": int((sums.fired > 0).sum()),
            "how": HOW_CHOSEN,
        },
        "latents": Rows(len(chosen), told.latent),
    }


class _Told:
    """What is told of the chosen latents of one SAE, without the SAE."""

    def __init__(
        self,
        chosen: Sequence[int],
        watcher: Watcher,
        sums: SiteSums,
        held_out: HeldOut,
        pieces: Pieces,
    ) -> None:
        self.chosen, self.held_out, self.pieces = chosen, held_out, pieces
        self.pools = (watcher.top, watcher.sampled)
        self.counts = watcher.histogram.view(-1, BINS)
        self.cosines, self.nearest = _neighbours(watcher.sae, chosen)
        index = torch.tensor(chosen, dtype=torch.int64, device=sums.fired.device)
        self.fired, self.total, self.peak = (
            tensor[index].tolist() for tensor in (sums.fired, sums.total, sums.peak)
        )
        self.numbers = _document_numbers(held_out)

    def latent(self, slot: int) -> dict[str, Any]:
        """One latent, as in the result."""
        peak = self.peak[slot]
        return {
            "latent": self.chosen[slot],
            "frequency": self.fired[slot] / self.held_out.kept,
            "mean_activation": self.total[slot] / self.fired[slot],
            "max_activation": peak,
            "histogram": {
                "edges": [_round(peak * edge / BINS) for edge in range(BINS + 1)],
                "counts": self.counts[slot].tolist(),
            },
            "neighbours": [
                {"latent": latent, "cosine": _round(cosine)}
                for latent, cosine in zip(
                    self.nearest[slot].tolist(), self.cosines[slot].tolist(), strict=True
                )
            ],
            "contexts": self._contexts(slot),
        }

    def _contexts(self, slot: int) -> list[dict[str, Any]]:
        top, sampled = self.pools
        best, others = _filled(top, slot), _filled(sampled, slot)
        shown = {int(top.document[slot, at]) for at in best}
        rest = [at for at in others if int(sampled.document[slot, at]) not in shown]
        spread = {round(at) for at in np.linspace(0, len(rest) - 1, QUANTILES)} if rest else ()
        picked = [("top", top, at) for at in best]
        picked += [("quantile", sampled, rest[at]) for at in sorted(spread)]
        return [{"kind": kind} | self._context(pool, slot, at) for kind, pool, at in picked]

    def _context(self, pool: Pool, slot: int, at: int) -> dict[str, Any]:
        sequence, peak = divmod(int(pool.place[slot, at]), self.held_out.tokens_NT.shape[1])
        document_T = self.held_out.document_NT[sequence]
        inside = range(max(0, peak - BEFORE), min(len(document_T), peak + AFTER + 1))
        inside_W = [place for place in inside if document_T[place] == document_T[peak]]
        tokens_T = self.held_out.tokens_NT[sequence]
        activations = pool.activations[slot, at].tolist()
        return {
            "tokens": self.pieces.window(tokens_T[inside_W].tolist()),
            "activations": [_round(activations[place - peak + BEFORE]) for place in inside_W],
            "peak": inside_W.index(peak),
            "document": self.numbers[int(pool.document[slot, at])],
        }


def _neighbours(sae: SAE, chosen: Sequence[int]) -> tuple[Float[Tensor, "n K"], Int[Tensor, "n K"]]:
    """The largest cosines of the chosen latents' decoder rows with others, and whose they are."""
    w_dec_MD = sae.w_dec
    assert isinstance(w_dec_MD, Tensor)
    index_n = torch.tensor(chosen, dtype=torch.int64, device=w_dec_MD.device)
    count = min(NEIGHBOURS, sae.width - 1)
    best_nK = torch.empty(len(chosen), count, device=w_dec_MD.device)
    at_nK = torch.empty(len(chosen), count, dtype=torch.int64, device=w_dec_MD.device)
    step = int(_COSINES**0.5)
    for start in range(0, len(chosen), step):
        own_t = index_n[start : start + step]
        rows_tD = unit(w_dec_MD[own_t])
        best_tK, at_tK = rows_tD.new_empty(len(own_t), 0), own_t.new_empty(len(own_t), 0)
        for first in range(0, sae.width, step):
            cosine_tm = rows_tD @ unit(w_dec_MD[first : first + step]).T
            other_m = torch.arange(first, first + cosine_tm.shape[1], device=own_t.device)
            cosine_tm.masked_fill_(own_t[:, None] == other_m, -torch.inf)
            both = torch.cat([best_tK, cosine_tm], dim=1)
            places = torch.cat([at_tK, other_m.expand(len(own_t), -1)], dim=1)
            best_tK, pick = both.topk(min(count, both.shape[1]), dim=1)
            at_tK = places.gather(1, pick)
        best_nK[start : start + step], at_nK[start : start + step] = best_tK, at_tK
    return best_nK, at_nK


def _document_numbers(held_out: HeldOut) -> list[int]:
    """The corpus's number of each row of per-document sums."""
    numbers = torch.unique(held_out.document_NT)
    return [int(number) for number in numbers[numbers >= 0]]


def _filled(pool: Pool, slot: int) -> list[int]:
    """Places of a latent's contexts, from the largest activation down."""
    order = pool.value[slot].argsort(descending=True, stable=True).tolist()
    documents = pool.document[slot].tolist()
    return [at for at in order if documents[at] != _NONE]


def _round(value: float) -> float:
    """Four digits, for a small file."""
    return float(f"{value:.4g}")
