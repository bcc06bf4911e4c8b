"""Explanations of latents: a program for each, and, where a server is asked, a language model's.

Shapes: n latents.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from saeworks.measure import bootstrap
from saeworks.measure.engine import Measured, Study, Subject
from saeworks.measure.explaining.config import ExplainConfig
from saeworks.measure.explaining.findings import findings
from saeworks.measure.explaining.metrics import (
    AUROC,
    BALANCED,
    CONTEXT,
    EXPLAINED_LATENTS,
    F1,
    METRICS,
    PROGRAM_DETECTION,
    PROGRAM_FUZZING,
    RARE_SHARE,
    SHUFFLED_F1,
    TOKEN_F1,
)
from saeworks.measure.explaining.predicates import predicates
from saeworks.measure.explaining.programs import OWN, SHUFFLED, TOKEN_ONLY, Programs, Scored
from saeworks.measure.explaining.readings import DrawnFirings, FiredByHalf, Halves, Traced
from saeworks.measure.explaining.scoring import accuracy
from saeworks.measure.explaining.stretches import Sample, Stretches, sample
from saeworks.measure.known import Truth
from saeworks.measure.progress import Tracker, silent
from saeworks.measure.studies.pieces import Pieces
from saeworks.results.figure import Axis, Figure, Trace
from saeworks.results.metric import Value
from saeworks.results.names import EXPLANATIONS
from saeworks.results.records import plain
from saeworks.results.series import DRAWN, EXPLAINED, Explained, Explanation, Score


def _over_latents(title: str, trace: Sequence[Trace], name: str, caption: str) -> Figure:
    return Figure(
        f"explanations-{name}",
        "line",
        tuple(trace),
        title,
        lines="traces",
        y=Axis("score", least=(0, 1)),
        caption=caption,
    )


@dataclass(frozen=True)
class OfSite:
    """What was found at one site."""

    trace: DrawnFirings
    programs: list[Scored]


@final
class Explain(Study):
    """Programs for latents of every SAE, fitted on one half of the documents and judged on the
    other, beside programs that may ask for the token alone and other latents' programs."""

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
        PROGRAM_FUZZING,
        EXPLAINED_LATENTS,
        RARE_SHARE,
    )
    figures = (
        _over_latents(
            "How well programs explain latents",
            (
                Trace("programs", F1),
                Trace("the token alone", TOKEN_F1, ink=1),
                Trace("another latent's program", SHUFFLED_F1, ink=6),
            ),
            "programs",
            "F1 of programs on documents that they were not fitted on. What lies between the first "
            "two lines is what left context, place and concepts add to the token itself; the last "
            "is what is reached without knowing the latent.",
        ),
    )

    def __init__(
        self,
        subject: Subject,
        config: ExplainConfig,
        truth: Truth | None = None,
        progress: Tracker = silent,
    ) -> None:
        self.subject, self.config, self.truth, self.progress = subject, config, truth, progress
        self.held_out = subject.held_out(config.tokens)
        self.halves = Halves.of(self.held_out, config.seed)
        fired = FiredByHalf(subject.banks, self.held_out, self.halves, subject.lm.device)
        self.traced = Traced(fired, config)
        self.readings = (self.traced,)

    def results(self) -> dict[str, Measured]:
        stretches = Stretches.of(self.held_out, self.halves.fitting_R)
        pieces = Pieces(self.subject.lm.tokenizer)
        every = predicates(self.held_out, pieces.piece, self.truth)
        programs = Programs(every, self.held_out, self.halves, stretches, self.config)
        places = [(name, site) for name, bank in self.subject.banks.items() for site in bank]
        traces = {place: self.traced.trace(*place) for place in places}
        found: dict[tuple[str, str], OfSite] = {}
        total = sum(len(trace.latents) for trace in traces.values())
        with self.progress("programs", total, "latents") as tick:
            for place, trace in traces.items():
                samples = self._samples(stretches, trace, place[1])
                found[place] = OfSite(trace, programs.scored(trace, samples, tick))
        return {
            name: Measured(self._result({site: found[name, site] for site in bank}))
            for name, bank in self.subject.banks.items()
        }

    def _samples(self, stretches: Stretches, trace: DrawnFirings, site: str) -> list[Sample]:
        seed = (self.config.seed, zlib.crc32(site.encode()))
        return [
            sample(stretches, rows, self.config.contexts, (*seed, latent))
            for latent, rows in zip(trace.latents, trace.rows, strict=True)
        ]

    def _result(self, of_sites: Mapping[str, OfSite]) -> Any:
        config = self.config
        values = {site: _values(of_site, config) for site, of_site in of_sites.items()}
        series = {site: _series(of_site) for site, of_site in of_sites.items()}
        concepts = self.truth is not None
        about = {"intervals": describe(config), "concepts_known": concepts}
        return self.result(
            config,
            self.held_out,
            values,
            series,
            about=about,
            findings=findings(values, {site: of.trace.drawn for site, of in of_sites.items()}),
        )


