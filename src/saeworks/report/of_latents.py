"""What studies say of single latents, gathered by latent for the browser."""

from dataclasses import dataclass, field
from typing import Any

from saeworks.report.numbers import rounded
from saeworks.report.suites import SuiteData
from saeworks.results.names import CONCEPTS, EXPLANATIONS
from saeworks.results.series import (
    EXPLAINED,
    OF_LATENTS,
    Explained,
    Explanation,
    LatentConcept,
    LatentSteered,
    LatentVerdict,
)


@dataclass
class LatentNotes:
    """What is said of one latent, as plain data for the page.

    Attributes:
        concepts: [name, F1], the best first.
        explanations: {by, text, scores: [[title, value, low, high], ...]}, the best first.
        verdicts: [verdict, note, rater].
        steered: {edit, prompt, before, after, effects: [[title, value], ...]}.
    """

    concepts: list[tuple[str, float | None]] = field(default_factory=list)
    explanations: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[tuple[str, str, str]] = field(default_factory=list)
    steered: list[dict[str, Any]] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """What there is."""
        return {name: value for name, value in vars(self).items() if value}

    @property
    def f1(self) -> float | None:
        """Of the concept that it detects best."""
        return self.concepts[0][1] if self.concepts else None

    @property
    def score(self) -> float | None:
        """The first of its best explanation."""
        scores = self.explanations[0]["scores"] if self.explanations else []
        return scores[0][1] if scores else None


def told(suite: SuiteData, site: str) -> dict[int, LatentNotes]:
    """All that is said of a site's latents, by number.

    Raises:
        UserError: if a result's list of latents is not what it should be.
    """
    latents: dict[int, LatentNotes] = {}

    def of(latent: int) -> LatentNotes:
        return latents.setdefault(latent, LatentNotes())

    for concept in suite.listed(CONCEPTS, site, OF_LATENTS, LatentConcept):
        of(concept.latent).concepts.append((concept.concept, rounded(concept.f1)))
    for explained in suite.listed(EXPLANATIONS, site, EXPLAINED, Explained):
        metrics = suite.studies[EXPLANATIONS].metrics
        titles = {key: metric.title for key, metric in metrics.items()}
        of(explained.latent).explanations.extend(
            _explanation(one, titles) for one in explained.explanations
        )
    for verdict in suite.listed("study", site, OF_LATENTS, LatentVerdict):
        of(verdict.latent).verdicts.append((verdict.verdict, verdict.note, verdict.rater))
    for steered in suite.listed("steer", site, OF_LATENTS, LatentSteered):
        of(steered.latent).steered.append(_steered(steered))
    for one in latents.values():
        one.concepts.sort(key=lambda pair: _falling(pair[1]))
        one.explanations.sort(key=lambda e: _falling(e["scores"][0][1] if e["scores"] else None))
    return latents


def _falling(value: float | None) -> float:
    """A sort key: the largest first, what is unknown last."""
    return 1.0 if value is None else -value


def _explanation(one: Explanation, titles: dict[str, str]) -> dict[str, Any]:
    scores = [
        (
            titles.get(score.metric, score.metric),
            *map(rounded, (score.value, score.low, score.high)),
        )
        for score in one.scores
    ]
    return {"by": one.by, "text": one.text, "scores": scores}


def _steered(one: LatentSteered) -> dict[str, Any]:
    return {
        "edit": one.edit,
        "prompt": one.prompt,
        "before": one.before,
        "after": one.after,
        "effects": [(title, rounded(effect)) for title, effect in one.effects.items()],
    }
