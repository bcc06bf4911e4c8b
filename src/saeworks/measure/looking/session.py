"""A suite and its language model, held ready to look at single latents and sentences.

Shapes: T tokens, N rows, D model width, M latents.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import Any

import torch

from saeworks.config import TENSOR, EvalConfig, ModelConfig, TextConfig
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.files.access import is_file
from saeworks.files.seals import RESULTS, check_seal
from saeworks.files.streaming import read_long
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel
from saeworks.measure.asked import check_fingerprint, works
from saeworks.measure.banks import firing, sites_of
from saeworks.measure.engine import Subject, sweep
from saeworks.measure.interventions import Edit, edit_hooks
from saeworks.measure.progress import tracker
from saeworks.measure.studies.latents import (
    Effects,
    Followed,
    SiteEffects,
    per_expert,
    token_effects,
)
from saeworks.measure.studies.latents import Latents as LatentsStudy
from saeworks.measure.studies.pieces import Pieces
from saeworks.measure.studies.reconstruction import Reconstruction, Tally
from saeworks.measure.suites import held_out_tokens
from saeworks.results.records import parse
from saeworks.results.series import Latent, TokenEffect
from saeworks.suite import Suite

TOKENS = 20_000
"""Held-out tokens from which a latent's contexts are, where no evaluation has them."""

WRITTEN_BY = "saeworks eval"
"""What writes the contexts that are read."""
NAMED = 8
"""Latents of a sentence whose promoted tokens are named."""


@dataclass(frozen=True)
class Active:
    """A latent that fires on a token."""

    latent: int
    activation: float

    def __str__(self) -> str:
        return f"{self.latent}: {self.activation:.3g}"


@dataclass(frozen=True)
class Sentence:
    """A text through the SAE of one site.

    Attributes:
        tokens: its tokens, without a BOS that the tokenizer puts before it.
        firings: of each token the latents that fire, from the strongest down.
        per_expert: latents of an expert; None where the SAE has none.
    """

    site: str
    tokens: tuple[str, ...]
    firings: tuple[tuple[Active, ...], ...]
    per_expert: int | None = None

    def strongest(self, count: int) -> list[int]:
        """The latents with the largest sums of activations in the text."""
        total: dict[int, float] = {}
        for on_token in self.firings:
            for fires in on_token:
                total[fires.latent] = total.get(fires.latent, 0.0) + fires.activation
        return sorted(total, key=lambda latent: -total[latent])[:count]


