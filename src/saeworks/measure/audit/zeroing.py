"""e. The grid of the synthetic test: latents zeroed, noise, and dense parts that are no noise.

x' = Sae(x) is taken for the signal. z is what the weakest latents give of it (by their mean value
on the fit fold); the activation is x'' = x' + a, the reconstruction x' − z + r, with
a ~ N(0, σ_a² I) and r ~ N(0, σ_r² I). e = z + a − r is regressed on x'' with the moments of the
second fold and measured with those of the test fold; nothing is drawn.
λ, Q are the eigenvalues and eigenvectors of Cov(x') on the second fold. Shapes: D width, M latents,
Z shares zeroed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from saeworks.dictionary.kernels import gather_sum
from saeworks.measure.audit import folds
from saeworks.measure.audit.fits import Parts, Rows
from saeworks.measure.audit.least_squares import Factor
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.moments import Cross, Gram
from saeworks.measure.audit.synthetic import ROUNDING, recover
from saeworks.results.figure import GREY, NONLINEAR, Axis, Figure, Trace
from saeworks.results.headlines import FVU, FVU_NONLINEAR
from saeworks.results.metric import Metric, Value

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""The shares of latents that are zeroed, the weakest first."""
SIGMAS = (0.0, 1.0, 2.0, 3.0, 4.0)
"""In units of which 2 is noise as strong as the SAE's own error: dσ² = E‖e‖² at σ = 2."""
NOISE = {"activation": "σ_a", "reconstruction": "σ_r"}
DENSE = ("curved", "correlated")
"""Kinds of a dense part that is no noise."""
RANK = 8
"""Dimensions of the curve's span."""
KEPT = 0.5
"""The share of the dense part that the reconstruction holds, where both are correlated."""


@dataclass(frozen=True)
class Fitted:
    """What the second fold leaves: λ, Q, the mean of x', and of each share C = Cov(x', z) and z̄."""

    eigenvalues_D: Float[Tensor, " D"]
    vectors_DD: Float[Tensor, "D D"]
    mean_D: Float[Tensor, " D"]
    zeroed: dict[float, tuple[Float[Tensor, "D D"], Float[Tensor, " D"]]]


