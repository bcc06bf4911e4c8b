"""The verdict: what the numbers of a site carry, in words, and nothing more.

Every study says its own; what spans studies is here: an SAE of which nothing can be said, doubts
about every number, and the order.
"""

from collections.abc import Mapping
from typing import Any

from saeworks.measure.audit import extractor
from saeworks.measure.audit.adjacent import AdjacentSites
from saeworks.measure.audit.attribution import Attribution
from saeworks.measure.audit.downstream import Downstream
from saeworks.measure.audit.error_saes import ErrorSaes
from saeworks.measure.audit.fvu_parts import FvuParts
from saeworks.measure.audit.guard import degenerate
from saeworks.measure.audit.mlp import MlpProbe
from saeworks.measure.audit.noise import R2_NOISE, NullTargets
from saeworks.measure.audit.norm import NormProbeOfError
from saeworks.measure.audit.pursuit import Pursuit
from saeworks.measure.audit.scaling_section import Scaling
from saeworks.measure.audit.shrinkage import ALPHA, ShrinkageLadder
from saeworks.measure.audit.split import FvuSplit
from saeworks.measure.audit.study import AuditStudy
from saeworks.measure.audit.vector import FIT_COST, R2_ERROR, VectorProbe
from saeworks.measure.audit.wide import WideSae
from saeworks.measure.audit.words import Sections, shown, side
from saeworks.results.audit import Verdict
from saeworks.results.headlines import FVU
from saeworks.results.section import Section

COSTLY_FIT = 0.1
"""Above this fit cost the fitted maps say as much of the choice of tokens as of the SAE."""
NULL = 0.02
"""Above this R² on noise, the probe finds what is not there."""
ASSUMPTIONS = (
    "ℓ is the best affine map of x, fitted on other documents of this text; u is the rest. Neither "
    "is a set of features: reading ℓ as features the SAE has not learned, or u as errors it makes, "
    "needs the weak linear representation hypothesis, which may be false.",
    "u is the nonlinear part of the SAE's own map. Wrong directions, wrong coefficients, missing "
    "features and a dense part can each be behind it; these numbers alone do not tell them apart.",
    "Every number is about these SAEs on this text. What another width than those audited, another "
    "L0 or another seed would give is not in it.",
    "Intervals are 95%, over test documents, with every fitted map held fixed; a number that was "
    "measured on too few documents has none, and is called a point estimate.",
)
FIRST: tuple[type[AuditStudy], ...] = (
    VectorProbe,
    ShrinkageLadder,
    FvuSplit,
    Scaling,
    Pursuit,
    Attribution,
    ErrorSaes,
    NormProbeOfError,
)
"""Studies whose sentences come before the one on all extractors, in this order."""
LAST: tuple[type[AuditStudy], ...] = (AdjacentSites, Downstream)


def verdict(sections: Sections) -> Verdict:
    """The sentences for one site, from its numbers alone."""
    trivial = why_degenerate(sections)
    if trivial:
        only = "Nothing else is claimed: the numbers of such an SAE say nothing of the model."
        return Verdict(trivial, (f"Degenerate: {trivial}.", only), ASSUMPTIONS)
    doubts = doubt(sections)
    sentences = [
        *([doubts] if doubts else []),
        *(line for study in FIRST for line in study.sentences(sections)),
        *extractor.sentences(sections, (MlpProbe, WideSae)),
        *(line for study in LAST for line in study.sentences(sections)),
    ]
    return Verdict(None, tuple(sentences), ASSUMPTIONS)


def concluded(sections: Mapping[str, Section]) -> dict[str, Any]:
    """Sections and verdicts of an `AuditResult`: what its measurements tell together."""
    by_site = {
        site: {name: section.sites.get(site, {}) for name, section in sections.items()}
        for site in sections[FvuSplit.name].sites
    }
    parts = FvuParts.section({site: FvuParts.of(values) for site, values in by_site.items()}, {})
    return {
        "sections": {**sections, FvuParts.name: parts},
        "verdicts": {site: verdict(values) for site, values in by_site.items()},
    }


def why_degenerate(sections: Sections) -> str | None:
    """Why the decomposition says nothing at a site; None where it does."""
    return degenerate(
        FvuSplit.value(sections, FVU).value,
        VectorProbe.value(sections, R2_ERROR).value,
        ShrinkageLadder.value(sections, ALPHA).value,
    )


def doubt(sections: Sections) -> str | None:
    """What makes every other sentence doubtful."""
    doubts = [line for part in (_without_intervals, _unreliable) if (line := part(sections))]
    return " ".join(doubts) or None


def _without_intervals(sections: Sections) -> str | None:
    fvu = FvuSplit.value(sections, FVU)
    if fvu.value is None or fvu.low is not None:
        return None
    return (
        "No intervals: too few test documents, or no resamples were asked for. What follows are "
        "point estimates, which take no side."
    )


def _unreliable(sections: Sections) -> str | None:
    cost, noise = VectorProbe.value(sections, FIT_COST), NullTargets.value(sections, R2_NOISE)
    if cost.value is not None and cost.value > COSTLY_FIT:
        return (
            f"Too few tokens for firm numbers: fitting ℓ to them adds about {cost.value:.0%} or "
            "more to what it leaves. R² and FVU_nl are without that, but ℓ itself, what is put "
            "back into the model and what is fitted to u are not; audit more tokens."
        )
    if side(noise, NULL) == 1:
        return f"The probe finds R² {shown(noise)} in pure noise; the other R² are suspect."
    return None
