"""What single latents respond to and do: contexts, histogram, neighbours, partners, tokens.

Shapes: T positions, N kept tokens, D model width, M latents, n chosen latents, W tokens of a
context, t and m latents of a tile.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.cosines import unit
from saeworks.dictionary.experts import experts_of
from saeworks.errors import UserError
from saeworks.files.access import LazyList
from saeworks.lm.model import LanguageModel
from saeworks.lm.unembedding import Ranked, Unembedding, no_direct_path
from saeworks.measure.banks import Bank
from saeworks.measure.engine import Chunk, Measured, Reading, Study, Subject
from saeworks.measure.held_out import HeldOut
from saeworks.measure.studies.cofiring import FIRINGS, CoFirings
from saeworks.measure.studies.contexts import (
    AFTER,
    BEFORE,
    BINS,
    Pool,
    Watcher,
)
from saeworks.measure.studies.pieces import Pieces
from saeworks.measure.studies.reconstruction import SiteSums, Tally
from saeworks.results.records import four_digits, plain
from saeworks.results.series import (
    CHOICE,
    Choice,
    Histogram,
    Latent,
    Neighbour,
    TokenContext,
    TokenEffect,
)

QUANTILES = 4
"""Contexts shown beside those with the largest activations, spread over the sampled ones."""
NEIGHBOURS = 5
"""Nearest latents by the cosine of decoder rows."""
EFFECTS = 10
"""Tokens that are named of those a latent promotes, and of those it suppresses."""
OF_A_SUITE = 8192
"""Latents at all sites of a suite together, where no number is asked for: some 70 MB of JSON."""
_COSINES = 2**22
"""Cosines in memory at once."""

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


@final
class Followed(Reading):
    """The chosen latents of every SAE, followed through the tokens.

    Args:
        chosen: site → latents; by default those that `config` asks for.
    """

    title = "latents"

    def __init__(
        self,
        tally: Tally,
        config: EvalConfig,
        chosen: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self._chosen = chosen
        self.held_out, self.sites, self.width = tally.held_out, tally.sites, tally.width
        self.needs, self._tally, self._config = (tally,), tally, config
        self.watchers: dict[tuple[str, str], Watcher] = {}
        self.firings: dict[tuple[str, str], CoFirings] = {}

    def begin(self) -> None:
        saes = [
            (name, *of_site) for name, bank in self._tally.banks.items() for of_site in bank.items()
        ]
        for name, site, sae in saes:
            sums = self._tally.tallies[name][site]
            chosen = self._among(site, sums, self._tally.banks[name])
            index = torch.tensor(chosen, dtype=torch.int64, device=sums.fired.device)
            peaks = sums.peak[index].float()
            watcher = Watcher(sae, index, peaks, self._config.seed, self.held_out)
            self.watchers[name, site] = watcher
            self.firings[name, site] = CoFirings(sae.width, FIRINGS // len(saes))

    def _among(self, site: str, sums: SiteSums, bank: Bank) -> Sequence[int]:
        if self._chosen is not None:
            return self._chosen[site]
        latents = self._config.latents
        if latents is None:
            few = sum(sae.width for sae in bank.values()) <= OF_A_SUITE
            latents = OF_A_SUITE if few else max(1, OF_A_SUITE // len(bank))
        return choose(sums.fired, latents, (self._config.seed, zlib.crc32(site.encode())))

    def rows(self, site: str, chunk: Chunk) -> None:
        for name, bank in self._tally.banks.items():
            if site in bank:
                self.watchers[name, site].see(chunk)
                self.firings[name, site].add(chunk.code(bank[site]))

    def about(self, name: str, site: str, pieces: Pieces, effects: "SiteEffects") -> "About":
        """What was seen of one SAE's chosen latents."""
        return About(
            self.watchers[name, site],
            self._tally.tallies[name][site],
            self.held_out,
            pieces,
            self.firings[name, site],
            effects,
        )


