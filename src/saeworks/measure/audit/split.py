"""c. The split of FVU into what is linear in x and what is not."""

from collections.abc import Mapping
from typing import ClassVar

from saeworks.measure.audit.measurement import Measurement
from saeworks.measure.bootstrap import Statistic
from saeworks.results.metric import Metric


class FvuSplit(Measurement):
    """FVU, FVU_nl = FVU of x̂ + ℓ, and the linear rest."""

    name = "split"
    title = "FVU split"
    about = (
        "FVU = Σ‖e‖²/Σ‖x − x̄‖² over the test tokens, x̄ of the fit documents. FVU_nl = "
        "Σ⟨u, u′⟩/Σ‖x − x̄‖² is that of x̂ + ℓ without the cost of fitting ℓ (see the vector "
        "probe): the part of the SAE's map that no affine map of x has, so shrinking x̂ alone "
        "lowers it (see shrinkage)."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        "fvu": Metric("FVU", "Σ‖e‖²/Σ‖x − x̄‖².", better="lower"),
        "fvu_nonlinear": Metric("FVU_nl", "Σ⟨u, u′⟩/Σ‖x − x̄‖²."),
        "fvu_linear": Metric("FVU linear", "FVU − FVU_nl."),
        "nonlinear_share": Metric("Nonlinear share", "FVU_nl/FVU; null where FVU is 0."),
    }

    def statistics(self) -> dict[str, Statistic]:
        return {
            "fvu": lambda s: s["e"] / s["variance"],
            "fvu_nonlinear": lambda s: s["u"] / s["variance"],
            "fvu_linear": lambda s: (s["e"] - s["u"]) / s["variance"],
            "nonlinear_share": lambda s: s["u"] / s["e"],
        }