@dataclass(frozen=True)
class Zeroed:
    """Moments of x' and z on two folds, from which every cell of the grid follows.

    e is predicted by W = (S + σ_a² I)⁻¹(C + σ_a² I) with S = Cov(x'), C = Cov(x', z) of the second
    fold. T and C_t are the same moments of the test fold, about the means of the second. In the
    basis Q, with P = CCᵀ and R = C + Cᵀ:

    Attributes:
        eigenvalues_D: λ, of S.
        squares: T ∘ P and T ∘ R [D, D].
        own_D: the diagonals of T, P and R.
        cross_D: the diagonals of C_t Cᵀ and C + C_t.
        total: tr T.
        own: E‖z − z̄‖², with the second fold's z̄.
        mean: E‖z‖² less that: what FVU counts and a covariance does not.
    """

    eigenvalues_D: NDArray[np.float64]
    squares: tuple[NDArray[np.float64], NDArray[np.float64]]
    own_D: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    cross_D: tuple[NDArray[np.float64], NDArray[np.float64]]
    total: float
    own: float
    mean: float

    @classmethod
    def of(
        cls, fitted: Fitted, share: float, t_DD: Tensor, cross: Cross | None, gram: Gram
    ) -> Self:
        """From the test fold's Gram of x' (T in the basis Q: `t_DD`) and its Cross with z."""
        q_DD = fitted.vectors_DD
        c_DD, c_t_DD, z_spread, mean = torch.zeros_like(t_DD), torch.zeros_like(t_DD), 0.0, 0.0
        if cross is not None:
            c_DD, z_mean_D = fitted.zeroed[share]
            moved_D, variance = cross.mean_V - z_mean_D, float(cross.variance_V.sum()) / gram.n
            c_t_DD = cross.centred_DV(gram) / gram.n
            c_t_DD = c_t_DD + torch.outer(gram.mean_D - fitted.mean_D, moved_D)
            c_DD, c_t_DD = q_DD.T @ c_DD @ q_DD, q_DD.T @ c_t_DD @ q_DD
            z_spread = variance + float(moved_D.square().sum())
            mean = variance + float(cross.mean_V.square().sum()) - z_spread
        p_DD, r_DD = c_DD @ c_DD.T, c_DD + c_DD.T

        def numpy(v: Tensor) -> NDArray[np.float64]:
            array: NDArray[np.float64] = v.cpu().numpy()
            return array

        return cls(
            numpy(fitted.eigenvalues_D),
            (numpy(t_DD * p_DD), numpy(t_DD * r_DD)),
            (numpy(t_DD.diagonal()), numpy(p_DD.diagonal()), numpy(r_DD.diagonal())),
            (numpy((c_t_DD * c_DD).sum(dim=1)), numpy((c_DD + c_t_DD).diagonal())),
            float(t_DD.trace()),
            z_spread,
            mean,
        )

    def linear(self, a2: float) -> float:
        """(2 tr(Wᵀ(C_t + σ_a² I)) − tr(Wᵀ(T + σ_a² I)W))/(tr T + dσ_a²): what W explains."""
        return float(self._linears(np.array([a2]))[0])

    def _linears(self, a2_A: NDArray[np.float64]) -> NDArray[np.float64]:
        """`linear` at many σ_a² at once."""
        a2_A1 = a2_A[:, None]
        scale_AD = self.eigenvalues_D + a2_A1
        nonzero_AD = scale_AD > 1e-12 * scale_AD.max(axis=1, keepdims=True)
        s_AD = np.where(nonzero_AD, 1.0 / np.where(nonzero_AD, scale_AD, 1.0), 0.0)
        (tp_DD, tr_DD), (t_D, p_D, r_D) = self.squares, self.own_D
        square_AD = s_AD * (s_AD @ tp_DD + a2_A1 * (s_AD @ tr_DD))
        square_AD += s_AD**2 * (a2_A1 * p_D + a2_A1**2 * (t_D + r_D) + a2_A1**3)
        cross_AD = s_AD * (self.cross_D[0] + a2_A1 * self.cross_D[1] + a2_A1**2)
        linear_A: NDArray[np.float64] = (2 * cross_AD - square_AD).sum(axis=1) / self._total(a2_A)
        return linear_A

    def fvus(self, a2: float, r2: float) -> tuple[float, float]:
        """FVU and FVU_nl with noise of these variances per dimension."""
        centred = (self.own + len(self.eigenvalues_D) * (a2 + r2)) / self._total(a2)
        return centred + self.mean / self._total(a2), centred - self.linear(a2)

    def recover(self, fvu: float, fvu_nonlinear: float) -> tuple[float, float] | None:
        """(σ_a, σ_r) that give these numbers together with z; None where none do."""
        from scipy.optimize import brentq

        d, power = len(self.eigenvalues_D), self.total
        if power <= 0:
            return None

        def gap(a2: float) -> float:
            return float(gaps_of(np.array([a2]))[0])

        def gaps_of(a2_A: NDArray[np.float64]) -> NDArray[np.float64]:
            gap_A = self._linears(a2_A) - (fvu - fvu_nonlinear)
            gap_A += self.mean / self._total(a2_A)
            return gap_A

        places = np.concatenate([[0.0], np.geomspace(1e-9, 1e9, 200) * power / d])
        gaps = gaps_of(places)
        if abs(gaps[0]) < 1e-12:
            gaps[0] = 0.0
        ends = [at for at in range(len(gaps) - 1) if gaps[at] <= 0 < gaps[at + 1]]
        if not ends:
            return None
        a2 = float(brentq(gap, places[ends[0]], places[ends[0] + 1], rtol=1e-12))
        r2 = (fvu_nonlinear + self.linear(a2)) * self._total(a2) / d - self.own / d - a2
        return (a2**0.5, max(r2, 0.0) ** 0.5) if r2 >= -ROUNDING * power / d else None

    def _total(self, a2: Any) -> Any:
        return self.total + len(self.eigenvalues_D) * a2


def correlated(eigenvalues_D: NDArray[np.float64], a2: float) -> tuple[float, float]:
    """FVU and FVU_nl where the reconstruction holds a share of the dense part: x' + κa, so that the
    introduced error is correlated with what is missing; e = (1 − κ)a."""
    d, left = len(eigenvalues_D), (1 - KEPT) ** 2
    total = float(eigenvalues_D.sum()) + d * a2
    explained = float(np.sum(a2**2 / np.maximum(eigenvalues_D + a2, 1e-300)))
    return left * d * a2 / total, left * (d * a2 - explained) / total


