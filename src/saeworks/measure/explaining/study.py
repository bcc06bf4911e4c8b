"""Explanations of latents: a program for each, and, where a server is asked, a language model's.

Shapes: n latents.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, final

from saeworks.measure.engine import Measured, Study, Subject
from saeworks.measure.explaining.asking import Asking, Contexts, LatentContexts, ModelSaid
from saeworks.measure.explaining.config import ExplainConfig
from saeworks.measure.explaining.endpoint import Endpoint
from saeworks.measure.explaining.findings import findings
from saeworks.measure.explaining.metrics import (
    AUROC,
    BALANCED,
    DIFFERENCE,
    EXPLAINED_LATENTS,
    F1,
    METRICS,
    MODEL_DETECTION,
    MODEL_FUZZING,
    MODEL_LATENTS,
    MODEL_METRICS,
    PROGRAM_DETECTION,
    PROGRAM_FUZZING,
    RARE_SHARE,
    SHUFFLED_F1,
    TOKEN_F1,
)
from saeworks.measure.explaining.predicates import predicates
from saeworks.measure.explaining.programs import Programs
from saeworks.measure.explaining.readings import DrawnFirings, FiredByHalf, Halves, Traced
from saeworks.measure.explaining.stretches import Stretches, sample, shown
from saeworks.measure.explaining.summary import OfSite, describe, series, values
from saeworks.measure.known import Truth
from saeworks.measure.progress import Tracker, silent
from saeworks.measure.studies.pieces import Pieces
from saeworks.results.figure import Axis, Figure, Trace
from saeworks.results.names import EXPLANATIONS
from saeworks.results.result import Result

Place = tuple[str, str]
"""A bank and a site of it."""


def _over_sites(id: str, title: str, traces: Sequence[Trace], caption: str) -> Figure:
    return Figure(id, "line", tuple(traces), title, y=Axis("score", least=(0, 1)), caption=caption)


PROGRAMS_FIGURE = _over_sites(
    "explained-by-programs",
    "How well programs explain latents",
    (
        Trace("programs", F1),
        Trace("the token alone", TOKEN_F1, ink=1),
        Trace("another latent's program", SHUFFLED_F1, ink=6),
    ),
    "F1 of programs on documents that they were not fitted on. What lies between the first two "
    "lines is what left context, place and concepts add to the token itself; the last is what is "
    "reached without knowing the latent.",
)
BOTH_FIGURE = _over_sites(
    "explained-by-both",
    "Programs and a language model on the same contexts",
    (
        Trace("program, detection", PROGRAM_DETECTION),
        Trace("model, detection", MODEL_DETECTION, ink=1),
        Trace("program, fuzzing", PROGRAM_FUZZING, mark="lines"),
        Trace("model, fuzzing", MODEL_FUZZING, ink=1, mark="lines"),
    ),
    "Balanced accuracy; one half is chance.",
)


@final
class Explain(Study):
    """Programs for latents of every SAE, fitted on one half of the documents and judged on the
    other, beside programs that may ask for the token alone and other latents' programs; and, with
    an endpoint, a language model's explanations of the same latents, on the same contexts.

    Args:
        truth: the concepts of the kept tokens.
        say: where lines about costs go.
    """

    name = EXPLANATIONS
    title = "What explains single latents"
    metrics: ClassVar = METRICS
    headline = (
        F1,
        TOKEN_F1,
        SHUFFLED_F1,
        BALANCED,
        AUROC,
        PROGRAM_DETECTION,
        MODEL_DETECTION,
        DIFFERENCE,
        PROGRAM_FUZZING,
        MODEL_FUZZING,
        EXPLAINED_LATENTS,
        MODEL_LATENTS,
        RARE_SHARE,
    )
    figures = (PROGRAMS_FIGURE,)

    def __init__(
        self,
        subject: Subject,
        config: ExplainConfig,
        truth: Truth | None = None,
        progress: Tracker = silent,
        endpoint: Endpoint | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.subject, self.config, self.truth, self.progress = subject, config, truth, progress
        self.endpoint, self._say = endpoint, say or (lambda line: None)
        self.held_out = subject.held_out(config.tokens)
        self.halves = Halves.of(self.held_out, config.seed)
        fired = FiredByHalf(subject.banks, self.held_out, self.halves, subject.lm.device)
        self.traced = Traced(fired, config)
        self.readings = (self.traced,)

    def results(self) -> dict[str, Measured]:
        stretches = Stretches.of(self.held_out, self.halves.fitting_R)
        pieces = Pieces(self.subject.lm.tokenizer)
        places = [(name, site) for name, bank in self.subject.banks.items() for site in bank]
        firings = {place: self.traced.trace(*place) for place in places}
        contexts = {place: self._contexts(stretches, firings[place], place[1]) for place in places}
        every = predicates(self.held_out, pieces.piece, self.truth)
        programs = Programs(every, self.held_out, self.halves, stretches, self.config)
        total = sum(len(of.latents) for of in firings.values())
        with self.progress("programs", total, "latents") as tick:
            scored = {
                place: programs.scored(firings[place], [of.sample for of in contexts[place]], tick)
                for place in places
            }
        said = self._asked(contexts, Contexts(stretches, pieces))
        found = {place: OfSite(firings[place], scored[place], said.get(place)) for place in places}
        return {
            name: Measured(self._result({site: found[name, site] for site in bank}))
            for name, bank in self.subject.banks.items()
        }

    def _contexts(
        self, stretches: Stretches, firings: DrawnFirings, site: str
    ) -> list[LatentContexts]:
        """The contexts of each drawn latent."""
        config, made = self.config, []
        asked = self.endpoint.config.shown if self.endpoint is not None else 0
        each = zip(firings.latents, firings.rows, firings.values, strict=True)
        for latent, rows, activations in each:
            seed = (config.seed, zlib.crc32(site.encode()), latent)
            given = shown(stretches, rows, activations, asked, seed) if asked else []
            scored = sample(stretches, rows, config.contexts, seed)
            made.append(LatentContexts(rows, activations, given, scored))
        return made

    def _asked(
        self, contexts: Mapping[Place, Sequence[LatentContexts]], texts: Contexts
    ) -> dict[Place, list[ModelSaid | None]]:
        """What the language model said: of the first latent at every place first, so that all
        places have as many where the budget ends it."""
        if self.endpoint is None:
            return {}
        asking, config = Asking(self.endpoint, texts), self.endpoint.config
        order = sorted(
            ((slot, place) for place, of in contexts.items() for slot in range(len(of))),
            key=lambda item: item[0],
        )
        asked = [contexts[place][slot] for slot, place in order]
        estimate = asking.estimate(asked)
        self._say(f"To explain {len(asked):,} latents: about {estimate.words(config)}")
        if config.estimate:
            return {}
        money = estimate.money(config)
        if config.budget is not None and money is not None and money > config.budget:
            self._say(f"The budget of {config.budget:g} will end it before; a later run goes on")
        with self.progress("language model", len(asked), "latents") as tick:
            answers = asking.said(asked, tick)
        self._say(f"Spent: {self.endpoint.bill.spent.words(config)}")
        if self.endpoint.uncounted:
            self._say(
                f"The server did not count the tokens of {self.endpoint.uncounted:,} answers: they "
                "are taken at the most that they can be"
            )
        of_place: dict[Place, list[ModelSaid | None]] = {place: [] for place in contexts}
        for (_, place), answer in zip(order, answers, strict=True):
            of_place[place].append(answer)
        return of_place

    def _result(self, of_sites: Mapping[str, OfSite]) -> Result:
        config = self.config
        numbers = {site: values(of_site, config) for site, of_site in of_sites.items()}
        by_model = any(of_site.said is not None for of_site in of_sites.values())
        about = {"intervals": describe(config), "concepts_known": self.truth is not None}
        if by_model and self.endpoint is not None:
            about["model_asked"] = self.endpoint.about()
        result = self.result(
            config,
            self.held_out,
            numbers,
            {site: series(of_site) for site, of_site in of_sites.items()},
            METRICS | MODEL_METRICS if by_model else METRICS,
            about,
            findings=findings(numbers, {site: of.firings.drawn for site, of in of_sites.items()}),
        )
        return replace(result, figures=(PROGRAMS_FIGURE, BOTH_FIGURE)) if by_model else result
