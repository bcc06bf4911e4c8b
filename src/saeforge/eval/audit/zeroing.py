"""e. The grid of the synthetic test: latents zeroed, noise, and dense parts that are no noise.

x' = Sae(x) is taken for the signal. z is what the weakest latents give of it (by their mean value
on the fit fold); the activation is x'' = x' + a, the reconstruction x' − z + r, with
a ~ N(0, σ_a² I) and r ~ N(0, σ_r² I). All follows from the second moments of x' and z, nothing is
drawn.
λ, Q are the eigenvalues and eigenvectors of Cov(x'). Shapes: D width, M latents, Z shares zeroed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeforge.dictionary.kernels import gather_sum
from saeforge.eval.audit.fits import Parts, Rows
from saeforge.eval.audit.least_squares import Factor
from saeforge.eval.audit.measurement import Measurement, Place
from saeforge.eval.audit.moments import Cross, Gram
from saeforge.eval.audit.synthetic import ROUNDING, recover
from saeforge.eval.result import Metric, Value

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Of the latents, the weakest first."""
SIGMAS = (0.0, 1.0, 2.0, 3.0, 4.0)
"""In units of which 2 is noise as strong as the SAE's own error: dσ² = E‖e‖² at σ = 2."""
RANK = 8
"""Dimensions of the curve's span."""
KEPT = 0.5
"""Of the dense part, what the reconstruction holds where both are correlated."""


@dataclass(frozen=True)
class Zeroed:
    """Second moments of x' and z, from which every cell of the grid follows.

    Attributes:
        eigenvalues_D: λ, of Cov(x').
        square_D: Σ_i Cov(z_i, q_kᵀx')², for each eigenvector q_k.
        diagonal_D: Cov(q_kᵀz, q_kᵀx').
        own: tr Cov(z).
        mean: ‖z̄‖².
    """

    eigenvalues_D: NDArray[np.float64]
    square_D: NDArray[np.float64]
    diagonal_D: NDArray[np.float64]
    own: float
    mean: float

    def linear(self, a2: float) -> float:
        """tr(C S⁻¹ Cᵀ)/tr S with C = Cov(z + a, x'') and S = Cov(x''): what OLS explains."""
        scale_D = self.eigenvalues_D + a2
        there_D = scale_D > 1e-12 * scale_D.max()
        explained_D = (self.square_D + 2 * a2 * self.diagonal_D + a2**2)[there_D]
        return float((explained_D / scale_D[there_D]).sum()) / self._total(a2)

    def fvus(self, a2: float, r2: float) -> tuple[float, float]:
        """FVU and FVU_nl with noise of these variances per dimension."""
        centred = (self.own + len(self.eigenvalues_D) * (a2 + r2)) / self._total(a2)
        return centred + self.mean / self._total(a2), centred - self.linear(a2)

    def recover(self, fvu: float, fvu_nonlinear: float) -> tuple[float, float] | None:
        """(σ_a, σ_r) that give these numbers together with z; None where none do."""
        from scipy.optimize import brentq

        d, power = len(self.eigenvalues_D), float(self.eigenvalues_D.sum())
        if power <= 0:
            return None

        def gap(a2: float) -> float:
            return self.linear(a2) + self.mean / self._total(a2) - (fvu - fvu_nonlinear)

        places = [0.0, *np.geomspace(1e-9, 1e9, 200) * power / d]
        gaps = [gap(a2) for a2 in places]
        if abs(gaps[0]) < 1e-12:
            gaps[0] = 0.0
        ends = [at for at in range(len(gaps) - 1) if gaps[at] <= 0 < gaps[at + 1]]
        if not ends:
            return None
        a2 = float(brentq(gap, places[ends[0]], places[ends[0] + 1], rtol=1e-12))
        r2 = (fvu_nonlinear + self.linear(a2)) * self._total(a2) / d - self.own / d - a2
        return (a2**0.5, max(r2, 0.0) ** 0.5) if r2 >= -ROUNDING * power / d else None

    def _total(self, a2: float) -> float:
        return float(self.eigenvalues_D.sum()) + len(self.eigenvalues_D) * a2


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


