"""What single latents respond to, for the report's browser: contexts, histogram, neighbours.

Shapes: B sequences, T positions, N kept tokens, D model width, M latents, n chosen latents,
C documents in a batch, P contexts in a pool, W tokens of a context.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeforge.config import EvalConfig
from saeforge.dictionary.base import SAE
from saeforge.eval.banks import (
    Bank,
    firing,
    for_each_site,
    row_chunks,
    site_means,
    sites_of,
)
from saeforge.eval.held_out import HeldOut
from saeforge.eval.pieces import Pieces
from saeforge.eval.progress import Tracker, silent
from saeforge.eval.reconstruction import SiteSums, Tallies, tally
from saeforge.eval.result import Result
from saeforge.lm.model import LanguageModel

TOP, QUANTILES, SAMPLED = 10, 4, 24
"""Contexts with the largest activations; others shown, spread over the rest; sampled for that."""
BEFORE, AFTER = 14, 8
"""Tokens of a context on either side of its peak."""
BINS = 20
"""Bins of an activation histogram."""
NEIGHBOURS = 5
"""Nearest latents by the cosine of decoder rows."""
_NO_TOKEN = -1


@dataclass
class Pool:
    """The P contexts of largest key per latent, of distinct documents; key −inf where empty."""

    key: Float[Tensor, "n P"]
    value: Float[Tensor, "n P"]
    document: Int[Tensor, "n P"]
    tokens: Int[Tensor, "n P W"]
    activations: Float[Tensor, "n P W"]

    @classmethod
    def empty(cls, latents: int, size: int, device: torch.device) -> "Pool":
        """A pool with nothing in it."""
        window = (latents, size, BEFORE + 1 + AFTER)
        return cls(
            torch.full((latents, size), -torch.inf, device=device),
            torch.zeros(latents, size, device=device),
            torch.full((latents, size), _NO_TOKEN, device=device),
            torch.full(window, _NO_TOKEN, device=device),
            torch.zeros(window, device=device),
        )

    def merged(self, other: "Pool") -> "Pool":
        """The best of both; of two contexts of a document the better."""
        size = self.key.shape[1]
        key = torch.cat([self.key, other.key], dim=1)
        document = torch.cat([self.document, other.document], dim=1)
        order = torch.arange(key.shape[1], device=key.device)
        beats = key[:, None, :] > key[:, :, None]
        beats |= (key[:, None, :] == key[:, :, None]) & (order[None, :] < order[:, None])
        same = document[:, None, :] == document[:, :, None]
        key = key.masked_fill((same & beats).any(dim=2), -torch.inf)
        key, at = key.topk(size, dim=1)

        def pick(a: Tensor, b: Tensor) -> Tensor:
            both = torch.cat([a, b], dim=1)
            index = at if both.dim() == 2 else at[:, :, None].expand(-1, -1, both.shape[2])
            return both.gather(1, index)

        return Pool(
            key,
            pick(self.value, other.value),
            pick(self.document, other.document),
            pick(self.tokens, other.tokens),
            pick(self.activations, other.activations),
        )


class Watcher:
    """Follows the chosen latents of one SAE through the held-out tokens, in bounded memory."""

    def __init__(
        self, sae: SAE, chosen: Int[Tensor, " n"], peaks: Float[Tensor, " n"], seed: int
    ) -> None:
        device = chosen.device
        self.sae, self.peaks = sae, peaks
        self.slot_M = torch.full((sae.width,), -1, device=device)
        self.slot_M[chosen] = torch.arange(len(chosen), device=device)
        self.top = Pool.empty(len(chosen), TOP, device)
        self.sampled = Pool.empty(len(chosen), SAMPLED, device)
        self.histogram = torch.zeros(len(chosen) * BINS, dtype=torch.int64, device=device)
        self.generator = torch.Generator().manual_seed(seed)

    def see(self, rows_ND: Float[Tensor, "N D"], batch: HeldOut) -> None:
        """Count a batch in."""
        f_Nn = self._codes(rows_ND)
        self._count(f_Nn)
        value_nC, at_nC, document_C = _document_peaks(f_Nn, batch.row_NT[batch.keep_NT])
        fires_nC = value_nC > 0
        lottery_nC = torch.rand(value_nC.shape, generator=self.generator).to(value_nC.device)
        for name, key_nC in (("top", value_nC), ("sampled", lottery_nC)):
            pool: Pool = getattr(self, name)
            key_nC = key_nC.masked_fill(~fires_nC, -torch.inf)
            key_nP, order_nP = key_nC.topk(min(pool.key.shape[1], key_nC.shape[1]), dim=1)
            tokens, activations = _windows(f_Nn, at_nC.gather(1, order_nP), batch)
            seen = Pool(
                key_nP,
                value_nC.gather(1, order_nP),
                document_C[order_nP],
                tokens,
                activations,
            )
            setattr(self, name, pool.merged(seen))

    def _codes(self, rows_ND: Tensor) -> Tensor:
        """Activations [N, n] of the chosen latents."""
        f_Nn = rows_ND.new_zeros(len(rows_ND), len(self.peaks))
        for part in row_chunks(len(rows_ND), self.sae.width):
            owner, latents, values = firing(self.sae.encode_sparse(rows_ND[part]))
            slots = self.slot_M[latents]
            chosen = slots >= 0
            f_Nn[owner[chosen] + part.start, slots[chosen]] = values[chosen].to(f_Nn.dtype)
        return f_Nn

    def _count(self, f_Nn: Tensor) -> None:
        token, latent = (f_Nn > 0).nonzero(as_tuple=True)
        share = f_Nn[token, latent] / self.peaks[latent]
        bins = (share * BINS).long().clamp_(0, BINS - 1)
        self.histogram += torch.bincount(latent * BINS + bins, minlength=len(self.histogram))


def _document_peaks(
    f_Nn: Float[Tensor, "N n"], row_N: Int[Tensor, " N"]
) -> tuple[Float[Tensor, "n C"], Int[Tensor, "n C"], Int[Tensor, " C"]]:
    """Each latent's largest activation in each document, the token where it is, the documents."""
    document_C, local_N = torch.unique(row_N, return_inverse=True)
    local_Nn = local_N[:, None].expand_as(f_Nn)
    shape = (len(document_C), f_Nn.shape[1])
    value_Cn = f_Nn.new_zeros(shape).scatter_reduce(0, local_Nn, f_Nn, "amax")
    token_Nn = torch.arange(len(f_Nn), device=f_Nn.device)[:, None].expand_as(f_Nn)
    last = len(f_Nn) - 1
    at_peak_Nn = torch.where(f_Nn == value_Cn[local_N], token_Nn, last)
    at_Cn = torch.full(shape, last, device=f_Nn.device).scatter_reduce(
        0, local_Nn, at_peak_Nn, "amin"
    )
    return value_Cn.T.contiguous(), at_Cn.T.contiguous(), document_C


