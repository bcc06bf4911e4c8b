"""The verdict: what the numbers of a site carry, in words, and nothing more.

A sentence takes a side only where the whole interval lies on that side. Without an interval it
gives the point estimate, and says neither a side nor that there is no clear difference.
"""

from collections.abc import Callable, Mapping
from math import isfinite

from saeworks.measure.audit.guard import degenerate
from saeworks.measure.audit.pursuit import STARVED
from saeworks.results.audit import Verdict
from saeworks.results.metric import Value

Sections = Mapping[str, Mapping[str, Value]]
"""Measurement → metric → value, at one site."""

COSTLY_FIT = 0.1
"""Above this fit cost the fitted maps say as much of the choice of tokens as of the SAE."""
NULL = 0.02
"""Above this R² on noise, the probe finds what is not there."""
NEXT_TO_NONE = 0.05
"""Below this share, of the error or of what is linear in it, a part is next to nothing."""
TOO_LARGE = 0.98
"""Below this α* x̂ is too large as a whole, which nobody calls shrinkage."""
BASELINES = {
    "r2_token": "the mean by token",
    "r2_loss": "the model's loss",
    "r2_l0": "L0",
    "r2_x_norm": "‖x‖²",
}
CONTROLS = {
    "scaled": "with x̂ rescaled as a whole",
    "per_latent": "with each latent rescaled",
    "affine": "after the best affine map of x̂",
}
"""Rungs of the shrinkage ladder, each a wider control than the one before."""
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


def verdict(sections: Sections) -> Verdict:
    """The sentences for one site, from its numbers alone."""
    trivial = degenerate(
        _get(sections, "split", "fvu").value,
        _get(sections, "vector", "r2_error").value,
        _get(sections, "shrinkage", "alpha").value,
    )
    if trivial:
        only = "Nothing else is claimed: the numbers of such an SAE say nothing of the model."
        return Verdict(trivial, (f"Degenerate: {trivial}.", only), ASSUMPTIONS)
    parts: tuple[Callable[[Sections], str | None], ...] = (
        doubt,
        _linear,
        _shrinkage,
        _nonlinear,
        _width,
        _pursuit,
        _by_chance,
        _attribution,
        _error_saes,
        _norm,
        _extractors,
        _adjacent,
        _downstream,
    )
    said = [sentence for part in parts if (sentence := part(sections))]
    return Verdict(None, tuple(said), ASSUMPTIONS)


def _get(sections: Sections, section: str, metric: str) -> Value:
    """A value; an interval that has lost an end, or has one that is no number, is none."""
    value = sections.get(section, {}).get(metric, Value(None))
    known = [end is not None and isfinite(end) for end in (value.value, value.low, value.high)]
    return value if all(known) else Value(value.value if known[0] else None)


def shown(value: Value) -> str:
    """`0.530 [0.510, 0.550]`, or `0.530 (point estimate)`."""
    return _with_interval(value, lambda x: f"{x:.3f}")


def percent(value: Value) -> str:
    """`53% [51%, 55%]`, with a decimal where it is small."""
    widest = max((abs(x) for x in (value.value, value.low, value.high) if x is not None), default=1)
    return _with_interval(value, lambda x: f"{x:.1%}" if widest < 0.1 else f"{x:.0%}")


def _with_interval(value: Value, text: Callable[[float], str]) -> str:
    def signed(x: float) -> str:
        found = text(x).replace("-", "−")
        return found.removeprefix("−") if not any(c in "123456789" for c in found) else found

    if value.value is None:
        return "undefined"
    if value.low is None or value.high is None:
        return f"{signed(value.value)} (point estimate)"
    return f"{signed(value.value)} [{signed(value.low)}, {signed(value.high)}]"


def side(value: Value, threshold: float) -> int | None:
    """1 or −1 where the whole interval is above or below, 0 where the threshold is in it; None
    where there is no interval."""
    if value.low is None or value.high is None:
        return None
    return int(value.low > threshold) - int(value.high < threshold)


def _minus(value: Value) -> Value:
    """−v, with its interval."""
    if value.value is None or value.low is None or value.high is None:
        return Value(None if value.value is None else -value.value)
    return Value(-value.value, -value.high, -value.low)