@final
class Latents(Study):
    """Some or all live latents of a site: what they respond to, what they do, and what is near.

    A latent's contexts are from distinct documents: those with its largest activations, and some
    spread over the quantiles of a sample of its other documents. Its direct effect on the logits
    names the tokens it promotes and suppresses (`lm.unembedding`); its partners are the latents
    that fire on the same tokens. Memory: some 6 kB for each chosen latent, whatever the widths, and
    4 bytes for each firing, up to 128 MiB; a latent's entry is made when the result is written.
    """

    name = "latents"
    title = "Latents and what they respond to"

    def __init__(self, subject: Subject, config: EvalConfig, tally: Tally) -> None:
        self.config, self.tally, self.lm = config, tally, subject.lm
        self.followed = Followed(tally, config)
        self.readings = (self.followed,)

    def results(self) -> dict[str, Measured]:
        held_out, pieces = self.tally.held_out, Pieces(self.lm.tokenizer)
        effects = Effects(self.lm)
        measured = {}
        for name, sums in self.tally.tallies.items():
            series = {
                site: _series(self.followed.about(name, site, pieces, effects.at(site)))
                for site in sums
            }
            result = self.result(self.config, held_out, series=series)
            measured[name] = Measured(result)
        return measured


class Effects:
    """Direct effects of a model's sites on its logits."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._unembedding: Unembedding | None = None
        self._reason = ""
        try:
            self._unembedding = Unembedding.of(lm)
        except UserError as error:
            self._reason = str(error)

    def at(self, site: str) -> "SiteEffects":
        """Those of what is added at a site."""
        reason = self._reason or no_direct_path(self._lm, site)
        return SiteEffects(None if reason else self._unembedding, reason or str(self._unembedding))


@dataclass(frozen=True)
class SiteEffects:
    """Direct effects of what is added at a site; none where `unembedding` is None.

    Attributes:
        about: what they are, or why there are none.
    """

    unembedding: Unembedding | None
    about: str

    def top(self, sae: SAE, index_n: Int[Tensor, " n"]) -> tuple[Ranked, Ranked]:
        """The tokens that latents promote and suppress, on the CPU; none where there are no
        effects."""
        if self.unembedding is None:
            none = Ranked(
                torch.zeros(len(index_n), 0, dtype=torch.int64), torch.zeros(len(index_n), 0)
            )
            return none, none
        promoted, suppressed = self.unembedding.top(
            sae.w_dec[index_n.to(sae.w_dec.device)], EFFECTS
        )
        return _on_cpu(promoted), _on_cpu(suppressed)


def token_effects(ranked: Ranked, slot: int, pieces: Pieces) -> list[TokenEffect]:
    """The tokens of one of the directions, as a result holds them."""
    tokens, effects = ranked.token_Mn[slot].tolist(), ranked.effect_Mn[slot].tolist()
    return [
        TokenEffect(pieces.piece(token), four_digits(effect))
        for token, effect in zip(tokens, effects, strict=True)
    ]


def per_expert(sae: SAE) -> int | None:
    """How many latents an expert has; None where the SAE has no experts."""
    experts = experts_of(sae)
    return None if experts is None else sae.width // experts.experts


def _on_cpu(ranked: Ranked) -> Ranked:
    return Ranked(ranked.token_Mn.cpu(), ranked.effect_Mn.cpu())


def _series(about: "About") -> dict[str, Any]:
    return {
        CHOICE: plain(about.choice()),
        "latents": LazyList(len(about.chosen), lambda slot: plain(about.latent(slot))),
    }


class About:
    """What a result says of the chosen latents of one SAE; it keeps no reference to the SAE."""

    def __init__(
        self,
        watcher: Watcher,
        sums: SiteSums,
        held_out: HeldOut,
        pieces: Pieces,
        firings: CoFirings,
        effects: SiteEffects,
    ) -> None:
        self.chosen: list[int] = watcher.chosen.tolist()
        self.width, self.live = watcher.sae.width, int((sums.fired > 0).sum())
        self.held_out, self.pieces, self.effects = held_out, pieces, effects.about
        self.pools = (watcher.top, watcher.sampled)
        self.counts = watcher.histogram.view(-1, BINS)
        self.cosines, self.nearest = _neighbours(watcher.sae, watcher.chosen)
        self.fired, self.total, self.peak = (
            tensor[watcher.chosen].tolist() for tensor in (sums.fired, sums.total, sums.peak)
        )
        self.numbers = _document_numbers(held_out)
        self.promoted, self.suppressed = effects.top(watcher.sae, watcher.chosen)
        self.counted, self.partners = firings.tokens, firings.partners(watcher.chosen)
        self.per_expert = per_expert(watcher.sae)

    def choice(self) -> Choice:
        """Which latents these are, and what is said of them all."""
        partners = f"counted over {self.counted:,} tokens, among all {self.width:,} latents"
        return Choice(self.width, self.live, HOW_CHOSEN, self.effects, partners)

    def latent(self, slot: int) -> Latent:
        """One latent, as in the result."""
        peak = self.peak[slot]
        nearest = zip(self.nearest[slot].tolist(), self.cosines[slot].tolist(), strict=True)
        return Latent(
            latent=self.chosen[slot],
            frequency=self.fired[slot] / self.held_out.kept,
            mean_activation=self.total[slot] / self.fired[slot],
            max_activation=peak,
            histogram=Histogram(
                [four_digits(peak * edge / BINS) for edge in range(BINS + 1)],
                self.counts[slot].tolist(),
            ),
            neighbours=[Neighbour(latent, four_digits(cosine)) for latent, cosine in nearest],
            contexts=self._contexts(slot),
            promoted=token_effects(self.promoted, slot, self.pieces),
            suppressed=token_effects(self.suppressed, slot, self.pieces),
            partners=self.partners.of(slot),
            expert=self.per_expert and self.chosen[slot] // self.per_expert,
        )

    def _contexts(self, slot: int) -> list[TokenContext]:
        top, sampled = self.pools
        best, others = _filled(top, slot), _filled(sampled, slot)
        shown = {int(top.document[slot, at]) for at in best}
        rest = [at for at in others if int(sampled.document[slot, at]) not in shown]
        spread = {round(at) for at in np.linspace(0, len(rest) - 1, QUANTILES)} if rest else ()
        return [
            *(self._context("top", top, slot, at) for at in best),
            *(self._context("quantile", sampled, slot, rest[at]) for at in sorted(spread)),
        ]

    def _context(
        self, kind: Literal["top", "quantile"], pool: Pool, slot: int, at: int
    ) -> TokenContext:
        sequence, peak = divmod(int(pool.place[slot, at]), self.held_out.tokens_NT.shape[1])
        document_T = self.held_out.document_NT[sequence]
        inside = range(max(0, peak - BEFORE), min(len(document_T), peak + AFTER + 1))
        inside_W = [place for place in inside if document_T[place] == document_T[peak]]
        tokens_T = self.held_out.tokens_NT[sequence]
        activations = pool.activations[slot, at].tolist()
        return TokenContext(
            kind,
            self.pieces.window(tokens_T[inside_W].tolist()),
            [four_digits(activations[place - peak + BEFORE]) for place in inside_W],
            inside_W.index(peak),
            self.numbers[int(pool.document[slot, at])],
        )


def _neighbours(
    sae: SAE, index_n: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "n K"], Int[Tensor, "n K"]]:
    """The largest cosines of the chosen latents' decoder rows with others, and whose they are."""
    w_dec_MD = sae.w_dec
    assert isinstance(w_dec_MD, Tensor)
    index_n = index_n.to(w_dec_MD.device)
    count = min(NEIGHBOURS, sae.width - 1)
    best_nK = torch.empty(len(index_n), count, device=w_dec_MD.device)
    at_nK = torch.empty(len(index_n), count, dtype=torch.int64, device=w_dec_MD.device)
    step = int(_COSINES**0.5)
    for start in range(0, len(index_n), step):
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
    return [at for at in order if documents[at] >= 0]
