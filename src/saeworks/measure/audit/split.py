"""c. The split of FVU into what is linear in x and what is not."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from torch import Tensor

from saeworks.activations.offset import FAR_FROM_ORIGIN
from saeworks.measure.audit.fits import Parts, square
from saeworks.measure.audit.measurement import Measurement
from saeworks.measure.audit.shrinkage import NONLINEAR_SCALED, ShrinkageLadder
from saeworks.measure.audit.words import Sections, shown, side
from saeworks.measure.bootstrap import Statistic
from saeworks.results.figure import Figure, Trace
from saeworks.results.headlines import FVU, FVU_NONLINEAR
from saeworks.results.metric import Metric

FVU_LINEAR, NONLINEAR_SHARE, OFF_CENTRE = "fvu_linear", "nonlinear_share", "off_centre"


class FvuSplit(Measurement):
    """FVU, FVU_nl = FVU of x̂ + ℓ, and the linear rest."""

    name = "split"
    title = "FVU split"
    chapter = "parts"
    about = (
        "FVU = Σ‖e‖²/Σ‖x − x̄‖² over the test tokens, x̄ of the fit documents. FVU_nl = "
        "Σ⟨u, u′⟩/Σ‖x − x̄‖² is that of x̂ + ℓ without the cost of fitting ℓ (see the vector "
        "probe): the part of the SAE's map that no affine map of x has, so shrinking x̂ alone "
        "lowers it (see shrinkage)."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        FVU: Metric("FVU", "Σ‖e‖²/Σ‖x − x̄‖².", better="lower"),
        FVU_NONLINEAR: Metric("FVU_nl", "Σ⟨u, u′⟩/Σ‖x − x̄‖²."),
        FVU_LINEAR: Metric("FVU linear", "FVU − FVU_nl."),
        NONLINEAR_SHARE: Metric("Nonlinear share", "FVU_nl/FVU; null where FVU is 0."),
        OFF_CENTRE: Metric(
            "‖μ‖/‖σ‖",
            "√(E‖x‖²/E‖x − x̄‖² − 1): how long the activations' mean is beside how far they vary. "
            f"From about {FAR_FROM_ORIGIN:g} on, SAEs that were trained without centring have dead "
            "latents or a higher FVU.",
        ),
    }

    headline: ClassVar[Mapping[str, str]] = {FVU: "FVU", FVU_NONLINEAR: "FVU_nl"}
    figures = tuple(
        Figure(
            key.replace("_", "-"), "line", (Trace(metric=key),), lines="suites", chapter="layers"
        )
        for key in (FVU, FVU_NONLINEAR, OFF_CENTRE)
    )

    def test(self, parts: Parts) -> dict[str, Tensor]:
        return {"x_squared": square(parts.rows.x_ND)}

    def statistics(self) -> dict[str, Statistic]:
        return {
            FVU: lambda s: s["e"] / s["variance"],
            FVU_NONLINEAR: lambda s: s["u"] / s["variance"],
            FVU_LINEAR: lambda s: (s["e"] - s["u"]) / s["variance"],
            NONLINEAR_SHARE: lambda s: s["u"] / s["e"],
            OFF_CENTRE: lambda s: np.sqrt(np.maximum(s["x_squared"] / s["variance"] - 1, 0)),
        }

    @classmethod
    def sentences(cls, sections: Sections) -> tuple[str, ...]:
        fvu, nonlinear = cls.value(sections, FVU), cls.value(sections, FVU_NONLINEAR)
        scaled = ShrinkageLadder.value(sections, NONLINEAR_SCALED)
        rescaled = "" if scaled.value is None else f" ({shown(scaled)} with x̂ rescaled as a whole)"
        split = f"Of FVU {shown(fvu)}, {shown(nonlinear)} is nonlinear in x{rescaled}."
        offset = cls.value(sections, OFF_CENTRE)
        if side(offset, FAR_FROM_ORIGIN) != 1:
            return (split,)
        return (
            split,
            f"The activations' mean is longer than their spread, ‖μ‖/‖σ‖ {shown(offset)}: an SAE "
            "that was trained without centring is likely to have dead latents.",
        )
