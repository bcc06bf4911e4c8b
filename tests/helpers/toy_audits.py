"""An audit that was never made: the file a report reads, with plausible numbers."""

import random
from collections.abc import Sequence
from typing import Any

from saeworks.measure.audit.adjacent import AdjacentSites
from saeworks.measure.audit.attribution import Attribution
from saeworks.measure.audit.downstream import Downstream
from saeworks.measure.audit.ladder import NormLadder
from saeworks.measure.audit.mlp import MlpProbe
from saeworks.measure.audit.noise import NullTargets
from saeworks.measure.audit.norm import NormProbeOfError
from saeworks.measure.audit.positions import ErrorByPosition
from saeworks.measure.audit.pursuit import Pursuit
from saeworks.measure.audit.scaling_section import Scaling
from saeworks.measure.audit.shrinkage import ShrinkageLadder
from saeworks.measure.audit.split import FvuSplit
from saeworks.measure.audit.synthetic import SyntheticTest
from saeworks.measure.audit.vector import VectorProbe
from saeworks.measure.audit.verdict import verdict
from saeworks.measure.audit.wide import WideSae
from saeworks.measure.audit.zeroing import Zeroing
from saeworks.results.audit import AuditResult, Fold
from saeworks.results.metric import Metric, Value
from saeworks.results.section import Section

KINDS = (
    VectorProbe,
    NormProbeOfError,
    FvuSplit,
    ShrinkageLadder,
    NormLadder,
    NullTargets,
    SyntheticTest,
    ErrorByPosition,
    AdjacentSites,
    Pursuit,
    Attribution,
    Zeroing,
    MlpProbe,
    WideSae,
)
DESCRIBED = {kind.name: (kind.title, kind.about, dict(kind.metrics)) for kind in KINDS} | {
    "downstream": ("Downstream", "", Downstream.metrics),
    "scaling": ("Scaling", "", Scaling.metrics),
    "error_saes": (
        "SAEs on the error",
        "",
        {f"fvu_{part}": Metric(f"FVU on {part}", "") for part in "elu"},
    ),
}
MEANS = {
    "fvu": 0.2,
    "fvu_nonlinear": 0.08,
    "fvu_linear": 0.12,
    "alpha": 1.04,
    "rank": 128.0,
    "condition": 900.0,
    "fit_cost": 0.01,
    "r2_shuffled": -0.01,
    "r2_noise": -0.01,
    "fvu_change": -0.04,
    "fvu_nonlinear_change": -0.02,
    "fvu_nonlinear_encoder": 0.08,
    "gap": 0.1,
    "fvu_nonlinear_slope": -0.1,
    "absent": 0.05,
    "scale": 0.01,
    "coefficients": 0.04,
    "coefficients_chance": 0.01,
    "choice": -0.01,
    "choice_chance": 0.03,
    "rest": 0.16,
}
ALONE = ("alpha", "rank", "condition", "fit_cost")
FALLS = {"x": 0.9, "x_hat": 0.88, "x_hat_u": 0.87, "e": 0.6, "l": 0.7, "u": 0.4}


def number(mean: float, half: float = 0.05) -> Value:
    """With an interval about it."""
    return Value(mean, mean - abs(half * mean), mean + abs(half * mean))


def audit(
    sites: Sequence[str], gain: float = 1.0, seed: int = 0, widths: Sequence[int] = ()
) -> AuditResult:
    """Everything of every site.

    Args:
        gain: of FVU, to tell suites apart.
        widths: of a family that was audited together, by the names `width-<W>`; the first is own.
    """
    rng = random.Random(seed)
    names = [name for name in DESCRIBED if name != "scaling" or widths]
    values = {
        site: {name: _values(name, gain * (1 + 0.2 * at), rng) for name in names}
        for at, site in enumerate(sites)
    }
    sections = {}
    for name in names:
        title, about, metrics = DESCRIBED[name]
        sections[name] = Section(
            title,
            about,
            dict(metrics),
            {site: values[site][name] for site in sites},
            {site: made for site in sites if (made := _series(name, rng, widths))},
        )
    return AuditResult(
        title="Audit",
        config={"tokens": 40_000},
        tokens=10_000,
        documents=130,
        folds={
            "fit": Fold(20_000, 260),
            "second": Fold(10_000, 130),
            "test": Fold(10_000, 130),
        },
        sections=sections,
        verdicts={site: verdict(found) for site, found in values.items()},
    )