def curved(covariance_DD: NDArray[np.float64], a2: float, seed: int) -> tuple[float, float]:
    """FVU and FVU_nl where the dense part is a curve, Σ_h cos(hθ)p_h + sin(hθ)q_h with θ uniform
    and p, q orthonormal, of power d·a2: OLS sees its covariance alone, flat on `RANK` dimensions.
    """
    d = len(covariance_DD)
    rank = min(RANK, d)
    basis_DR, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, rank)))
    weight = d * a2 / rank
    s_DD = covariance_DD + weight * basis_DR @ basis_DR.T
    inside_RR = basis_DR.T @ np.linalg.pinv(s_DD, hermitian=True) @ basis_DR
    total = float(np.trace(s_DD))
    return d * a2 / total, (d * a2 - weight**2 * float(np.trace(inside_RR))) / total


def _noise(kind: str, share: float) -> str:
    """The key of a metric."""
    return f"{kind}_noise_{100 * share:.0f}"


def _inferred(kind: str, share: float) -> str:
    """The key of a series."""
    return f"{kind}_{100 * share:.0f}"


def _figures() -> tuple[Figure, ...]:
    """Noise put in against noise inferred, a line per share of latents left out."""
    dense = tuple(
        Trace(
            f"{kind} dense part",
            x="sigmas",
            y=f"dense.{kind}.recovered_activation",
            ink=NONLINEAR,
            shape=len(SHARES) + at,
        )
        for at, kind in enumerate(DENSE)
    )
    lines = {
        noise: (
            Trace("truth", x="sigmas", y="sigmas", ink=GREY, mark="lines"),
            *(
                Trace(
                    f"{share:.0%} zeroed",
                    x="sigmas",
                    y=f"inferred.{_inferred(noise, share)}",
                    ink=at,
                    shade=round(at / (len(SHARES) - 1), 3),
                )
                for at, share in enumerate(SHARES)
            ),
        )
        for noise in NOISE
    }
    drawn = tuple(
        Figure(
            f"zeroing-{noise}",
            "line",
            lines[noise] + (dense if noise == "activation" else ()),
            symbol,
            x=Axis(f"{symbol} put in"),
            y=Axis(f"{symbol} inferred", zero=True),
            small=True,
        )
        for noise, symbol in NOISE.items()
    )
    ratios = Figure(
        "zeroing-table",
        "table",
        (
            Trace(x="ratios.zeroed", y="ratios.activation"),
            Trace("of σ_r", x="ratios.zeroed", y="ratios.reconstruction"),
        ),
        "σ_a inferred over σ_a put in (1: right), and the same of σ_r, by the latents zeroed",
        x=Axis(each="{} zeroed"),
    )
    return (*drawn, ratios)