def doubt(sections: Sections) -> str | None:
    """What makes every other sentence doubtful."""
    said = [one for part in (_without_intervals, _unreliable) if (one := part(sections))]
    return " ".join(said) or None


def _without_intervals(sections: Sections) -> str | None:
    fvu = _get(sections, "split", "fvu")
    if fvu.value is None or fvu.low is not None:
        return None
    return (
        "No intervals: too few test documents, or no resamples were asked for. What follows are "
        "point estimates, which take no side."
    )


def _unreliable(sections: Sections) -> str | None:
    cost, noise = _get(sections, "vector", "fit_cost"), _get(sections, "null", "r2_noise")
    if cost.value is not None and cost.value > COSTLY_FIT:
        return (
            f"Too few tokens for firm numbers: fitting ℓ to them adds about {cost.value:.0%} or "
            "more to what it leaves. R² and FVU_nl are without that, but ℓ itself, what is put "
            "back into the model and what is fitted to u are not; audit more tokens."
        )
    if side(noise, NULL) == 1:
        return f"The probe finds R² {shown(noise)} in pure noise; the other R² are suspect."
    return None


def _linear(sections: Sections) -> str | None:
    r2 = _get(sections, "vector", "r2_error")
    words = {
        1: "More than half of the error is linear in x",
        -1: "Less than half of the error is linear in x",
        0: "Whether half of the error is linear in x is not settled",
        None: "What of the error is linear in x is known as a point estimate only",
    }
    said = words[side(r2, 0.5)]
    if side(r2, NEXT_TO_NONE) == -1:
        said = "Next to none of the error is linear in x"
    return f"{said}: an affine map of x predicts R² {shown(r2)} of its variance."


def _shrinkage(sections: Sections) -> str | None:
    """What R² would be without shrinkage. (R² of e ~ a·x does not say: it is FVU for any SAE whose
    error is orthogonal to its output, α* = 1.)"""
    if side(_get(sections, "vector", "r2_error"), 0.0) in (0, -1):
        return None
    found = [
        f"{shown(value)} {what}"
        for rung, what in CONTROLS.items()
        if (value := _get(sections, "shrinkage", f"r2_error_{rung}")).value is not None
    ]
    if not found:
        return None
    return (
        f"{_artefact(sections)}: R² would be {', '.join(found)}, each without the cost of its fit."
    )


def _artefact(sections: Sections) -> str:
    """How much of R² goes with the sharpest control of shrinkage that was measured."""
    per_latent = _get(sections, "shrinkage", "artefact_per_latent")
    scaled = _get(sections, "shrinkage", "artefact_scaled")
    share = scaled if per_latent.value is None else per_latent
    rung = "scaled" if per_latent.value is None else "per_latent"
    gone = _get(sections, "shrinkage", f"linear_gone_{rung}")
    alpha = _get(sections, "shrinkage", "alpha").value
    at = "" if alpha is None else f" (α* = {alpha:.3f})"
    what = "wrong scale" if alpha is not None and alpha < TOO_LARGE else "shrinkage"
    if share.value is None:
        return f"With {what} controlled for{at}"
    if side(share, 0.0) is None:
        return f"What of that is {what}{at} is known as a point estimate only, {percent(share)}"
    if side(share, 0.5) == 1:
        return f"Most of that, {percent(share)}, is {what}{at}"
    if side(gone, 0.5) == 1:  # so little is left that its R² does not say so
        return f"Rescaling mends most of the linear error, {percent(gone)}{at}"
    if side(share, NEXT_TO_NONE) == -1:
        return f"Next to none of that is {what}{at}"
    if side(share, 0.0) == 1:
        return f"Part of that, {percent(share)}, is {what}{at}"
    return f"How much of that is {what} is not settled, {percent(share)}{at}"


def _nonlinear(sections: Sections) -> str | None:
    fvu, nonlinear = (
        _get(sections, "split", "fvu"),
        _get(sections, "split", "fvu_nonlinear"),
    )
    scaled = _get(sections, "shrinkage", "fvu_nonlinear_scaled")
    rescaled = "" if scaled.value is None else f" ({shown(scaled)} with x̂ rescaled as a whole)"
    return f"Of FVU {shown(fvu)}, {shown(nonlinear)} is nonlinear in x{rescaled}."