class Looking:
    """A suite, whose language model is loaded when first needed.

    Args:
        model: another language model than the suite's own, or the same in another place.
        corpus: another text than the suite's own, from which contexts are.
        tokens: of the held-out text, where contexts are looked for on demand.
        say: where lines about progress go; None for silence.

    Raises:
        UserError: if the suite's SAEs code errors; if it has no model of its own and none is given.
    """

    def __init__(
        self,
        suite: Suite,
        *,
        model: ModelConfig | str | None = None,
        corpus: TextConfig | str | None = None,
        device: str = "auto",
        tokens: int = TOKENS,
        say: Callable[[str], None] | None = None,
    ) -> None:
        suite.check_on_activations()
        if TENSOR in (suite.run.model.name, suite.run.text.source) and None in (model, corpus):
            raise UserError(
                f"{suite.path} was trained on a tensor (sw.train), so its model and text are not "
                "known: name them with --model and --corpus (model= and corpus= in Python)"
            )
        self.suite, self.device, self.tokens, self.say = suite, device, tokens, say
        (self.work,) = works([suite], model, corpus)
        self._own_model, self._own = model is None, model is None and corpus is None
        self._saes: dict[str, SAE] = {}
        self._tallies: dict[str, Tally] = {}
        self._records: dict[tuple[str, int], tuple[Latent, str]] = {}

    @cached_property
    def lm(self) -> LanguageModel:
        """The language model.

        Raises:
            UserError: if it cannot be loaded, or is not the one that the suite was trained on.
        """
        lm = self.work.language_model(choose_device(self.device), own=self._own_model)
        if self._own_model:
            check_fingerprint(self.suite, lm)
        return lm

    @cached_property
    def pieces(self) -> Pieces:
        """Texts of tokens."""
        return Pieces(self.lm.tokenizer)

    @cached_property
    def _effects(self) -> Effects:
        return Effects(self.lm)

    def effects(self, site: str) -> SiteEffects:
        """Direct effects of what is added at a site."""
        return self._effects.at(site)

    def sites(self, patterns: Sequence[str]) -> list[str]:
        """The suite's sites that patterns (or names, or aliases) select.

        Raises:
            UserError: if one selects none of them.
        """
        if set(patterns) <= set(self.suite.sites):
            return [site for site in self.suite.sites if site in patterns]
        chosen: set[str] = set()
        for pattern in patterns:
            selected = {pattern} & set(self.suite.sites) or (
                set(self.lm.sites(pattern)) & set(self.suite.sites)
            )
            if not selected:
                has = ", ".join(self.suite.sites)
                raise UserError(f"{self.suite.path} has no SAE at site {pattern!r}; it has {has}")
            chosen |= selected
        return [site for site in self.suite.sites if site in chosen]

    def sae(self, site: str) -> SAE:
        """The site's SAE on raw activations, on the model's device.

        Raises:
            UserError: if the suite has no such site, or the SAE does not fit the model.
        """
        if site not in self._saes:
            sae = self.suite.at(site).to(self.lm.device)
            sites_of({str(self.suite.path): {site: sae}}, self.lm)
            self._saes[site] = sae
        return self._saes[site]

    def number(self, site: str, latent: Any) -> int:
        """A latent that exists, as a number.

        Raises:
            UserError: if it does not.
        """
        width = self.suite.at(site).width
        if hasattr(latent, "__index__") and not isinstance(latent, bool):
            latent = index(latent)
            if 0 <= latent < width:
                return int(latent)
        raise UserError(
            f"latent {latent!r} at {site} does not exist: its SAE has latents 0 to {width - 1}"
        )

    @torch.no_grad()
    def sentences(self, text: str, sites: Sequence[str]) -> dict[str, Sentence]:
        """A text through the SAEs of some sites, in one pass of the model that ends at the last.

        Raises:
            UserError: if the text is empty, or longer than the model takes.
        """
        if not text.strip():
            raise UserError("the text is empty; give at least one word")
        saes = {site: self.sae(site) for site in sites}
        tokens_1T = self.lm.tokens(text)
        begins = int(self.lm.bos_id is not None and int(tokens_1T[0, 0]) == self.lm.bos_id)
        captured = self.lm.capture(tokens_1T, list(saes))
        tokens = tuple(self.pieces.window(tokens_1T[0, begins:].tolist()))
        return {
            site: Sentence(site, tokens, _firings(sae, captured[site][0, begins:]), per_expert(sae))
            for site, sae in saes.items()
        }

    def promoted(self, site: str, latents: Sequence[int]) -> dict[int, list[TokenEffect]]:
        """The tokens that latents promote; empty where they have no direct effect."""
        effects = self.effects(site)
        if effects.unembedding is None or not latents:
            return {}
        promoted, _ = effects.top(self.sae(site), torch.tensor(latents))
        return {
            latent: token_effects(promoted, slot, self.pieces)
            for slot, latent in enumerate(latents)
        }

    @torch.no_grad()
    def latent(self, site: str, latent: Any) -> tuple[Latent, str]:
        """What is known of a latent, and from how many tokens: of the suite's evaluation where it
        has the latent, else from held-out text now.

        Raises:
            UserError: if the latent does not exist, or never fires on the held-out text.
        """
        latent = self.number(site, latent)
        if (site, latent) not in self._records:
            record = self._stored(site, latent) if self._own else None
            self._records[site, latent] = record or self._watched(site, latent)
        return self._records[site, latent]

    def _stored(self, site: str, latent: int) -> tuple[Latent, str] | None:
        file = self.suite.path / RESULTS / f"{LatentsStudy.name}.json"
        if not is_file(file):
            return None
        of_site = ("series", site, "latents")
        entries: list[Any] = []

        def take(place: Any, item: Any) -> None:
            if place == of_site and isinstance(item, Mapping) and item.get("latent") == latent:
                entries.append(item)

        check_seal(file, "result", WRITTEN_BY)
        rest = read_long(file, "result", lambda place: place[-1:] == ("latents",), take)
        if not entries:
            return None
        record = parse(Latent, entries[0], f"result {file}", f"run `{WRITTEN_BY}` again")
        return record, f"{rest.get('tokens', 0):,} held-out tokens, of {file}"

    def _watched(self, site: str, latent: int) -> tuple[Latent, str]:
        progress = tracker(self.say)
        config = EvalConfig(tokens=self.tokens, latents=1)
        if site not in self._tallies:
            held_out = held_out_tokens(
                self.lm, self.work.text, self.work.seed, self.tokens, self.work.limits
            )
            subject = Subject.of({"": {site: self.sae(site)}}, self.lm, held_out)
            self._tallies[site] = Reconstruction(subject, config).tally
            sweep(self.lm, [self._tallies[site]], progress)
        tally = self._tallies[site]
        fired_M = tally.tallies[""][site].fired
        if not int(fired_M[latent]):
            often = ", ".join(str(i) for i in fired_M.topk(min(3, len(fired_M))).indices.tolist())
            raise UserError(
                f"latent {latent} at {site} never fires on {tally.held_out.kept:,} held-out tokens "
                f"({int((fired_M == 0).sum()):,} of {len(fired_M):,} do not); look at more tokens, "
                f"or at one that fires, such as {often}"
            )
        followed = Followed(tally, config, {site: [latent]})
        followed.needs = ()
        sweep(self.lm, [followed], progress)
        about = followed.about("", site, self.pieces, self.effects(site))
        return about.latent(0), f"{tally.held_out.kept:,} held-out tokens"

    def generated(
        self, prompt: str, edits: Sequence[Edit], new_tokens: int, temperature: float, seed: int
    ) -> str:
        """What the model writes after a prompt, with latents edited; the prompt included.

        Raises:
            UserError: as `edit_hooks` and `LanguageModel.generate`; if the prompt is empty.
        """
        if not prompt.strip():
            raise UserError("the prompt is empty; give at least one word")
        hooks = (
            edit_hooks({edit.site: self.sae(edit.site) for edit in edits}, edits) if edits else {}
        )
        tokens_1X = self.lm.generate(
            prompt, hooks, new_tokens=new_tokens, temperature=temperature, seed=seed
        )
        ends = (self.lm.bos_id, getattr(self.lm.tokenizer, "eos_token_id", None))
        inside = [at for at, token in enumerate(tokens_1X[0].tolist()) if token not in ends]
        written = tokens_1X[0, inside[0] : inside[-1] + 1] if inside else tokens_1X[0, :0]
        return str(self.lm.tokenizer.decode(written.tolist()))


def _firings(sae: SAE, x_TD: torch.Tensor) -> tuple[tuple[Active, ...], ...]:
    owner, latents, values = firing(sae.encode_sparse(x_TD.float()))
    on_token: list[list[Active]] = [[] for _ in range(len(x_TD))]
    rows: Iterable[tuple[int, int, float]] = zip(
        owner.tolist(), latents.tolist(), values.tolist(), strict=True
    )
    for row, latent, value in rows:
        on_token[row].append(Active(latent, value))
    return tuple(tuple(sorted(row, key=lambda f: -f.activation)) for row in on_token)