class Zeroing(Measurement):
    """FVU and FVU_nl over σ_a, σ_r and the share of latents zeroed; and what each looks like."""

    name = "zeroing"
    title = "Synthetic test: latents zeroed"
    chapter = "sources"
    about = (
        "The SAE's output is taken for the whole signal; the weakest latents (by mean value on "
        "the fit fold) are left out of the reconstruction, and Gaussian noise is added to "
        "activation and reconstruction. `recovered` in the series is the noise that the synthetic "
        "test, which knows of no zeroed latents, would infer from each cell: where it is not the "
        "noise put in, missing features pass for noise. The metrics are the noise that would give "
        "the measured FVU and FVU_nl if so many latents were missing (null: none would). A curved "
        "dense part, and one that the reconstruction partly holds, are in the series, too: least "
        "squares cannot tell a curve from noise of its covariance. Fitted on the first tokens of "
        "the second fold and measured on those of the test fold (`tokens`); null where one of them "
        f"has fewer than {folds.PER_PARAMETER} for each of D + 1 parameters."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        _noise(kind, share): Metric(
            f"{symbol}, {share:.0%} zeroed",
            f"Share of the equivalent's variance that d{symbol}² is, with {share:.0%} of the "
            "latents missing.",
        )
        for share in SHARES
        for kind, symbol in NOISE.items()
    }
    figures = _figures()

    def __init__(self, place: Place, tokens: int) -> None:
        super().__init__(place)
        self._tokens = tokens
        self._sum_M = torch.zeros(0, dtype=torch.float64, device=place.device)
        self._gram, self._crosses = self._nothing()
        self._fitted: Fitted | None = None
        self._counts = {"second": 0, "test": 0}
        self._total = torch.zeros(4, dtype=torch.float64, device=place.device)

    def _nothing(self) -> tuple[Gram, dict[float, Cross]]:
        d, device = self.place.d, self.place.device
        return Gram(d, device), {share: Cross(d, d, device) for share in SHARES if share}

    def fit(self, rows: Rows) -> None:
        if rows.code is None:
            return
        if not len(self._sum_M):
            self._sum_M = self._sum_M.new_zeros(rows.code.width)
        values = rows.code.values.detach().double().reshape(-1)
        self._sum_M.index_add_(0, rows.code.indices.reshape(-1), values)

    def second(self, parts: Parts) -> None:
        self._count("second", parts)

    def _count(self, fold: str, parts: Parts) -> None:
        count = min(self._tokens - self._counts[fold], len(parts.e_ND))
        if count == 0 or parts.rows.code is None or parts.rows.sae is None:
            return
        self._counts[fold] += count
        rows = parts.rows.first(count)
        shifted_ND = self._gram.add(rows.x_hat_ND)
        for share, cross in self._crosses.items():
            cross.add(shifted_ND, self._left_out(rows, share))

    def _left_out(self, rows: Rows, share: float) -> Tensor:
        """z of these rows: what the weakest latents, a share of all, give of x'."""
        assert rows.code is not None and rows.sae is not None
        code, weakest = rows.code, round(share * len(self._sum_M))
        weak_M = torch.zeros(len(self._sum_M), dtype=torch.bool, device=self._sum_M.device)
        weak_M[self._sum_M.argsort()[:weakest]] = True
        values = torch.where(weak_M[code.indices], code.values, 0.0)
        return gather_sum(values, code.indices, rows.sae.w_dec.detach(), code.offsets).double()

    def seconded(self, factor: Factor) -> None:
        gram = self._gram
        if gram.n >= folds.PER_PARAMETER * (self.place.d + 1):
            values_D, vectors_DD = torch.linalg.eigh(gram.scatter_DD / gram.n)
            crosses = {
                share: (cross.centred_DV(gram) / gram.n, cross.mean_V)
                for share, cross in self._crosses.items()
            }
            self._fitted = Fitted(values_D.clamp_min(0.0), vectors_DD, gram.mean_D, crosses)
        self._gram, self._crosses = self._nothing()

    def test(self, parts: Parts) -> dict[str, Tensor]:
        common = parts.common
        self._total += torch.stack([common[key].sum() for key in ("n", "e", "u", "variance")])
        if self._fitted is not None:
            self._count("test", parts)
        return {}

    @cached_property
    def _zeroed(self) -> dict[float, Zeroed]:
        """Share zeroed → its moments; empty where a fold has too few tokens."""
        fitted, gram = self._fitted, self._gram
        if fitted is None or gram.n < folds.PER_PARAMETER * (self.place.d + 1):
            return {}
        q_DD = fitted.vectors_DD
        t_DD = q_DD.T @ self._second_moment(fitted.mean_D) @ q_DD
        return {
            share: Zeroed.of(fitted, share, t_DD, self._crosses.get(share), gram)
            for share in SHARES
        }

    def _second_moment(self, mean_D: Tensor) -> Tensor:
        """The second moment of x' on the test fold about a mean."""
        moved_D = self._gram.mean_D - mean_D
        return self._gram.scatter_DD / self._gram.n + torch.outer(moved_D, moved_D)

    @cached_property
    def _covariance_DD(self) -> NDArray[np.float64]:
        """T, which the synthetic test reads."""
        assert self._fitted is not None
        covariance_DD: NDArray[np.float64] = self._second_moment(self._fitted.mean_D).cpu().numpy()
        return covariance_DD

    @cached_property
    def _eigenvalues_D(self) -> NDArray[np.float64]:
        """The eigenvalues of T."""
        eigenvalues_D: NDArray[np.float64] = np.linalg.eigvalsh(self._covariance_DD).clip(min=0.0)
        return eigenvalues_D

    def fixed(self) -> dict[str, Value]:
        """Null where a fold has too few tokens; nothing where x̂ is constant."""
        _, e, u, variance = self._total.tolist()
        u = max(u, 0.0)
        if not self._zeroed:
            return {name: Value(None) for name in self.metrics}
        values: dict[str, Value] = {}
        if variance <= 0 or not self._varies():
            return values
        for share, zeroed in self._zeroed.items():
            noise = zeroed.recover(e / variance, u / variance)
            names = [_noise(kind, share) for kind in NOISE]
            shares = self._as_shares(noise)
            values |= {name: Value(value) for name, value in zip(names, shares, strict=True)}
        return values

    def _varies(self) -> bool:
        return bool(self._zeroed) and self._zeroed[0.0].total > 0

    def _as_shares(self, sigmas: tuple[float, float] | None) -> tuple[float | None, float | None]:
        """Each dσ² as a share of the variance of the activation that has this noise."""
        if sigmas is None:
            return None, None
        values_D = self._eigenvalues_D
        d, a2 = len(values_D), sigmas[0] ** 2
        total = float(values_D.sum()) + d * a2
        return d * a2 / total, d * sigmas[1] ** 2 / total

    def series(self) -> dict[str, Any]:
        """The grid: [share zeroed][σ_a][σ_r]."""
        n, e, _, _ = self._total.tolist()
        if n <= 0 or e <= 0 or not self._varies():
            return {}
        values_D = self._eigenvalues_D
        unit = (e / n / len(values_D)) ** 0.5 / 2
        variances = [(sigma * unit) ** 2 for sigma in SIGMAS]
        cells = [
            [[zeroed.fvus(a2, r2) for r2 in variances] for a2 in variances]
            for zeroed in self._zeroed.values()
        ]
        made = (
            [curved(self._covariance_DD, a2, self.place.seed) for a2 in variances],
            [correlated(values_D, a2) for a2 in variances],
        )
        grid = self._described(cells)
        return {
            "tokens": self._counts,
            "zeroed": list(self._zeroed),
            "removed": [
                (zeroed.own + zeroed.mean) / float(values_D.sum())
                for zeroed in self._zeroed.values()
            ],
            "sigmas": list(SIGMAS),
            "unit": unit,
            **grid,
            "dense": {
                kind: self._described(cells) for kind, cells in zip(DENSE, made, strict=True)
            },
        } | summarised(grid, list(self._zeroed))

    def _described(self, cells: list[Any]) -> dict[str, Any]:
        """FVU, FVU_nl, and the noise that a test without zeroed latents infers, in units."""
        n, e, _, _ = self._total.tolist()
        values_D = self._eigenvalues_D
        unit = (e / n / len(values_D)) ** 0.5 / 2

        def each(cell: Any, what: Any) -> Any:
            return [each(c, what) for c in cell] if isinstance(cell, list) else what(cell)

        noise = each(cells, lambda cell: recover(values_D, cell[0], max(cell[1], 0.0)))

        def inferred(at: int) -> Any:
            return each(noise, lambda sigmas: None if sigmas is None else sigmas[at] / unit)

        return {
            FVU: each(cells, lambda cell: cell[0]),
            FVU_NONLINEAR: each(cells, lambda cell: cell[1]),
            "recovered_activation": inferred(0),
            "recovered_reconstruction": inferred(1),
        }


def summarised(grid: dict[str, Any], shares: list[float]) -> dict[str, Any]:
    """For each share zeroed, the noise inferred, as a mean over the other noise; and its mean ratio
    to the noise put in, where some was put in."""
    inferred: dict[str, list[float | None]] = {}
    ratios: dict[str, list[Any]] = {"zeroed": [f"{share:.0%}" for share in shares]}
    for noise in NOISE:
        ratios[noise] = []
        for share, plane in zip(shares, grid[f"recovered_{noise}"], strict=True):
            rows = plane if noise == "activation" else zip(*plane, strict=True)
            means = [_mean(row) for row in rows]
            pairs = zip(means, SIGMAS, strict=True)
            ratios[noise].append(_mean(m / s for m, s in pairs if m is not None and s > 0))
            inferred[_inferred(noise, share)] = means
    return {"inferred": inferred, "ratios": ratios}


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