def _width(sections: Sections) -> str | None:
    """Over the widths that were audited together; never of those beyond."""
    slope = _get(sections, "scaling", "fvu_nonlinear_slope")
    if slope.value is None:
        return None
    words = {
        -1: "FVU_nl falls with width over the widths audited ({}); beyond them it may not",
        1: "FVU_nl rises with width over the widths audited ({}); beyond them it may not",
        0: "No clear change of FVU_nl with width over the widths audited ({}), which does not "
        "make it constant",
        None: "How FVU_nl changes with width over the widths audited is known as a point estimate "
        "only ({})",
    }
    return f"{words[side(slope, 0.0)].format(f'd ln FVU_nl/d ln width {shown(slope)}')}."


def _pursuit(sections: Sections) -> str | None:
    total, nonlinear = (
        _get(sections, "pursuit", "fvu_change"),
        _get(sections, "pursuit", "fvu_nonlinear_change"),
    )
    if total.value is None:
        return None
    start = "Better inference with the same dictionary and L0 (gradient pursuit)"
    part = "" if _starved(sections) else f", FVU_nl by {percent(_minus(nonlinear))}"
    few = "; its tokens are too few to split that into linear and nonlinear"
    end = few if _starved(sections) else ""
    if side(total, 0.0) == -1:
        return f"{start} lowers FVU by {percent(_minus(total))}{part}{end}."
    if side(total, 0.0) == 1:
        return f"{start} raises FVU by {percent(total)}: it is no better than the encoder here."
    if side(total, 0.0) is None:
        return (
            f"{start} was measured on too few documents for an interval: whether it changes FVU "
            f"cannot be told ({percent(total)})."
        )
    return f"{start} does not clearly change FVU ({percent(total)})."


def _by_chance(sections: Sections) -> str | None:
    """Many atoms and few dimensions fit noise, too: only what is above that is the encoder's."""
    mended, chance = 0.0, 0.0
    for part in ("coefficients", "choice"):
        own = _get(sections, "attribution", part).value
        null = _get(sections, "attribution", f"{part}_chance").value
        if own is None or null is None:
            return None
        mended, chance = mended + own, chance + null
    if mended <= 0:
        return None
    much = "at least as much" if chance >= mended else f"{chance / mended:.0%} as much"
    return (
        "Refitted coefficients and latents chosen anew with the same L0 would mend "
        f"{much} of noise in the error's place, which is no fault of the encoder."
    )


def _starved(sections: Sections) -> bool:
    """Whether pursuit had too few tokens for an OLS of its own."""
    there = _get(sections, "pursuit", "fvu_nonlinear_encoder").value
    whole = _get(sections, "split", "fvu_nonlinear").value
    return there is None or whole is None or there > STARVED * whole


def _norm(sections: Sections) -> str | None:
    probe = _get(sections, "norm", "r2_error_norm")
    found = {
        name: value
        for name in BASELINES
        if (value := _get(sections, "norm", name)).value is not None
    }
    start = f"The size of the error, ‖e‖², is predicted linearly from x with R² {shown(probe)}"
    if not found or probe.value is None:
        return f"{start}."
    best = max(found, key=lambda name: found[name].value or 0.0)
    value, what = found[best], BASELINES[best]
    highs = [one.high for one in found.values() if one.high is not None]
    if probe.low is None or probe.high is None or len(highs) < len(found) or value.low is None:
        return f"{start}; the best baseline, {what}, has {shown(value)}."
    if probe.low > max(highs):
        return f"{start}, better than every baseline (best: {what}, {shown(value)})."
    if probe.high < value.low:
        return f"{start}, worse than {what} ({shown(value)})."
    return f"{start}, not clearly better than every baseline (best: {what}, {shown(value)})."


def _attribution(sections: Sections) -> str | None:
    """Only what is above what least squares mends of noise is called an error of coefficients."""
    rest = _get(sections, "attribution", "rest")
    whole = _get(sections, "attribution", "fvu")
    if rest.value is None or not whole.value:
        return None
    low, high = (None if end is None else end / whole.value for end in (rest.low, rest.high))
    share = Value(rest.value / whole.value, low, high)
    return (
        "Rescaled latents, refitted coefficients and latents chosen anew with the same L0 together "
        f"leave {percent(share)} of FVU: missing features, a dense part and wrong directions are "
        "in that, each of unknown size."
    )


