"""d. The section on scaling: FVU over the widths of a family, bands, and errors token by token."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from saeworks.measure import bootstrap
from saeworks.measure.audit.engine import SaeAudit, SiteAudit
from saeworks.measure.audit.pursuit import STARVED
from saeworks.measure.audit.scaling import (
    ABSENT,
    ENCODER,
    LINEAR,
    LINEAR_OR_ABSENT,
    NONLINEAR,
    PowerLaw,
    bands,
    power_law,
)
from saeworks.measure.audit.study import AuditStudy
from saeworks.measure.audit.widths import Norms, Sized
from saeworks.measure.audit.words import Sections, shown, side
from saeworks.results import figure
from saeworks.results.families import (
    SECTION,
    Curve,
    Family,
    FamilyMember,
    FvuPart,
    Law,
    LeftOut,
    NormPair,
)
from saeworks.results.metric import Metric, Value
from saeworks.results.section import Section

INKS = {
    NONLINEAR: figure.NONLINEAR,
    ENCODER: figure.ENCODER,
    LINEAR: figure.LINEAR,
    ABSENT: figure.ABSENT,
}
CURVE_POINTS, CURVE_BEYOND = 50, 4
"""The law is drawn from the narrowest SAE to so many times the widest."""


class Scaling(AuditStudy):
    """FVU over the widths of a family, the parts of each SAE's FVU, and errors token by token."""

    name = SECTION
    title = "Scaling"
    chapter = "widths"
    about = (
        "SAEs of one architecture, different widths W and about equal L0, on the same tokens. The"
        " law FVU(W) = c + a·W^(−m) is least squares of relative errors; what it says beyond the "
        "widths measured is an extrapolation. Bands: absent (FVU − c, what wider SAEs would "
        "recover by the law, taken to be linear as far as the linear part goes), the linear rest,"
        " FVU_nl with pursuit, and encoder error; null where the widths do not identify c. Per "
        "token: ‖e‖ of a wider SAE from ‖e‖ and ‖u‖ of a narrower one."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        "fvu_slope": Metric(
            "Slope of FVU", "d ln FVU/d ln W by least squares; 0: constant in width."
        ),
        "fvu_nonlinear_slope": Metric("Slope of FVU_nl", "d ln FVU_nl/d ln W by least squares."),
        "fvu_c": Metric("c", "FVU of infinite width by the law; of at least 3 widths."),
        "fvu_a": Metric("a", "Of the law."),
        "fvu_m": Metric("m", "Of the law."),
        "c_identified": Metric("c identified", "1 where the widths say what c is, else 0."),
        ABSENT: Metric("Absent", "FVU − c; null where c is not identified."),
        LINEAR: Metric("Linear", "FVU − FVU_nl − absent; null where c is not identified."),
        LINEAR_OR_ABSENT: Metric("Linear or absent", "FVU − FVU_nl."),
        NONLINEAR: Metric("Nonlinear", "FVU_nl with pursuit; FVU_nl where that was left out."),
        ENCODER: Metric(
            "Encoder error",
            "FVU_nl times what pursuit takes of it; null where left out or of too few tokens.",
        ),
    }

    @classmethod
    def sentences(cls, sections: Sections) -> tuple[str, ...]:
        """Over the widths that were audited together; never of those beyond."""
        slope = cls.value(sections, "fvu_nonlinear_slope")
        if slope.value is None:
            return ()
        words = {
            -1: "FVU_nl falls with width over the widths audited ({}); beyond them it may not",
            1: "FVU_nl rises with width over the widths audited ({}); beyond them it may not",
            0: "No clear change of FVU_nl with width over the widths audited ({}), which does not "
            "make it constant",
            None: "How FVU_nl changes with width over the widths audited is known as a point "
            "estimate only ({})",
        }
        return (f"{words[side(slope, 0.0)].format(f'd ln FVU_nl/d ln width {shown(slope)}')}.",)


@dataclass(frozen=True)
class FamilyScaling:
    """What a family shares at a site.

    Attributes:
        laws: metric → value, the same for all its SAEs.
        bands: of each SAE, metric → value.
        family: for charts; `own`, the index of the SAE whose section it is in, is set later.
    """

    laws: dict[str, Value]
    bands: tuple[dict[str, Value], ...]
    family: Family