class Zeroing(Measurement):
    """FVU and FVU_nl over σ_a, σ_r and the share of latents zeroed; and what each looks like."""

    name = "zeroing"
    title = "Synthetic test: latents zeroed"
    about = (
        "The SAE's output is taken for the whole signal; the weakest latents (by mean value on "
        "the fit fold) are left out of the reconstruction, and Gaussian noise is added to "
        "activation and reconstruction. `recovered` in the series is the noise that the synthetic "
        "test, which knows of no zeroed latents, would infer from each cell: where it is not the "
        "noise put in, missing features pass for noise. The metrics are the noise that would give "
        "the measured FVU and FVU_nl if so many latents were missing (null: none would). A curved "
        "dense part, and one that the reconstruction partly holds, are in the series, too: least "
        "squares cannot tell a curve from noise of its covariance. On some tokens of the second "
        "fold."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        f"{kind}_noise_{share:.0%}"[:-1]: Metric(
            f"{symbol}, {share:.0%} zeroed",
            f"Share of the equivalent's variance that d{symbol}² is, with {share:.0%} of the "
            "latents missing.",
        )
        for share in SHARES
        for kind, symbol in (("activation", "σ_a"), ("reconstruction", "σ_r"))
    }

    def __init__(self, place: Place, tokens: int) -> None:
        super().__init__(place)
        self._left = tokens
        self._sum_M = torch.zeros(0, dtype=torch.float64, device=place.device)
        self._gram = Gram(place.d, place.device)
        self._crosses = {share: Cross(place.d, place.d, place.device) for share in SHARES if share}
        self._zeroed: dict[float, Zeroed] = {}
        self._covariance_DD: NDArray[np.float64] = np.zeros((0, 0))
        self._total = torch.zeros(4, dtype=torch.float64, device=place.device)

    def fit(self, rows: Rows) -> None:
        if rows.code is None:
            return
        if not len(self._sum_M):
            self._sum_M = self._sum_M.new_zeros(rows.code.width)
        values = rows.code.values.detach().double().reshape(-1)
        self._sum_M.index_add_(0, rows.code.indices.reshape(-1), values)

    def second(self, parts: Parts) -> None:
        count = min(self._left, len(parts.e_ND))
        if count == 0 or parts.rows.code is None or parts.rows.sae is None:
            return
        self._left -= count
        rows = parts.rows.first(count)
        shifted_ND = self._gram.add(rows.x_hat_ND)
        for share, cross in self._crosses.items():
            cross.add(shifted_ND, self._left_out(rows, share))

    def _left_out(self, rows: Rows, share: float) -> Tensor:
        """z."""
        assert rows.code is not None and rows.sae is not None
        code, weakest = rows.code, round(share * len(self._sum_M))
        weak_M = torch.zeros(len(self._sum_M), dtype=torch.bool, device=self._sum_M.device)
        weak_M[self._sum_M.argsort()[:weakest]] = True
        values = torch.where(weak_M[code.indices], code.values, 0.0)
        return gather_sum(values, code.indices, rows.sae.w_dec.detach(), code.offsets).double()

    def seconded(self, factor: Factor) -> None:
        gram = self._gram
        if gram.n <= 1:
            return
        covariance_DD = gram.scatter_DD / gram.n
        self._covariance_DD = covariance_DD.cpu().numpy()
        values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
        eigenvalues_D = values_D.clamp_min(0.0).cpu().numpy()
        nothing_D = np.zeros(len(eigenvalues_D))
        self._zeroed[0.0] = Zeroed(eigenvalues_D, nothing_D, nothing_D, 0.0, 0.0)
        for share, cross in self._crosses.items():
            along_DD = vectors_DD.T @ (cross.centred_DV(gram) / gram.n)
            self._zeroed[share] = Zeroed(
                eigenvalues_D,
                along_DD.square().sum(dim=1).cpu().numpy(),
                (along_DD * vectors_DD.T).sum(dim=1).cpu().numpy(),
                float(cross.variance_V.sum()) / gram.n,
                float(cross.mean_V.square().sum()),
            )
        self._crosses = {}

    def test(self, parts: Parts) -> dict[str, Tensor]:
        common = parts.common()
        self._total += torch.stack([common[key].sum() for key in ("n", "e", "u", "variance")])
        return {}

    def fixed(self) -> dict[str, Value]:
        """Nothing where x̂ is constant."""
        _, e, u, variance = self._total.tolist()
        found: dict[str, Value] = {}
        if variance <= 0 or not self._varies():
            return found
        for share, zeroed in self._zeroed.items():
            noise = zeroed.recover(e / variance, u / variance)
            names = [f"{kind}_noise_{100 * share:.0f}" for kind in ("activation", "reconstruction")]
            shares = self._as_shares(noise)
            found |= {name: Value(value) for name, value in zip(names, shares, strict=True)}
        return found

    def _varies(self) -> bool:
        return bool(self._zeroed) and float(self._zeroed[0.0].eigenvalues_D.sum()) > 0

    def _as_shares(self, sigmas: tuple[float, float] | None) -> tuple[float | None, float | None]:
        """dσ² of the variance of the activation that goes with them."""
        if sigmas is None:
            return None, None
        values_D = self._zeroed[0.0].eigenvalues_D
        d, a2 = len(values_D), sigmas[0] ** 2
        total = float(values_D.sum()) + d * a2
        return d * a2 / total, d * sigmas[1] ** 2 / total

    def series(self) -> dict[str, Any]:
        """The grid: [share zeroed][σ_a][σ_r]."""
        n, e, _, _ = self._total.tolist()
        if n <= 0 or e <= 0 or not self._varies():
            return {}
        values_D = self._zeroed[0.0].eigenvalues_D
        unit = (e / n / len(values_D)) ** 0.5 / 2
        variances = [(sigma * unit) ** 2 for sigma in SIGMAS]
        cells = [
            [[zeroed.fvus(a2, r2) for r2 in variances] for a2 in variances]
            for zeroed in self._zeroed.values()
        ]
        dense = {
            "curved": [curved(self._covariance_DD, a2, self.place.seed) for a2 in variances],
            "correlated": [correlated(values_D, a2) for a2 in variances],
        }
        return {
            "zeroed": list(self._zeroed),
            "removed": [
                (one.own + one.mean) / float(values_D.sum()) for one in self._zeroed.values()
            ],
            "sigmas": list(SIGMAS),
            "unit": unit,
            **self._described(cells),
            "dense": {kind: self._described(found) for kind, found in dense.items()},
        }

    def _described(self, cells: list[Any]) -> dict[str, Any]:
        """FVU, FVU_nl, and the noise that a test without zeroed latents infers, in units."""
        n, e, _, _ = self._total.tolist()
        values_D = self._zeroed[0.0].eigenvalues_D
        unit = (e / n / len(values_D)) ** 0.5 / 2

        def each(cell: Any, what: Any) -> Any:
            return [each(c, what) for c in cell] if isinstance(cell, list) else what(cell)

        noise = each(cells, lambda cell: recover(values_D, cell[0], max(cell[1], 0.0)))

        def inferred(at: int) -> Any:
            return each(noise, lambda found: None if found is None else found[at] / unit)

        return {
            "fvu": each(cells, lambda cell: cell[0]),
            "fvu_nonlinear": each(cells, lambda cell: cell[1]),
            "recovered_activation": inferred(0),
            "recovered_reconstruction": inferred(1),
        }
