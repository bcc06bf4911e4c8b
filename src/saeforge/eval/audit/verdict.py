"""The verdict: what the numbers of a site carry, in words, and nothing more.

A sentence takes a side only where the whole interval lies on that side; without an interval it says
that it is a point estimate.
"""

from collections.abc import Callable, Mapping

from saeforge.eval.audit.guard import degenerate
from saeforge.eval.audit.result import Verdict
from saeforge.eval.result import Value

Sections = Mapping[str, Mapping[str, Value]]
"""Measurement → metric → value, at one site."""

COSTLY_FIT = 0.1
"""Above this fit cost the R² of a probe says more of the number of tokens than of the SAE."""
NULL = 0.02
"""Above this R² on noise, the probe finds what is not there."""
BASELINES = {
    "r2_token": "the mean by token",
    "r2_loss": "the model's loss",
    "r2_l0": "L0",
    "r2_x_norm": "‖x‖²",
}
ASSUMPTIONS = (
    "ℓ is the best affine map of x fitted on other documents of this text, u the rest; neither "
    "is a set of missing features. Reading them so needs the weak linear representation "
    "hypothesis, which may be false.",
    "u is the nonlinear part of the SAE's own map: it may come from wrong directions, wrong "
    "coefficients, missing features or a dense part, and this audit alone does not tell which.",
    "Intervals are over test documents with every fitted map held fixed.",
)


def verdict(sections: Sections) -> Verdict:
    """The sentences for one site, from its numbers alone."""
    trivial = degenerate(
        _get(sections, "split", "fvu").value,
        _get(sections, "vector", "r2_error").value,
        _get(sections, "shrinkage", "alpha").value,
    )
    if trivial:
        only = "Nothing else is claimed: for such an SAE u ≈ 0 and R² ≈ 1 whatever the model."
        return Verdict(trivial, (f"Degenerate: {trivial}.", only), ASSUMPTIONS)
    parts: tuple[Callable[[Sections], str | None], ...] = (
        _unreliable,
        _linear,
        _shrinkage,
        _norm,
        _nonlinear,
        _pursuit,
        _mlp,
        _adjacent,
        _downstream,
    )
    said = [sentence for part in parts if (sentence := part(sections))]
    return Verdict(None, tuple(said), ASSUMPTIONS)


def _get(sections: Sections, section: str, metric: str) -> Value:
    return sections.get(section, {}).get(metric, Value(None))


def shown(value: Value) -> str:
    """`0.53 [0.51, 0.55]`, or `0.53 (point estimate)`."""
    if value.value is None:
        return "undefined"
    if value.low is None or value.high is None:
        return f"{value.value:.3f} (point estimate)"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def side(value: Value, threshold: float) -> int:
    """1 or −1 where the whole interval is above or below, else 0."""
    if value.low is None or value.high is None:
        return 0
    return int(value.low > threshold) - int(value.high < threshold)


def _unreliable(sections: Sections) -> str | None:
    """What makes every other sentence doubtful."""
    cost, noise = _get(sections, "vector", "fit_cost"), _get(sections, "null", "r2_noise")
    if cost.value is not None and cost.value > COSTLY_FIT:
        return (
            f"Too few tokens for firm numbers: the fit alone loses about {cost.value:.2f} of "
            "R², so R² is understated and FVU_nl overstated; audit more tokens."
        )
    if side(noise, NULL) == 1:
        return f"The probe finds R² {shown(noise)} in pure noise; the other R² are suspect."
    return None


def _linear(sections: Sections) -> str | None:
    r2 = _get(sections, "vector", "r2_error")
    words = {
        1: "More than half of the error's variance is linear in x",
        -1: "Less than half of the error's variance is linear in x",
        0: "Whether half of the error's variance is linear in x is not settled",
    }
    return f"{words[side(r2, 0.5)]}: R² {shown(r2)}."


def _shrinkage(sections: Sections) -> str | None:
    scalar, full = (
        _get(sections, "shrinkage", "r2_scalar"),
        _get(sections, "shrinkage", "r2_full"),
    )
    affine, share = (
        _get(sections, "shrinkage", "r2_error_affine"),
        _get(sections, "shrinkage", "shrinkage_share"),
    )
    if full.value is None or scalar.value is None or side(full, 0.0) != 1:
        return None
    words = {
        1: "Most of what is linear is plain shrinkage",
        -1: "Less than half of what is linear is plain shrinkage",
        0: "How much of what is linear is plain shrinkage is not settled",
    }
    return (
        f"{words[side(share, 0.5)]}: one scalar explains R² {shown(scalar)} of the "
        f"{full.value:.3f}. Of the error that is left after the best affine map of x̂, R² "
        f"{shown(affine)} is linear in x."
    )


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
    if probe.low is None or probe.high is None or value.low is None or value.high is None:
        return f"{start}; the best baseline, {what}, has {shown(value)}."
    if probe.low > value.high:
        return f"{start}, better than every baseline (best: {what}, {shown(value)})."
    if probe.high < value.low:
        return f"{start}, worse than {what} ({shown(value)})."
    return f"{start}, not clearly different from {what} ({shown(value)})."


def _nonlinear(sections: Sections) -> str | None:
    fvu, nonlinear = (
        _get(sections, "split", "fvu"),
        _get(sections, "split", "fvu_nonlinear"),
    )
    scaled = _get(sections, "shrinkage", "fvu_nonlinear_scaled")
    return (
        f"Of FVU {shown(fvu)}, {shown(nonlinear)} is nonlinear in x ({shown(scaled)} once x̂ is "
        "rescaled by α*)."
    )


def _pursuit(sections: Sections) -> str | None:
    total, nonlinear = (
        _get(sections, "pursuit", "fvu_change"),
        _get(sections, "pursuit", "fvu_nonlinear_change"),
    )
    if total.value is None:
        return None
    words = {
        -1: "Gradient pursuit with the same dictionary and L0 lowers the FVU",
        1: "Gradient pursuit with the same dictionary and L0 raises the FVU",
        0: "Gradient pursuit with the same dictionary and L0 does not clearly change the FVU",
    }
    return (
        f"{words[side(total, 0.0)]} (relative change {shown(total)}; of FVU_nl {shown(nonlinear)})."
    )


def _mlp(sections: Sections) -> str | None:
    found = _get(sections, "mlp", "r2_u_best")
    if found.value is None:
        return None
    words = {
        1: "Part of u is predicted from x by a small MLP",
        0: "A small MLP does not clearly predict any of u from x",
        -1: "A small MLP trained on these tokens predicts none of u",
    }
    return f"{words[side(found, 0.0)]} (R² {shown(found)}, best of the widths tried)."


def _adjacent(sections: Sections) -> str | None:
    found = _get(sections, "adjacent", "r2_u_from_x_hat")
    if found.value is None:
        return None
    words = {
        1: "The SAE output of the site before predicts part of u linearly",
        0: "The SAE output of the site before does not clearly predict u linearly",
        -1: "The SAE output of the site before does not predict u linearly",
    }
    return f"{words[side(found, 0.0)]} (R² {shown(found)})."


def _downstream(sections: Sections) -> str | None:
    linear, nonlinear = (
        _get(sections, "downstream", "recovered_linear"),
        _get(sections, "downstream", "recovered_nonlinear"),
    )
    if linear.value is None:
        return None
    return (
        f"Putting ℓ back closes {shown(linear)} of the model's loss gap, putting u back "
        f"{shown(nonlinear)}."
    )