def family_scaling(
    norms: Norms, saes: Mapping[str, SaeAudit], resamples: int, seed: int
) -> FamilyScaling:
    """Fit the law and the bands, with intervals from the same resamples of documents for all."""
    members = norms.family.members
    drawn = _draws([saes[sized.name] for sized in members], resamples, seed)
    fvu_DW, nonlinear_DW, documents = drawn.fvu_DW, drawn.nonlinear_DW, drawn.documents
    widths = [sized.width for sized in members]
    law = None
    if len(widths) >= 3 and np.isfinite(fvu_DW).all() and (fvu_DW > 0).all():
        law = power_law(widths, fvu_DW[0].tolist(), fvu_DW[1:], seed, documents)
    by_width = tuple(_bands(drawn, w, law) for w in range(len(widths)))
    laws = {
        "fvu_slope": bootstrap.interval(slope(widths, fvu_DW), documents),
        "fvu_nonlinear_slope": bootstrap.interval(slope(widths, nonlinear_DW), documents),
    }
    if law is not None:
        laws |= {"fvu_c": law.c, "fvu_a": law.a, "fvu_m": law.m}
        laws["c_identified"] = Value(float(law.identified))
    family = Family(
        arch=members[0].arch,
        saes=[
            member(
                sized,
                bootstrap.interval(fvu_DW[:, w], documents),
                bootstrap.interval(nonlinear_DW[:, w], documents),
                {key: value.value for key, value in by_width[w].items()},
            )
            for w, sized in enumerate(members)
        ],
        own=0,
        law=None if law is None else _drawn(law, widths),
        per_token=[NormPair(i, j, **pair) for (i, j), pair in norms.pairs(resamples, seed).items()],
        left_out=[
            LeftOut(Path(sized.name).name, sized.width, sized.l0, why)
            for sized, why in norms.family.left_out
        ],
    )
    return FamilyScaling(laws, by_width, family)


def member(
    sized: Sized, fvu: Value, nonlinear: Value, known: dict[str, float | None]
) -> FamilyMember:
    """A family's SAE as it is drawn, `known` being its bands."""
    parts = _parts(fvu, nonlinear, known.get(ENCODER) or 0.0, known.get(ABSENT))
    name = Path(sized.name).name
    return FamilyMember(name, sized.width, sized.l0, fvu, nonlinear, known, parts)


def _parts(fvu: Value, nonlinear: Value, encoder: float, absent: float | None) -> list[FvuPart]:
    if fvu.value is None or nonlinear.value is None:
        return []
    encoder = encoder if 0 < encoder < nonlinear.value else 0.0
    linear = fvu.value - nonlinear.value - (absent or 0.0)
    parts = {NONLINEAR: _about(nonlinear.value - encoder, nonlinear)}
    if encoder:
        parts[ENCODER] = Value(encoder)
    parts[LINEAR] = _about(linear, fvu) if absent is None else Value(linear)
    if absent is not None:
        parts[ABSENT] = _about(absent, fvu)
    return [FvuPart(key, INKS[key], value) for key, value in parts.items()]


def _about(part: float, whole: Value) -> Value:
    """A part, with the interval of the whole about it."""
    assert whole.value is not None
    shift = part - whole.value
    low, high = (None if end is None else end + shift for end in (whole.low, whole.high))
    return Value(part, low, high)


@dataclass(frozen=True)
class _Draws:
    """FVU, FVU_nl and encoder error [D, W], of rows of documents as `bootstrap` has them.

    Attributes:
        documents: the number of documents behind FVU and FVU_nl.
        pursued: the number of those in which pursuit was measured.
    """

    fvu_DW: NDArray[np.float64]
    nonlinear_DW: NDArray[np.float64]
    encoder_DW: NDArray[np.float64]
    documents: int
    pursued: int


