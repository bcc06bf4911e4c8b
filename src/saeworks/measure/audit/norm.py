"""b. The norm probe: how well the size of the error is predicted from x, beside baselines."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeworks.measure.audit.fits import (
    Fit,
    Parts,
    Rows,
    square,
)
from saeworks.measure.audit.least_squares import Factor
from saeworks.measure.audit.measurement import (
    CONSTANT,
    Measurement,
    NormProbe,
    Place,
    r_squared,
)
from saeworks.measure.audit.words import Sections, shown
from saeworks.measure.bootstrap import Statistic, Sums
from saeworks.results.figure import GREY, LINEAR, NONLINEAR, Axis, Figure, Trace
from saeworks.results.headlines import L0
from saeworks.results.metric import Metric

R2_NORM, R2_TOKEN = "r2_error_norm", "r2_token"
BASELINES = {
    R2_TOKEN: "the mean by token",
    "r2_loss": "the model's loss",
    "r2_l0": "L0",
    "r2_x_norm": "‖x‖²",
}
"""One number per token that ‖e‖² may be predicted from, in a sentence."""
SHORT = {
    R2_NORM: "x (the probe)",
    R2_TOKEN: "mean by token",
    "r2_loss": "model's loss",
    "r2_l0": "L0",
    "r2_x_norm": "‖x‖²",
}
"""The probe and its baselines, in a legend."""


class _Line:
    """y ≈ a + b·z by least squares, from running sums; where z is NaN, ȳ."""

    def __init__(self) -> None:
        self._sums_5 = torch.zeros(5, dtype=torch.float64)
        self.slope, self.z_mean, self.y_mean = 0.0, 0.0, 0.0

    def add(self, z_N: Tensor, y_N: Tensor) -> None:
        known = ~z_N.isnan()
        z, y = z_N[known], y_N[known]
        sums = torch.stack(
            [torch.ones_like(z).sum(), z.sum(), y.sum(), (z * y).sum(), (z * z).sum()]
        )
        self._sums_5 += sums.cpu()

    def solve(self) -> None:
        n, z, y, zy, zz = (float(value) for value in self._sums_5)
        if n == 0:
            return
        self.z_mean, self.y_mean = z / n, y / n
        spread = zz - z * z / n
        if spread > CONSTANT * zz:
            self.slope = (zy - z * y / n) / spread

    def __call__(self, z_N: Tensor) -> Tensor:
        return torch.where(z_N.isnan(), self.y_mean, self.y_mean + self.slope * (z_N - self.z_mean))


class _TokenMeans:
    """The mean of y by token id; of a token that was not seen, the mean of all."""

    def __init__(self) -> None:
        self._sums_V2 = torch.zeros(0, 2, dtype=torch.float64)

    def add(self, token_N: Tensor, y_N: Tensor) -> None:
        token_N, y_N = token_N.cpu(), y_N.cpu()
        missing = int(token_N.max()) + 1 - len(self._sums_V2)
        if missing > 0:
            self._sums_V2 = torch.cat([self._sums_V2, self._sums_V2.new_zeros(missing, 2)])
        self._sums_V2.index_add_(0, token_N, torch.stack([y_N, torch.ones_like(y_N)], dim=1))

    def __call__(self, token_N: Tensor) -> Tensor:
        sums, counts = self._sums_V2.unbind(1)
        means_V = torch.where(counts > 0, sums / counts.clamp_min(1.0), sums.sum() / counts.sum())
        token, known = token_N.cpu(), token_N.cpu() < len(means_V)
        mean_N = torch.where(
            known,
            means_V[token.clamp_max(len(means_V) - 1)],
            means_V.new_tensor(float(sums.sum() / counts.sum())),
        )
        return mean_N.to(token_N.device)


SAMPLE = 500
"""Tokens whose predicted and actual ‖e‖² are kept, for a scatter."""
TENTHS = 10


class _Sample:
    """Tokens drawn evenly from all: those of the smallest random keys."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._rows_N3 = np.zeros((0, 3))
        self._seen, self._variance = 0, 0.0

    def add(self, predicted_N: Tensor, actual_N: Tensor, variance_N: Tensor) -> None:
        """Count tokens in."""
        key_N = self._random.random(len(actual_N))
        new_N3 = np.stack([key_N, predicted_N.cpu().numpy(), actual_N.cpu().numpy()], axis=1)
        all_N3 = np.concatenate([self._rows_N3, new_N3])
        self._rows_N3 = all_N3[np.argsort(all_N3[:, 0], kind="stable")[:SAMPLE]]
        self._seen += len(actual_N)
        self._variance += float(variance_N.sum())

    def series(self) -> dict[str, Any]:
        """The sample in units of the mean ‖x − x̄‖², so that actual values average to the FVU."""
        if not self._variance > 0:
            return {}
        _, predicted, actual = (self._rows_N3 * (self._seen / self._variance)).T
        predicted, actual = (
            np.array([float(f"{value:.4g}") for value in values]) for values in (predicted, actual)
        )
        return {
            "of_tokens": self._seen,
            "predicted": predicted.tolist(),
            "actual": actual.tolist(),
            "range": [min(0.0, predicted.min()), max(1e-9, predicted.max())],
            "tenths": tenths(predicted, actual),
        }


