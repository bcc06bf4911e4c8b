"""Numbers of a site from those of its latents, and the record of each latent.

Shapes: n latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saeworks.measure import bootstrap
from saeworks.measure.explaining.asking import ModelSaid
from saeworks.measure.explaining.config import ExplainConfig
from saeworks.measure.explaining.metrics import (
    AUROC,
    BALANCED,
    CONTEXT,
    CORRELATION,
    DIFFERENCE,
    EXPLAINED_LATENTS,
    F1,
    MODEL_DETECTION,
    MODEL_FUZZING,
    MODEL_LATENTS,
    PROGRAM_DETECTION,
    PROGRAM_FUZZING,
    RARE_SHARE,
    SHUFFLED_F1,
    TOKEN_F1,
    UNREADABLE,
)
from saeworks.measure.explaining.programs import OWN, SHUFFLED, TOKEN_ONLY, Scored
from saeworks.measure.explaining.readings import DrawnFirings
from saeworks.measure.explaining.scoring import accuracy
from saeworks.results.metric import Value
from saeworks.results.records import plain
from saeworks.results.series import DRAWN, EXPLAINED, Explained, Explanation, Score


@dataclass(frozen=True)
class OfSite:
    """What was found of the drawn latents at one site.

    Attributes:
        said: by the language model of each; None where it was not asked.
    """

    firings: DrawnFirings
    programs: Sequence[Scored]
    said: Sequence[ModelSaid | None] | None


def describe(config: ExplainConfig) -> str:
    """One sentence on the intervals."""
    return (
        "95%, of a site over the latents that were drawn, of a latent over the documents of the "
        f"judging half: Student's t on the jackknife, and percentiles of {config.bootstrap} "
        f"resamples, seed {config.seed}"
    )


def values(of_site: OfSite, config: ExplainConfig) -> dict[str, Value]:
    """Means over latents with intervals over latents, and counts."""
    scored, drawn = of_site.programs, of_site.firings.drawn
    live = drawn.width - drawn.dead
    detection = [accuracy(one.detection) for one in scored]
    of_latents = {
        F1: [one.f1[OWN] for one in scored],
        TOKEN_F1: [one.f1[TOKEN_ONLY] for one in scored],
        CONTEXT: [one.f1[OWN] - one.f1[TOKEN_ONLY] for one in scored],
        SHUFFLED_F1: [one.f1[SHUFFLED] for one in scored] if len(scored) > 1 else [],
        BALANCED: [one.balanced[OWN] for one in scored],
        AUROC: [one.auroc for one in scored],
        PROGRAM_DETECTION: detection,
        PROGRAM_FUZZING: [accuracy(one.fuzzing) for one in scored],
    }
    counted = {
        EXPLAINED_LATENTS: Value(float(len(scored))),
        RARE_SHARE: Value(drawn.rare / live if live else None),
    }
    if of_site.said is not None:
        counted |= _of_model(of_site.said, detection, config)
    return {key: mean(column, config) for key, column in of_latents.items()} | counted


def _of_model(
    said: Sequence[ModelSaid | None], by_program: Sequence[float], config: ExplainConfig
) -> dict[str, Value]:
    """The same of what the language model said, and both kinds side by side."""
    known = [(one, program) for one, program in zip(said, by_program, strict=True) if one]
    detection = [accuracy(one.detection) for one, _ in known]
    program = [of_program for _, of_program in known]
    difference = [own - other for own, other in zip(detection, program, strict=True)]
    return {
        MODEL_DETECTION: mean(detection, config),
        MODEL_FUZZING: mean([accuracy(one.fuzzing) for one, _ in known], config),
        DIFFERENCE: mean(difference, config),
        CORRELATION: correlation(program, detection, config),
        MODEL_LATENTS: Value(float(len(known))),
        UNREADABLE: mean([one.unreadable for one, _ in known], config),
    }


def mean(of_latent: Sequence[float], config: ExplainConfig) -> Value:
    """The mean over the latents that have a value, with its interval over latents."""
    known = np.array([value for value in of_latent if np.isfinite(value)])
    if not len(known):
        return Value(None)
    sums = {"sum": known, "n": np.ones(len(known))}
    return bootstrap.estimate(sums, {"": _mean}, config.bootstrap, config.seed)[""]


def _mean(s: bootstrap.Sums) -> np.ndarray:
    return np.asarray(s["sum"] / s["n"])


def correlation(x_n: Sequence[float], y_n: Sequence[float], config: ExplainConfig) -> Value:
    """Pearson's correlation over the latents that have both, with its interval over latents; no
    value of fewer than three, or where one of the two is the same for all."""
    both = np.array([(x, y) for x, y in zip(x_n, y_n, strict=True) if np.isfinite(x + y)])
    if len(both) < 3:
        return Value(None)
    x, y = (both - both.mean(0)).T
    sums = {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y, "n": np.ones(len(both))}
    return bootstrap.estimate(sums, {"": _pearson}, config.bootstrap, config.seed)[""]


def _pearson(s: bootstrap.Sums) -> np.ndarray:
    over = s["n"] * s["xy"] - s["x"] * s["y"]
    spread = (s["n"] * s["xx"] - s["x"] ** 2) * (s["n"] * s["yy"] - s["y"] ** 2)
    return np.asarray(np.where(spread > 1e-12, over / np.sqrt(np.maximum(spread, 1e-300)), np.nan))


def series(of_site: OfSite) -> dict[str, Any]:
    """The record of every drawn latent, and how they were drawn."""
    firings, said = of_site.firings, of_site.said or [None] * len(of_site.programs)
    each = zip(firings.latents, firings.rows, of_site.programs, said, strict=True)
    return {
        DRAWN: plain(firings.drawn),
        EXPLAINED: [
            plain(Explained(latent, len(rows), [_by_program(one), *_by_model(model)]))
            for latent, rows, one, model in each
        ],
    }


def _by_program(one: Scored) -> Explanation:
    of_f1, of_balanced = one.intervals
    scores: Mapping[str, Value] = {
        F1: of_f1,
        BALANCED: of_balanced,
        TOKEN_F1: Value(one.f1[TOKEN_ONLY]),
        AUROC: Value(one.auroc),
        PROGRAM_DETECTION: Value(accuracy(one.detection)),
        PROGRAM_FUZZING: Value(accuracy(one.fuzzing)),
    }
    return Explanation("program", one.text, [_score(*score) for score in scores.items()])


def _by_model(said: ModelSaid | None) -> list[Explanation]:
    if said is None:
        return []
    scores = {MODEL_DETECTION: accuracy(said.detection), MODEL_FUZZING: accuracy(said.fuzzing)}
    listed = [_score(metric, Value(value)) for metric, value in scores.items()]
    return [Explanation("model", said.text, listed)]


def _score(metric: str, value: Value) -> Score:
    """Rounded, for a small file; NaN is no value."""
    numbers = (value.value, value.low, value.high)
    kept = (None if n is None or not np.isfinite(n) else round(n, 4) for n in numbers)
    return Score(metric, *kept)