def _windows(
    f_Nn: Float[Tensor, "N n"], at_nP: Int[Tensor, "n P"], batch: HeldOut
) -> tuple[Int[Tensor, "n P W"], Float[Tensor, "n P W"]]:
    """Tokens and activations around kept tokens, within sequence and document; −1 and 0 outside."""
    sequences, length = batch.tokens_NT.shape
    f_BTn = f_Nn.new_zeros(sequences, length, f_Nn.shape[1])
    f_BTn[batch.keep_NT] = f_Nn
    row_N, position_N = batch.keep_NT.nonzero(as_tuple=True)
    row_nP1, position_nP1 = row_N[at_nP][..., None], position_N[at_nP][..., None]
    position_nPW = position_nP1 + torch.arange(-BEFORE, AFTER + 1, device=at_nP.device)
    inside = (position_nPW >= 0) & (position_nPW < length)
    position_nPW = position_nPW.clamp(0, length - 1)
    inside &= batch.document_NT[row_nP1, position_nPW] == batch.document_NT[row_nP1, position_nP1]
    latent_n11 = torch.arange(f_Nn.shape[1], device=at_nP.device)[:, None, None]
    tokens = batch.tokens_NT[row_nP1, position_nPW].masked_fill(~inside, _NO_TOKEN)
    activations = f_BTn[row_nP1, position_nPW, latent_n11].masked_fill(~inside, 0.0)
    return tokens, activations


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
    of its other documents.

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
                sums, seed = (
                    tallies[name][site],
                    (config.seed, zlib.crc32(site.encode())),
                )
                picked = choose(sums.fired, config.latents, seed)
                index = torch.tensor(picked, dtype=torch.int64, device=lm.device)
                chosen[name, site] = picked
                watchers[name, site] = Watcher(sae, index, sums.peak[index].float(), config.seed)

        def visit(site: str, rows_ND: Tensor, batch: HeldOut) -> None:
            for name, bank in banks.items():
                if site in bank and len(rows_ND):
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
                site: {
                    "latents": _describe(
                        chosen[name, site],
                        watchers[name, site],
                        tallies[name][site],
                        held_out,
                        pieces,
                    )
                }
                for site in bank
            },
        )
        for name, bank in banks.items()
    }