def _values(name: str, gain: float, rng: random.Random) -> dict[str, Value]:
    found = {}
    for metric in DESCRIBED[name][2]:
        mean = MEANS.get(metric, 0.3 + 0.3 * rng.random())
        if metric.startswith("r2_norm_"):
            mean = FALLS[metric.removeprefix("r2_norm_")]
        if metric.startswith("fvu") and not metric.endswith(("change", "slope")):
            mean *= gain
        found[metric] = Value(mean) if metric in ALONE else number(mean)
    return found


def _series(name: str, rng: random.Random, widths: Sequence[int]) -> dict[str, Any]:
    if name == "norm":
        predicted = [rng.gauss(0.2, 0.08) for _ in range(200)]
        actual = [max(0.0, p + rng.gauss(0, 0.06)) for p in predicted]
        return {"of_tokens": 10_000, "predicted": predicted, "actual": actual}
    if name == "positions":
        return {
            "first_position": [0, 1, 2, 4, 8],
            "tokens": [10, 20, 40, 80, 100],
            "fvu": [0.4, 0.3, 0.25, 0.2, 0.2],
            "fvu_nonlinear": [0.2, 0.15, 0.1, 0.08, None],
        }
    if name in ("mlp", "wide"):
        widths = [32, 128, 512] if name == "mlp" else [4, 16, 64]
        return {"widths": widths, "best": widths[-1], "steps": 500, "tokens": 4096}
    if name == "zeroing":
        return _zeroing()
    return _scaling(widths) if name == "scaling" else {}


def _zeroing() -> dict[str, Any]:
    """Noise inferred grows with what is left out; the largest is not inferred at all."""
    zeroed, sigmas = [0.0, 0.3, 0.5], [0.0, 1.0, 2.0]
    activation: list[list[list[float | None]]] = [
        [[a + share for _ in sigmas] for a in sigmas] for share in zeroed
    ]
    reconstruction = [[list(sigmas) for _ in sigmas] for _ in zeroed]
    activation[-1][-1] = [None, None, None]
    return {
        "zeroed": zeroed,
        "removed": [0.0, 0.01, 0.02],
        "sigmas": sigmas,
        "unit": 0.1,
        "recovered_activation": activation,
        "recovered_reconstruction": reconstruction,
        "dense": {
            name: {"recovered_activation": [0.0, 0.8, None]} for name in ("curved", "correlated")
        },
    }


def _scaling(widths: Sequence[int]) -> dict[str, Any]:
    saes = [
        {
            "suite": f"width-{width}",
            "width": width,
            "l0": 32.0,
            "fvu": _plain(0.05 + 4 / width**0.5),
            "fvu_nonlinear": _plain(0.04 + 1 / width**0.5),
            "bands": {
                "absent": 3 / width**0.5,
                "linear": 0.01,
                "linear_or_absent": 0.01 + 3 / width**0.5,
                "nonlinear": 0.03 + 1 / width**0.5,
                "encoder": 0.01,
            },
        }
        for width in widths
    ]
    curve = [widths[0] * 2**n for n in range(8)]
    law = {
        "c": _plain(0.05),
        "a": _plain(4.0),
        "m": _plain(0.5),
        "identified": True,
        "why": "identified within [0.04, 0.06] if the law holds beyond the widths",
        "residual": 0.0,
        "curve": {"width": curve, "fvu": [0.05 + 4 / width**0.5 for width in curve]},
    }
    pairs = [(i, j) for j in range(len(widths)) for i in range(j)]
    keys = ("r2", "r2_with_nonlinear", "added_percent")
    return {
        "arch": "topk",
        "own": 0,
        "saes": saes,
        "law": law,
        "per_token": [
            {"from": i, "to": j} | {key: _plain(0.5 + 0.1 * i) for key in keys} for i, j in pairs
        ],
        "left_out": [{"suite": "other", "width": 64, "l0": 90.0, "why": "its L0 is another"}],
    }


def _plain(mean: float) -> dict[str, float]:
    return {"value": mean, "low": 0.95 * mean, "high": 1.05 * mean}