def _error_saes(sections: Sections) -> str | None:
    """SAEs on ℓ and u; nothing of what they code is called a feature."""
    linear, nonlinear, apart = (
        _get(sections, "error_saes", metric) for metric in ("fvu_l", "fvu_u", "u_minus_l")
    )
    if linear.value is None or nonlinear.value is None:
        return None
    words = {
        1: "An SAE trained on ℓ reconstructs it better than one trained on u does u",
        -1: "An SAE trained on ℓ reconstructs it worse than one trained on u does u",
        0: "SAEs trained on ℓ and on u do not clearly differ in how well they reconstruct",
        None: "How SAEs trained on ℓ and on u differ is known as a point estimate only",
    }
    return (
        f"{words[side(apart, 0.0)]}: FVU {shown(linear)} and {shown(nonlinear)}, each of its own "
        "target; one SAE on each, and the seed of its training is in no interval."
    )


def _extractors(sections: Sections) -> str | None:
    """Nonlinear extractors of u from x; what they do not find may be there."""
    found = [
        (what, value)
        for section, what in (("mlp", "a small MLP"), ("wide", "a wide SAE without penalty"))
        if (value := _get(sections, section, "r2_u_best")).value is not None
    ]
    if not found:
        return None
    best = max(found, key=lambda one: one[1].value or 0.0)
    words = {
        1: "Part of u is predicted from x, by",
        0: "u is not clearly predicted from x by",
        -1: "u is not predicted from x by",
        None: "What of u is predicted from x is known as a point estimate only, by",
    }
    said = " and ".join(f"{what} (R² {shown(value)})" for what, value in found)
    more = "a larger one might do better" if len(found) == 1 else "larger ones might do better"
    return f"{words[side(best[1], 0.0)]} {said}; {more}."


def _adjacent(sections: Sections) -> str | None:
    """Of what the site before has: x̂, as in the paper, and u, which is often better."""
    found = {
        name: value
        for source, name in (("x_hat", "x̂"), ("u", "u"))
        if (value := _get(sections, "adjacent", f"r2_u_from_{source}")).value is not None
    }
    if not found:
        return None
    sides = [one for value in found.values() if (one := side(value, 0.0)) is not None]
    words = {
        1: "Part of u is linear in what the site before has",
        0: "u is not clearly linear in what the site before has",
        -1: "u is not linear in what the site before has",
        None: "What of u is linear in what the site before has is known as a point estimate only",
    }
    said = ", ".join(f"from its {name} R² {shown(value)}" for name, value in found.items())
    return f"{words[max(sides, default=None)]}: {said}."


def _beyond(value: Value, other: Value) -> tuple[int | None, int | None]:
    """The sides of the other's upper and lower end that the value is on."""
    if other.low is None or other.high is None:
        return None, None
    return side(value, other.high), side(value, other.low)


def _downstream(sections: Sections) -> str | None:
    gap, linear, nonlinear, share = (
        _get(sections, "downstream", metric)
        for metric in ("gap", "recovered_linear", "recovered_nonlinear", "squared_share_linear")
    )
    if linear.value is None or gap.value is None:
        return None
    if side(gap, 0.0) is None:
        return (
            f"The SAE's cost to the model's loss, {shown(gap)} nats, was measured on too few "
            "documents for an interval: whether it is above 0, and which part of the error causes "
            "it, cannot be told."
        )
    if side(gap, 0.0) != 1:
        return (
            f"The SAE's cost to the model's loss is not clearly above 0 ({shown(gap)} nats), so "
            "which part of the error causes it cannot be told."
        )
    found = (
        f"The SAE costs the model {shown(gap)} nats; putting ℓ back recovers {percent(linear)} of "
        f"that, putting u back {percent(nonlinear)} (the two need not add up)."
    )
    above, below = _beyond(linear, share)
    if above is None or below is None:
        return found
    words = {1: "more than", -1: "less than", 0: "not clearly different from"}
    apart = max(above, 0) + min(below, 0)
    return f"{found} What ℓ recovers is {words[apart]} its share of ‖e‖², {percent(share)}."
