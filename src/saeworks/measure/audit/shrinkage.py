"""Control: how much of what is linear is an artefact of shrinkage.

With x̂' = A x̂ + b in the place of x̂, the nonlinear error is A u: an affine map commutes with OLS.
With every latent rescaled it does not; the linear part is then fitted again, on the second fold.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeworks.measure.audit.fits import (
    Fit,
    Parts,
    dot,
    square,
)
from saeworks.measure.audit.least_squares import Affine, Factor
from saeworks.measure.audit.measurement import (
    CONSTANT,
    Measurement,
    NormProbe,
    Place,
    r_squared,
)
from saeworks.measure.audit.moments import Cross
from saeworks.measure.audit.norm import R2_NORM
from saeworks.measure.audit.vector import NEXT_TO_NONE, R2_ERROR, VectorProbe
from saeworks.measure.audit.words import Sections, percent, shown, side
from saeworks.measure.bootstrap import Statistic, Sums
from saeworks.results.figure import Axis, Figure, Trace
from saeworks.results.headlines import FVU_NONLINEAR
from saeworks.results.metric import Metric, Value

RUNGS = {
    "as_is": "x̂ as the SAE gives it",
    "scaled": "α*x̂ + c, the best single scale and bias",
    "per_latent": "Σ s_m f_m D_m + c, the best scale of each latent and bias",
    "affine": "A x̂ + b, the best affine map of x̂",
}
SHORT = {"as_is": "x̂", "scaled": "α*x̂ + c", "per_latent": "per latent", "affine": "A x̂ + b"}
"""The rungs, on an axis."""
NESTED = {"r2_scalar": "a·x", "r2_diagonal": "diag·x", "r2_full": "B·x"}
"""Maps of x, each a case of the next."""
CONTROLS = {
    "scaled": "with x̂ rescaled as a whole",
    "per_latent": "with each latent rescaled",
    "affine": "after the best affine map of x̂",
}
"""Rungs that control shrinkage, each more widely than the one before."""
ALPHA, NONLINEAR_SCALED = "alpha", "fvu_nonlinear_scaled"
TOO_LARGE = 0.98
"""Below this α* x̂ is too large as a whole, which nobody calls shrinkage."""


def _metrics() -> dict[str, Metric]:
    metrics = {
        ALPHA: Metric("α*", "Of min Σ‖x − αx̂ − c‖²; above 1: the SAE shrinks.", better="one"),
        "r2_scalar": Metric("R² of e ~ a·x + c", "One scalar for all dimensions."),
        "r2_diagonal": Metric("R² of e ~ diag·x + c", "One scalar for each dimension."),
        "r2_full": Metric("R² of e ~ B·x + c", "The vector probe."),
        "shrinkage_share": Metric(
            "Share of R² that is one scalar",
            "R² of e ~ a·x + c over R² of e ~ B·x + c. No measure of shrinkage: where α* = 1, x̂ is "
            "uncorrelated with e, and R² of e ~ a·x + c is the FVU.",
        ),
    }  # fmt: skip
    metrics |= {
        f"artefact_{rung}": Metric(
            f"Share of R² that goes ({rung})",
            f"1 − R² of e with {RUNGS[rung]}, over R² of e as it is: what of the linear "
            "predictability the rescaling takes away.",
        )
        for rung in CONTROLS
    } | {
        f"linear_gone_{rung}": Metric(
            f"Share of the linear error that goes ({rung})",
            f"1 − (FVU − FVU_nl) with {RUNGS[rung]}, over the same as it is. Where rescaling "
            "mends nearly all of an error, R² of what is left says little, and this is the number.",
        )
        for rung in CONTROLS
    }
    for rung, what in RUNGS.items():
        metrics |= {
            f"fvu_{rung}": Metric(f"FVU {rung}", f"Of {what}."),
            f"fvu_nonlinear_{rung}": Metric(f"FVU_nl {rung}", f"Of {what}."),
            f"r2_error_{rung}": Metric(f"R² of e {rung}", f"x → the error of {what}."),
            f"r2_error_norm_{rung}": Metric(
                f"R² of ‖e‖² {rung}", f"x → squared error of {what}; fitted on the second fold."
            ),
        }
    return metrics


def _figures() -> tuple[Figure, ...]:
    """The main numbers over the layers; then every rung, a line per site, and the maps of x."""
    kinds = {
        R2_ERROR: "R² of e, by recalibration",
        R2_NORM: "R² of ‖e‖², by recalibration",
        FVU_NONLINEAR: "FVU_nl, by recalibration",
    }
    rungs = {
        title: tuple(Trace(name, f"{kind}_{rung}") for rung, name in SHORT.items())
        for kind, title in kinds.items()
    }
    nested = tuple(Trace(name, key) for key, name in NESTED.items())
    steps = rungs | {"R² of e, of nested maps of x": nested}
    return (
        Figure(
            "recalibrated",
            "line",
            (Trace(metric="r2_error_affine"),),
            "R² of e, x̂ recalibrated",
            lines="suites",
            chapter="layers",
        ),
        Figure(
            "alpha",
            "line",
            (Trace(metric=ALPHA),),
            lines="suites",
            y=Axis(least=(0.95, 1.05)),
            chapter="layers",
        ),
        *(
            Figure(f"rungs-{at}", "line", traces, title, "sites")
            for at, (title, traces) in enumerate(steps.items())
        ),
    )


class ShrinkageLadder(Measurement):
    """Every probe at x̂, at α*x̂ + c, with each latent rescaled, and at A x̂ + b; and e ~ scalar,
    diagonal, full map of x."""

    name = "shrinkage"
    title = "Shrinkage ladder"
    chapter = "shrinkage"
    about = (
        "FVU_nl(αx̂) = α²·FVU_nl(x̂), so an SAE that shrinks has a smaller nonlinear error and "
        "a more predictable one. What stays at α*x̂ + c, with each latent rescaled (fitted on some "
        "tokens of the fit fold) and at the affine recalibration is no such artefact."
    )
    metrics: ClassVar[Mapping[str, Metric]] = _metrics()
    headline: ClassVar[Mapping[str, str]] = {
        "r2_error_scaled": "R² e,\nα*x̂",
        "r2_error_affine": "R² e,\nA x̂ + b",
        ALPHA: "α*",
    }
    figures = _figures()

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._alpha: float | None = None
        self._cross: Cross | None = None
        self._map: Affine | None = None
        self._seen = 0
        self._means: dict[str, Tensor] = {}

    def fitted(self, fit: Fit) -> None:
        self._alpha = fit.alpha
        self._names = [rung for rung in RUNGS if rung != "per_latent" or fit.codes is not None]
        self.probe = NormProbe(tuple(self._names), self.place)
        if fit.codes is not None:
            self._cross = Cross(self.place.d, self.place.d, self.place.device)

    def _errors(self, parts: Parts) -> dict[str, Tensor]:
        """Rung → its error, centred as on the fit fold."""
        fit, rows = parts.fit, parts.rows
        x_ND = rows.x_ND - fit.linear.x_mean_D
        x_hat_ND = rows.x_hat_ND - fit.x_hat_mean_D
        errors = {"as_is": parts.e_ND - fit.linear.y_mean_V}
        if fit.codes is not None:
            assert rows.code is not None
            errors["per_latent"] = rows.x_ND - fit.codes.rescaled(rows.code)
        if fit.alpha is None or fit.affine is None:  # x̂ is constant: the best map gives the mean
            return errors | {"scaled": x_ND, "affine": x_ND}
        errors["scaled"] = x_ND - fit.alpha * x_hat_ND
        errors["affine"] = x_ND - x_hat_ND @ fit.affine.weight_DV
        return errors

    def _nonlinear(self, parts: Parts, errors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rung → ⟨u, u′⟩ of its error; with each latent rescaled, ‖u′‖²: that is fitted once."""
        fit, nonlinear = parts.fit, {"as_is": parts.common["u"]}
        if self._map is not None:
            linear_ND = self._map(parts.rows.x_ND)
            nonlinear["per_latent"] = square(errors["per_latent"] - linear_ND)
        if fit.alpha is None or fit.affine is None:
            none_N = torch.zeros_like(nonlinear["as_is"])
            return nonlinear | {"scaled": none_N, "affine": none_N}
        assert parts.again_ND is not None
        nonlinear["scaled"] = fit.alpha**2 * nonlinear["as_is"]
        weight_DD = fit.affine.weight_DV
        nonlinear["affine"] = dot(parts.u_ND @ weight_DD, parts.again_ND @ weight_DD)
        return nonlinear

    def _norms(self, parts: Parts, errors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The squared norm of each rung's error: as it is, with its bias."""
        norms = {rung: square(e_ND) for rung, e_ND in errors.items()}
        return norms | {"as_is": square(parts.e_ND)}

    def _residuals(self, parts: Parts, errors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What multiples of x leave of e as it is."""
        x_ND = parts.rows.x_ND - parts.fit.linear.x_mean_D
        return {
            "scalar": errors["as_is"] - parts.fit.scalar * x_ND,
            "diagonal": errors["as_is"] - parts.fit.diagonal_D * x_ND,
        }

    def second(self, parts: Parts) -> None:
        errors = self._errors(parts)
        self._seen += len(parts.e_ND)
        for name, v_ND in (errors | self._residuals(parts, errors)).items():
            self._means[name] = self._means.get(name, 0.0) + v_ND.sum(dim=0)
        self.probe.add(parts.rows.shifted_ND, self._norms(parts, errors))
        if self._cross is not None:
            self._cross.add(parts.rows.shifted_ND, errors["per_latent"])

    def seconded(self, factor: Factor) -> None:
        self.probe.solve(factor)
        self._means = {name: sum_D / self._seen for name, sum_D in self._means.items()}
        if self._cross is not None:
            self._map, self._cross = factor.fit(self._cross), None

    def test(self, parts: Parts) -> dict[str, Tensor]:
        errors = self._errors(parts)
        norms, nonlinear = self._norms(parts, errors), self._nonlinear(parts, errors)
        values = self.probe.test(parts.rows.x_ND, norms)
        for rung, e_ND in errors.items():
            values[f"{rung}_error"] = norms[rung]
            values[f"{rung}_e"] = dot(e_ND, e_ND - self._means[rung])  # see `Parts.common`
            values[f"{rung}_u"] = nonlinear[rung]
        for name, v_ND in self._residuals(parts, errors).items():
            values[name] = dot(v_ND, v_ND - self._means[name])
        return values

    def statistics(self) -> dict[str, Statistic]:
        statistics: dict[str, Statistic] = {
            "r2_scalar": lambda s: r_squared(s, "scalar", "e_centred", "variance"),
            "r2_diagonal": lambda s: r_squared(s, "diagonal", "e_centred", "variance"),
            "r2_full": lambda s: r_squared(s, "u", "e_centred", "variance"),
            "shrinkage_share": lambda s: np.divide(
                r_squared(s, "scalar", "e_centred", "variance"),
                r_squared(s, "u", "e_centred", "variance"),
            ),
        }
        for rung in self._names:
            statistics |= self._of_rung(rung)
            if rung != "as_is":
                statistics[f"artefact_{rung}"] = _artefact(rung)
                statistics[f"linear_gone_{rung}"] = _linear_gone(rung)
        return statistics

    def _of_rung(self, rung: str) -> dict[str, Statistic]:
        return {
            f"fvu_{rung}": lambda s: s[f"{rung}_error"] / s["variance"],
            f"fvu_nonlinear_{rung}": lambda s: _left(s, rung) / s["variance"],
            f"r2_error_{rung}": lambda s: _r2(s, rung),
            f"r2_error_norm_{rung}": self.probe.statistic(rung),
        }

    def fixed(self) -> dict[str, Value]:
        return {ALPHA: Value(self._alpha)}

    @classmethod
    def sentences(cls, sections: Sections) -> tuple[str, ...]:
        """What R² would be without shrinkage. (R² of e ~ a·x does not say: it is FVU for any SAE
        whose error is orthogonal to its output, α* = 1.)"""
        if side(VectorProbe.value(sections, R2_ERROR), 0.0) in (0, -1):
            return ()
        controlled = [
            f"{shown(r2)} {what}"
            for rung, what in CONTROLS.items()
            if (r2 := cls.value(sections, f"r2_error_{rung}")).value is not None
        ]
        if not controlled:
            return ()
        artefact = cls._artefact_in_words(sections)
        rest = f"R² would be {', '.join(controlled)}, each without the cost of its fit."
        return (f"{artefact}: {rest}",)

    @classmethod
    def _artefact_in_words(cls, sections: Sections) -> str:
        """How much of R² goes with the sharpest control of shrinkage that was measured."""
        share, rung = cls.value(sections, "artefact_per_latent"), "per_latent"
        if share.value is None:
            share, rung = cls.value(sections, "artefact_scaled"), "scaled"
        gone = cls.value(sections, f"linear_gone_{rung}")
        alpha = cls.value(sections, ALPHA).value
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


def _left(s: Sums, rung: str) -> NDArray[np.float64]:
    """What is nonlinear of a rung's error, without the cost of the fit. With each latent rescaled
    there is one fit, on the second fold: as it is, that one leaves ‖u′‖² for ⟨u, u′⟩."""
    if rung != "per_latent":
        return s[f"{rung}_u"]
    none = s["again_squared"] == 0
    share = np.where(none, 1.0, s["u"] / np.where(none, 1.0, s["again_squared"]))
    left: NDArray[np.float64] = s["per_latent_u"] * share
    return left


def _r2(s: Sums, rung: str) -> NDArray[np.float64]:
    constant = s[f"{rung}_e"] <= CONSTANT * s["variance"]
    return np.where(constant, np.nan, 1.0 - _left(s, rung) / s[f"{rung}_e"])


def _artefact(rung: str) -> Statistic:
    """1 − R² of the rung over R² as it is."""

    def share(s: Sums) -> NDArray[np.float64]:
        as_is = _r2(s, "as_is")
        return 1.0 - _r2(s, rung) / np.where(as_is == 0, np.nan, as_is)

    return share


def _linear_gone(rung: str) -> Statistic:
    """1 − Σ‖e‖² − Σ⟨u, u′⟩ of the rung over that as it is."""

    def share(s: Sums) -> NDArray[np.float64]:
        linear = s["as_is_e"] - _left(s, "as_is")
        gone: NDArray[np.float64] = (s[f"{rung}_e"] - _left(s, rung)) / np.where(
            linear == 0, np.nan, linear
        )
        return 1.0 - gone

    return share