def _describe(
    chosen: Sequence[int],
    watcher: Watcher,
    sums: SiteSums,
    held_out: HeldOut,
    pieces: Pieces,
) -> list[dict[str, Any]]:
    fired, total, peak = (tensor.tolist() for tensor in (sums.fired, sums.total, sums.peak))
    counts = watcher.histogram.view(-1, BINS).tolist()
    neighbours = _neighbours(watcher.sae, chosen)
    numbers = _document_numbers(held_out)
    return [
        {
            "latent": latent,
            "frequency": fired[latent] / held_out.kept,
            "mean_activation": total[latent] / fired[latent],
            "max_activation": peak[latent],
            "histogram": {
                "edges": [_round(peak[latent] * edge / BINS) for edge in range(BINS + 1)],
                "counts": counts[slot],
            },
            "neighbours": neighbours[slot],
            "contexts": _contexts(watcher, slot, pieces, numbers),
        }
        for slot, latent in enumerate(chosen)
    ]


def _neighbours(sae: SAE, chosen: Sequence[int]) -> list[list[dict[str, Any]]]:
    w_dec_MD = sae.w_dec
    assert isinstance(w_dec_MD, Tensor)
    unit_MD = torch.nn.functional.normalize(w_dec_MD.float(), dim=1)
    index = torch.tensor(chosen, dtype=torch.int64, device=unit_MD.device)
    cosine_nM = unit_MD[index] @ unit_MD.T
    cosine_nM[torch.arange(len(chosen), device=index.device), index] = -torch.inf
    cosines, latents = cosine_nM.topk(min(NEIGHBOURS, sae.width - 1), dim=1)
    return [
        [{"latent": j, "cosine": _round(c)} for j, c in zip(js, cs, strict=True)]
        for js, cs in zip(latents.tolist(), cosines.tolist(), strict=True)
    ]


def _document_numbers(held_out: HeldOut) -> list[int]:
    """The corpus's number of each row of per-document sums."""
    numbers = torch.unique(held_out.document_NT)
    return [int(number) for number in numbers[numbers >= 0]]


def _contexts(
    watcher: Watcher, slot: int, pieces: Pieces, numbers: Sequence[int]
) -> list[dict[str, Any]]:
    top = [(watcher.top, at) for at in _filled(watcher.top, slot)]
    shown = {int(pool.document[slot, at]) for pool, at in top}
    rest = [
        at
        for at in _filled(watcher.sampled, slot)
        if int(watcher.sampled.document[slot, at]) not in shown
    ]
    spread = sorted({round(at) for at in np.linspace(0, len(rest) - 1, QUANTILES)} if rest else ())
    picked = [("top", pool, at) for pool, at in top]
    picked += [("quantile", watcher.sampled, rest[i]) for i in spread]
    return [{"kind": kind} | _context(pool, slot, at, pieces, numbers) for kind, pool, at in picked]


def _filled(pool: Pool, slot: int) -> list[int]:
    """Places of a latent's contexts, from the largest activation down."""
    order = pool.value[slot].argsort(descending=True, stable=True).tolist()
    keys = pool.key[slot].tolist()
    return [at for at in order if keys[at] > -torch.inf]


def _context(
    pool: Pool, slot: int, at: int, pieces: Pieces, numbers: Sequence[int]
) -> dict[str, Any]:
    tokens, activations = (
        pool.tokens[slot, at].tolist(),
        pool.activations[slot, at].tolist(),
    )
    inside = [i for i, token in enumerate(tokens) if token != _NO_TOKEN]
    return {
        "tokens": pieces.window([tokens[i] for i in inside]),
        "activations": [_round(activations[i]) for i in inside],
        "peak": inside.index(BEFORE),
        "document": numbers[int(pool.document[slot, at])],
    }


def _round(value: float) -> float:
    """Four digits, for a small file."""
    return float(f"{value:.4g}")
