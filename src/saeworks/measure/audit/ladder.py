"""j. The norm ladder: which squared norms are linear in x."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from saeworks.measure.audit.fits import Parts, square
from saeworks.measure.audit.least_squares import Factor
from saeworks.measure.audit.measurement import Measurement, NormProbe, Place
from saeworks.measure.bootstrap import Statistic
from saeworks.results.figure import Figure, Trace
from saeworks.results.metric import Metric

RUNGS = {"x": "x", "x_hat": "x̂", "x_hat_u": "x̂ + u", "e": "e", "l": "ℓ", "u": "u"}


class NormLadder(Measurement):
    """R² of OLS of ‖v‖² on x, for v = x, x̂, x̂ + u, e, ℓ, u."""

    name = "ladder"
    title = "Norm ladder"
    chapter = "norms"
    about = (
        "OLS of ‖v‖² on x, fitted on the second fold (the maps behind ℓ and u are fitted on the "
        "first), measured on the test documents, less (rank + 1)/tokens of what the fit leaves: "
        "its cost, where tokens are independent. Engels et al. 2024 expect it to fall in this "
        "order."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        f"r2_norm_{key}": Metric(f"R² of ‖{name}‖²", f"x → ‖{name}‖².")
        for key, name in RUNGS.items()
    }

    figures = (
        Figure(
            "ladder",
            "line",
            tuple(Trace(f"‖{name}‖²", f"r2_norm_{key}") for key, name in RUNGS.items()),
            "R² of squared norms",
            "sites",
        ),
    )

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.probe = NormProbe(tuple(RUNGS), place)

    def _norms(self, parts: Parts) -> dict[str, Tensor]:
        x_hat_ND = parts.rows.x_hat_ND
        vectors = {
            "x": parts.rows.x_ND,
            "x_hat": x_hat_ND,
            "x_hat_u": x_hat_ND + parts.u_ND,
            "e": parts.e_ND,
            "l": parts.l_ND,
            "u": parts.u_ND,
        }
        return {key: square(v_ND) for key, v_ND in vectors.items()}

    def second(self, parts: Parts) -> None:
        self.probe.add(parts.rows.shifted_ND, self._norms(parts))

    def seconded(self, factor: Factor) -> None:
        self.probe.solve(factor)

    def test(self, parts: Parts) -> dict[str, Tensor]:
        return self.probe.test(parts.rows.x_ND, self._norms(parts))

    def statistics(self) -> dict[str, Statistic]:
        return {f"r2_norm_{key}": self.probe.statistic(key) for key in RUNGS}