def describe(config: ExplainConfig) -> str:
    """One sentence on the intervals."""
    return (
        f"95%, of sites over the latents that were drawn, of a latent over the documents of the "
        f"judging half: Student's t on the jackknife, and percentiles of {config.bootstrap} "
        f"resamples, seed {config.seed}"
    )


def mean(of_latent: Sequence[float], config: ExplainConfig) -> Value:
    """The mean over latents that have a value, with its interval over latents."""
    known = np.array([value for value in of_latent if np.isfinite(value)])
    if not len(known):
        return Value(None)
    sums = {"sum": known, "n": np.ones(len(known))}
    statistic = {"mean": lambda s: s["sum"] / s["n"]}
    return bootstrap.estimate(sums, statistic, config.bootstrap, config.seed)["mean"]


def _values(of_site: OfSite, config: ExplainConfig) -> dict[str, Value]:
    scored, drawn = of_site.programs, of_site.trace.drawn
    live = drawn.width - drawn.dead
    of_latents = {
        F1: [one.f1[OWN] for one in scored],
        TOKEN_F1: [one.f1[TOKEN_ONLY] for one in scored],
        CONTEXT: [one.f1[OWN] - one.f1[TOKEN_ONLY] for one in scored],
        SHUFFLED_F1: [one.f1[SHUFFLED] for one in scored] if len(scored) > 1 else [],
        BALANCED: [one.balanced[OWN] for one in scored],
        AUROC: [one.auroc for one in scored],
        PROGRAM_DETECTION: [accuracy(one.detection) for one in scored],
        PROGRAM_FUZZING: [accuracy(one.fuzzing) for one in scored],
    }
    return {key: mean(values, config) for key, values in of_latents.items()} | {
        EXPLAINED_LATENTS: Value(float(len(scored))),
        RARE_SHARE: Value(drawn.rare / live if live else None),
    }


def _series(of_site: OfSite) -> dict[str, Any]:
    trace = of_site.trace
    return {
        DRAWN: plain(trace.drawn),
        EXPLAINED: [
            plain(Explained(latent, len(rows), [_explanation(one)]))
            for latent, rows, one in zip(trace.latents, trace.rows, of_site.programs, strict=True)
        ],
    }


def _explanation(one: Scored) -> Explanation:
    of_f1, of_balanced = one.intervals
    scores = [
        _score(F1, of_f1),
        _score(BALANCED, of_balanced),
        _score(TOKEN_F1, Value(one.f1[TOKEN_ONLY])),
        _score(AUROC, Value(one.auroc)),
        _score(PROGRAM_DETECTION, Value(accuracy(one.detection))),
        _score(PROGRAM_FUZZING, Value(accuracy(one.fuzzing))),
    ]
    return Explanation("program", one.text, scores)


def _score(metric: str, value: Value) -> Score:
    numbers = (value.value, value.low, value.high)
    return Score(
        metric, *(None if one is None or not np.isfinite(one) else round(one, 4) for one in numbers)
    )