def _draws(saes: list[SaeAudit], resamples: int, seed: int) -> _Draws:
    """The sums of all SAEs over the same documents.

    Pursuit knows fewer tokens than the others, so it gives the share of FVU_nl that it recovers and
    not a difference, which could be more than there is; NaN where they are too few for that, too.
    """
    columns: dict[tuple[int, str], NDArray[np.float64]] = {}
    for w, sae in enumerate(saes):
        split, pursuit = sae.sums("split"), sae.sums("pursuit")
        columns |= {(w, key): split[key] for key in ("variance", "e", "u")}
        for key in ("taken", "encoder_u", "pursuit_u"):
            columns[w, key] = pursuit.get(key, np.zeros_like(split["e"]))
    drawn = bootstrap.resampled(columns, saes[0].sums("split")["n"] > 0, resamples, seed)
    fvu, nonlinear, encoder = [], [], []
    for w in range(len(saes)):
        e, u, variance, taken, before, after = (
            drawn.sums[w, key] for key in ("e", "u", "variance", "taken", "encoder_u", "pursuit_u")
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            fvu.append(e / variance)
            nonlinear.append(u / variance)
            enough = before[0] / taken[0] <= STARVED * nonlinear[-1][0]
            encoder.append(nonlinear[-1] * (1 - after / before) if enough else np.nan * e)
    return _Draws(
        np.stack(fvu, axis=1),
        np.stack(nonlinear, axis=1),
        np.stack(encoder, axis=1),
        drawn.documents,
        min(int((columns[w, "taken"] > 0).sum()) for w in range(len(saes))),
    )


def slope(widths: list[int], fvu_DW: NDArray[np.float64]) -> NDArray[np.float64]:
    """d ln FVU/d ln W by least squares [D]; NaN where an FVU is 0."""
    x_W = np.log(np.asarray(widths, float))
    x_W -= x_W.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        slope_D: NDArray[np.float64] = np.log(fvu_DW) @ x_W / (x_W @ x_W)
    return slope_D


def _bands(drawn: _Draws, w: int, law: PowerLaw | None) -> dict[str, Value]:
    """`scaling.bands` of a width, with intervals; what is not known is null, and what pursuit has
    measured in too few documents has no interval."""
    fvu_D, nonlinear_D, encoder_D = (
        values_DW[:, w] for values_DW in (drawn.fvu_DW, drawn.nonlinear_DW, drawn.encoder_DW)
    )
    c_D = law.draws_R3[:, 0] if law is not None and law.identified else None
    measured = bool(np.isfinite(encoder_D[0]))
    shares = bands(fvu_D, nonlinear_D, encoder_D if measured else np.zeros_like(fvu_D), c_D)
    values = {ABSENT: Value(None), LINEAR: Value(None)}
    values |= {key: bootstrap.interval(shares[key], drawn.documents) for key in shares}
    if not measured:
        return values | {ENCODER: Value(None)}
    if drawn.pursued < bootstrap.FEWEST:
        values |= {key: Value(values[key].value) for key in (NONLINEAR, ENCODER)}
    return values


def _drawn(law: PowerLaw, widths: list[int]) -> Law:
    at = np.geomspace(widths[0], CURVE_BEYOND * widths[-1], CURVE_POINTS).round()
    curve = Curve(at.tolist(), [law(int(width)) for width in at])
    known = (law.identified, law.why, law.residual, law.scatter)
    return Law(law.c, law.a, law.m, *known, curve)


def scaling_sections(
    names: list[str], audits: Mapping[str, SiteAudit], resamples: int, seed: int
) -> dict[str, Section]:
    """SAE's bank → its section; none for banks that are compared nowhere."""
    sites: dict[str, dict[str, dict[str, Value]]] = {}
    series: dict[str, dict[str, dict[str, Any]]] = {}
    for site, audit in audits.items():
        for norms in audit.widths.norms:
            scaling = family_scaling(norms, audit.saes, resamples, seed)
            for at, sized in enumerate(norms.family.members):
                sites.setdefault(sized.name, {})[site] = {**scaling.laws, **scaling.bands[at]}
                series.setdefault(sized.name, {})[site] = asdict(replace(scaling.family, own=at))
    sections = {}
    for name in names:
        if name in sites:
            values = {
                site: sites[name].get(site, {}) for site, a in audits.items() if name in a.saes
            }
            sections[name] = Scaling.section(values, series[name])
    return sections