def tenths(predicted: NDArray[np.float64], actual: NDArray[np.float64]) -> dict[str, Any]:
    """Mean predicted and mean actual in each tenth of the tokens, by the predicted; of fewer
    tokens, in each."""
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, TENTHS) if len(part)]
    return {
        "tenth": list(range(1, len(parts) + 1)),
        "predicted": [float(predicted[part].mean()) for part in parts],
        "actual": [float(actual[part].mean()) for part in parts],
    }


class NormProbeOfError(Measurement):
    """x → ‖e‖² by OLS with bias, and the same from one number per token."""

    name = "norm"
    title = "Norm probe"
    chapter = "norms"
    about = (
        "OLS of the squared norm ‖e‖² on x, with bias; beside it OLS on one number per token: the "
        "mean by token id (tokens not seen: the mean of all), the language model's loss on the "
        "next token (over tokens that have one), L0, and ‖x‖². All fitted on the fit documents "
        "(the probe on x on the second documents too: its R² is without the cost of fitting), "
        "measured on the test documents; below 0 where a fit does worse than the mean. The series "
        f"are {SAMPLE} test tokens drawn at random, in units of the mean ‖x − x̄‖²."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        R2_NORM: Metric("R² of ‖e‖²", "Of the probe on x: 1 − Σ(‖e‖² − â(x))²/Σ(‖e‖² − mean)²."),
        R2_TOKEN: Metric("by token", "R² of ‖e‖² by the mean over the same token id."),
        "r2_loss": Metric("by loss", "R² of ‖e‖² by the model's loss on the next token."),
        "r2_l0": Metric("by L0", "R² of ‖e‖² by the number of latents that fire."),
        "r2_x_norm": Metric("by ‖x‖²", "R² of ‖e‖² by ‖x‖²."),
    }
    headline: ClassVar[Mapping[str, str]] = {R2_NORM: "R²\n‖e‖²", R2_TOKEN: "‖e‖² by\ntoken"}
    figures = (
        Figure("norm", "line", (Trace(metric=R2_NORM),), lines="suites", chapter="layers"),
        Figure(
            "scatter",
            "scatter",
            (
                Trace("token", x="predicted", y="actual", ink=LINEAR, shape=0, size=3),
                Trace("predicted = actual", x="range", y="range", ink=GREY, shape=0, mark="lines"),
                Trace(
                    "mean of a tenth",
                    x="tenths.predicted",
                    y="tenths.actual",
                    ink=NONLINEAR,
                    shape=0,
                    mark="both",
                ),
            ),
            "‖e‖²",
            x=Axis("predicted", zero=True),
            y=Axis("actual ‖e‖²", zero=True),
            small=True,
        ),
        Figure(
            "baselines",
            "bar",
            tuple(Trace(name, key, ink=ink) for ink, (key, name) in enumerate(SHORT.items())),
            "R² of ‖e‖², by what it is predicted from",
            wide=True,
        ),
        Figure(
            "tenths",
            "table",
            (
                Trace(x="tenths.tenth", y="tenths.actual"),
                Trace("predicted", x="tenths.tenth", y="tenths.predicted"),
            ),
            "Mean actual ‖e‖² of the tokens in the scatter, by tenths of the predicted, in units "
            "of the mean ‖x − x̄‖²",
            x=Axis(each="tenth {}"),
        ),
    )

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.probe = NormProbe(("e_norm",), place)
        self.lines: dict[str, _Line] = {}
        self.by_token: _TokenMeans | None = None
        self.sample = _Sample(place.seed)

    def fit(self, rows: Rows) -> None:
        y_N = square(rows.x_ND - rows.x_hat_ND)
        self.probe.add(rows.shifted_ND, {"e_norm": y_N})
        for name, z_N in _features(rows).items():
            self.lines.setdefault(name, _Line()).add(z_N, y_N)
        if rows.tokens.token_N is not None:
            self.by_token = self.by_token or _TokenMeans()
            self.by_token.add(rows.tokens.token_N, y_N)

    def fitted(self, fit: Fit) -> None:
        self.probe.solve(fit.factor)
        for line in self.lines.values():
            line.solve()

    def second(self, parts: Parts) -> None:
        self.probe.add(parts.rows.shifted_ND, {"e_norm": square(parts.e_ND)})

    def seconded(self, factor: Factor) -> None:
        self.probe.solve(factor)

    def test(self, parts: Parts) -> dict[str, Tensor]:
        y_N = square(parts.e_ND)
        values = self.probe.test(parts.rows.x_ND, {"e_norm": y_N})
        predicted_N = self.probe.maps[0](parts.rows.x_ND)[:, 0]
        self.sample.add(predicted_N, y_N, square(parts.rows.x_ND - parts.fit.linear.x_mean_D))
        features = _features(parts.rows)
        for name, line in self.lines.items():
            values[f"{name}_residual"] = (y_N - line(features[name])).square()
        if "loss" in self.lines:
            known = ~features["loss"].isnan()
            values["loss_residual"] = torch.where(known, values["loss_residual"], 0.0)
            total_N = (y_N - self.lines["loss"].y_mean).square()
            values["loss_total"] = torch.where(known, total_N, 0.0)
        if self.by_token is not None and parts.rows.tokens.token_N is not None:
            values["token_residual"] = (y_N - self.by_token(parts.rows.tokens.token_N)).square()
        return values

    def statistics(self) -> dict[str, Statistic]:
        statistics: dict[str, Statistic] = {R2_NORM: self.probe.statistic("e_norm")}
        names = [*self.lines, *(["token"] if self.by_token is not None else [])]
        return statistics | {f"r2_{name}": _baseline(name) for name in names}

    def series(self) -> dict[str, Any]:
        return self.sample.series()

    @classmethod
    def sentences(cls, sections: Sections) -> tuple[str, ...]:
        return (f"{cls._compared(sections)}.",)

    @classmethod
    def _compared(cls, sections: Sections) -> str:
        probe = cls.value(sections, R2_NORM)
        known = {
            name: r2 for name in BASELINES if (r2 := cls.value(sections, name)).value is not None
        }
        start = f"The size of the error, ‖e‖², is predicted linearly from x with R² {shown(probe)}"
        if not known or probe.value is None:
            return start
        best = max(known, key=lambda name: known[name].value or 0.0)
        value, what = known[best], BASELINES[best]
        highs = [r2.high for r2 in known.values() if r2.high is not None]
        if probe.low is None or probe.high is None or len(highs) < len(known) or value.low is None:
            return f"{start}; the best baseline, {what}, has {shown(value)}"
        if probe.low > max(highs):
            return f"{start}, better than every baseline (best: {what}, {shown(value)})"
        if probe.high < value.low:
            return f"{start}, worse than {what} ({shown(value)})"
        return f"{start}, not clearly better than every baseline (best: {what}, {shown(value)})"


def _baseline(name: str) -> Statistic:
    total = "loss_total" if name == "loss" else "e_norm_total"

    def r2(s: Sums) -> NDArray[np.float64]:
        return r_squared(s, f"{name}_residual", total, "e_norm_square")

    return r2


def _features(rows: Rows) -> dict[str, Tensor]:
    """The numbers per token that a baseline may use."""
    features = {"x_norm": square(rows.x_ND)}
    if rows.tokens.loss_N is not None:
        features["loss"] = rows.tokens.loss_N.double()
    if rows.code is not None:
        features[L0] = fired(rows)
    return features


def fired(rows: Rows) -> Tensor:
    """L0 of each row, float64."""
    code = rows.code
    assert code is not None
    on = (code.values > 0).double()
    if code.offsets is None:
        return on.sum(dim=1)
    owner = torch.arange(len(rows.x_ND), device=on.device).repeat_interleave(code.offsets.diff())
    return torch.zeros_like(rows.x_ND[:, 0]).index_add(0, owner, on)
