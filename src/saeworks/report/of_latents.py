"""What studies say of single latents, gathered by latent for the browser."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from saeworks.report.numbers import rounded
from saeworks.report.suites import SuiteData
from saeworks.results.names import CONCEPTS, EXPLANATIONS
from saeworks.results.series import (
    EXPLAINED,
    OF_LATENTS,
    STEERED,
    Explained,
    Explanation,
    LatentConcept,
    LatentVerdict,
    SteeredConcept,
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

    for evaluation in suite.studies:
        if evaluation.partition("_")[0] == CONCEPTS:  # one of each source of labels
            for concept in suite.listed(evaluation, site, OF_LATENTS, LatentConcept):
                of(concept.latent).concepts.append((concept.concept, rounded(concept.f1)))
    for explained in suite.listed(EXPLANATIONS, site, EXPLAINED, Explained):
        metrics = suite.studies[EXPLANATIONS].metrics
        titles = {key: metric.title for key, metric in metrics.items()}
        of(explained.latent).explanations.extend(
            _explanation(one, titles) for one in explained.explanations
        )
    for verdict in suite.listed("study", site, OF_LATENTS, LatentVerdict):
        of(verdict.latent).verdicts.append((verdict.verdict, verdict.note, verdict.rater))
    for steered in suite.listed("steer", site, STEERED, SteeredConcept):
        for latent in steered.latents:
            of(latent).steered.extend(_steered(steered))
    for notes in latents.values():
        notes.concepts.sort(key=lambda pair: _falling(pair[1]))
        notes.explanations.sort(key=lambda e: _falling(e["scores"][0][1] if e["scores"] else None))
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


def _steered(concept: SteeredConcept) -> Iterator[dict[str, Any]]:
    """The first prompt's text untouched and at the strongest pushes up and down, each with the rate
    of the concept there."""
    before = next((text for text in concept.texts if text.by is None), None)
    rates = {
        point.strength: rounded(point.rate.value)
        for curve in concept.curves
        if curve.by == "latents"
        for point in curve.points
    }
    pushed = [
        text
        for text in concept.texts
        if text.by == "latents" and before is not None and text.prompt == before.prompt
    ]
    strengths = [text.strength for text in pushed]
    ends = {max(strengths), min(strengths)} if strengths else set()
    many = f" with {len(concept.latents) - 1} others" if len(concept.latents) > 1 else ""
    for text in pushed:
        if before is not None and text.strength in ends:
            yield {
                "edit": f"{concept.concept}: pushed by {text.strength:+g}{many}",
                "prompt": text.prompt,
                "before": before.text,
                "after": text.text,
                "effects": [
                    ("rate untouched", rates.get(0.0)),
                    ("rate pushed", rates.get(text.strength)),
                ],
            }
