"""An audit that was never made: the file a report reads, with plausible numbers."""

import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from saeworks.measure.audit.adjacent import AdjacentSites
from saeworks.measure.audit.attribution import Attribution
from saeworks.measure.audit.downstream import Downstream
from saeworks.measure.audit.error_saes import ErrorSaes
from saeworks.measure.audit.ladder import NormLadder
from saeworks.measure.audit.mlp import MlpProbe
from saeworks.measure.audit.noise import NullTargets
from saeworks.measure.audit.norm import NormProbeOfError, tenths
from saeworks.measure.audit.positions import ErrorByPosition
from saeworks.measure.audit.pursuit import Pursuit
from saeworks.measure.audit.scaling_section import Scaling, member
from saeworks.measure.audit.shrinkage import ShrinkageLadder
from saeworks.measure.audit.split import FvuSplit
from saeworks.measure.audit.study import AuditStudy
from saeworks.measure.audit.synthetic import SyntheticTest
from saeworks.measure.audit.vector import VectorProbe
from saeworks.measure.audit.verdict import concluded
from saeworks.measure.audit.wide import WideSae
from saeworks.measure.audit.widths import Sized
from saeworks.measure.audit.zeroing import DENSE, SHARES, SIGMAS, Zeroing, summarised
from saeworks.results.audit import AuditResult, Fold
from saeworks.results.families import Curve, Family, Law, LeftOut, NormPair
from saeworks.results.metric import Value

KINDS: dict[str, type[AuditStudy]] = {
    kind.name: kind
    for kind in (
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
        Downstream,
        Scaling,
        ErrorSaes,
    )
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
    "r2_expected": -0.01,
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
ALONE = ("alpha", "rank", "condition", "fit_cost", "r2_expected")
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
    kinds = {name: kind for name, kind in KINDS.items() if name != Scaling.name or widths}
    values = {
        site: {name: _values(kind, gain * (1 + 0.2 * at), rng) for name, kind in kinds.items()}
        for at, site in enumerate(sites)
    }
    sections = {
        name: kind.section(
            {site: values[site][name] for site in sites},
            {site: made for site in sites if (made := _series(name, rng, widths))},
        )
        for name, kind in kinds.items()
    }
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
        **concluded(sections),
    )


def _values(kind: type[AuditStudy], gain: float, rng: random.Random) -> dict[str, Value]:
    found = {}
    for metric in kind.metrics:
        mean = MEANS.get(metric, 0.3 + 0.3 * rng.random())
        if metric.startswith("r2_norm_"):
            mean = FALLS[metric.removeprefix("r2_norm_")]
        if metric.startswith("fvu") and not metric.endswith(("change", "slope")):
            mean *= gain
        found[metric] = Value(mean) if metric in ALONE else number(mean)
    if kind is Downstream:
        share = found["squared_share_linear"]
        low, high = (None if end is None else 1 - end for end in (share.high, share.low))
        found["squared_share_nonlinear"] = Value(1 - (share.value or 0.0), low, high)
    return found


def _series(name: str, rng: random.Random, widths: Sequence[int]) -> dict[str, Any]:
    if name == "norm":
        predicted = [rng.gauss(0.2, 0.08) for _ in range(200)]
        actual = [max(0.0, p + rng.gauss(0, 0.06)) for p in predicted]
        return {
            "of_tokens": 10_000,
            "predicted": predicted,
            "actual": actual,
            "range": [min(predicted), max(predicted)],
            "tenths": tenths(np.array(predicted), np.array(actual)),
        }
    if name == "positions":
        return {
            "first_position": [0, 1, 2, 4, 8],
            "position": [1, 2, 3, 5, 9],
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
    sigmas = list(SIGMAS)
    activation: list[Any] = [[[a + share for _ in sigmas] for a in sigmas] for share in SHARES]
    reconstruction = [[list(sigmas) for _ in sigmas] for _ in SHARES]
    activation[-1][-1] = [None] * len(sigmas)
    grid = {"recovered_activation": activation, "recovered_reconstruction": reconstruction}
    dense = {name: {"recovered_activation": [0.0, 0.8, None, None, None]} for name in DENSE}
    return {
        "zeroed": list(SHARES),
        "sigmas": sigmas,
        "unit": 0.1,
        **grid,
        "dense": dense,
        **summarised(grid, list(SHARES)),
    }


def _scaling(widths: Sequence[int]) -> dict[str, Any]:
    saes = [
        member(
            Sized(f"width-{width}", "topk", width, 32.0),
            number(0.05 + 4 / width**0.5),
            number(0.04 + 1 / width**0.5),
            {
                "absent": 3 / width**0.5,
                "linear": 0.01,
                "linear_or_absent": 0.01 + 3 / width**0.5,
                "nonlinear": 0.03 + 1 / width**0.5,
                "encoder": 0.01,
            },
        )
        for width in widths
    ]
    curve = [float(widths[0] * 2**n) for n in range(8)]
    law = Law(
        number(0.05),
        number(4.0),
        number(0.5),
        identified=True,
        why="identified within [0.04, 0.06] if the law holds beyond the widths",
        residual=0.0,
        scatter=0.0,
        curve=Curve(curve, [0.05 + 4 / width**0.5 for width in curve]),
    )
    pairs = [(i, j) for j in range(len(widths)) for i in range(j)]
    return asdict(
        Family(
            "topk",
            saes,
            own=0,
            law=law,
            per_token=[NormPair(i, j, *[number(0.5 + 0.1 * i)] * 3) for i, j in pairs],
            left_out=[LeftOut("other", 64, 90.0, "its L0 is another")],
        )
    )
