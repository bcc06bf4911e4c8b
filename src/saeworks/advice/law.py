"""The law by which an SAE's FVU depends on what it is, fitted to pilots; ΔCE follows from the FVU.

Pure NumPy and SciPy: no model, no files, no clock.

Shapes: P readings, S sites, R draws of the law's parameters, C runs that are predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.9
"""Share of the cases in which an interval is to hold the number that comes true."""
DRAWS = 200
_SHARED = 0.5
"""Share of the scatter's variance that the sites of one SAE, or of one run, have in common."""
_SCATTER, _SCATTER_READINGS = 0.04, 6.0
"""Scatter of ln FVU that is expected before a pilot is seen, and the readings that it is worth."""
_BEYOND = 0.05
"""Scatter that the law itself gets for each factor of e beyond what the pilots span."""
_ROUNDS, _STEPS = 2, 25


class Prior(NamedTuple):
    """What is believed of a parameter before any pilot is seen: a normal distribution."""

    mean: float
    sd: float


PRIORS = {
    "k": Prior(0.5, 0.2),
    "log_width": Prior(np.log(0.5), 0.5),
    "experts": Prior(0.25, 0.15),
    "log_undertrained": Prior(np.log(0.3), 1.0),
    "log_tokens": Prior(np.log(0.5), 0.4),
    "tokens_width": Prior(0.3, 0.3),
    "tokens_experts": Prior(0.15, 0.15),
    "sharing": Prior(0.3, 0.3),
}
"""Of γ, ln β, ε, ln B, ln δ, μ, ν, η: looked at on the embedded model alone (docs/advise.md)."""
_SITE_SHARING, _SITE_LEVEL = Prior(0.0, 0.2), Prior(-2.5, 5.0)
_NAMES = tuple(PRIORS)


@dataclass(frozen=True)
class Sizes:
    """What SAEs are, and on how many rows each is trained; arrays of one length."""

    width: Array
    experts: Array
    k: Array
    tokens: Array

    @classmethod
    def of(cls, rows: Sequence[Sequence[float | int]]) -> "Sizes":
        """Of (width, experts, k, tokens), one for each SAE."""
        return cls(*np.array(rows, dtype=float).reshape(-1, 4).T)


@dataclass(frozen=True)
class Readings:
    """What the pilots measured, a reading for each SAE and site.

    Attributes:
        sizes: of the SAE.
        pilot, site: number of the pilot's SAEs (one variant of one run), and of the site.
        sharing: sites that share the SAE.
        fvu, delta_ce: at the site, held out.
    """

    sizes: Sizes
    pilot: NDArray[np.int64]
    site: NDArray[np.int64]
    sharing: Array
    fvu: Array
    delta_ce: Array


@dataclass(frozen=True)
class FVULaw:
    """FVU at site s of an SAE with M latents in N experts, k active, that g sites share and that is
    trained on T rows:

        FVU_s = exp(a_s) · (k/k₀)^−γ · g^η_s · [(M/M₀ · N^−ε)^−β + B·(T₀/T)^δ · (M/M₀)^μ · N^ν]

    The first term is what the SAE's size allows; the second is what it has not yet learned, which
    fewer tokens per latent (T/M) and more experts make larger. Fitted by least squares in ln FVU,
    with normal priors on the exponents. Every draw is the fit to readings and priors that were
    moved by their own scatter (a parametric bootstrap), so where no pilot varied, the draws stay as
    wide as the priors. ln ΔCE_s = c_s + ζ·ln FVU_s.

    Attributes:
        parameters: [R, 8 + 2S], the draws: those of PRIORS, then η_s − η and a_s.
        scatter: [R], of ln FVU about the law.
        origin: M₀, k₀, T₀.
        span: of ln M, ln N, ln T in the pilots: [3, 2].
        ce: [R, S + 1], the draws of c_s and ζ.
        ce_scatter: of ln ΔCE about its law.
    """

    parameters: Array
    scatter: Array
    origin: tuple[float, float, float]
    span: Array
    ce: Array
    ce_scatter: float

    @property
    def sites(self) -> int:
        return int(self.ce.shape[1]) - 1

    def common(self, sizes: Sizes, seed: int = 0) -> Array:
        """[C, R]: the part of ln FVU that is the same at all sites, with the scatter that they have
        in common, which grows beyond what the pilots span."""
        noise_2R = np.random.default_rng(seed).standard_normal((2, len(self.parameters)))
        logs = np.log([sizes.width, sizes.experts, sizes.tokens])  # [3, C]
        beyond = np.maximum(self.span[:, :1] - logs, logs - self.span[:, 1:])
        further_C = np.maximum(beyond, 0.0).sum(axis=0)
        scatter_R = np.sqrt(_SHARED) * self.scatter * noise_2R[0]
        return np.asarray(
            _law(self.parameters, sizes, self.origin)[0].T
            + scatter_R
            + _BEYOND * further_C[:, None] * noise_2R[1]
        )

    def of_sites(self, sharing_S: Array) -> Array:
        """[R, S]: the part of ln FVU that is each site's, where so many sites share its SAE."""
        eta_R1 = self.parameters[:, _NAMES.index("sharing")][:, None]
        own_RS, level_RS = np.split(self.parameters[:, len(_NAMES) :], 2, axis=1)
        return np.asarray(level_RS + (eta_R1 + own_RS) * np.log(sharing_S))

    def mean_fvu(self, sizes: Sizes, sharing_S: Array) -> Array:
        """[C, R]: the mean over the sites."""
        mean_R = np.exp(self.of_sites(sharing_S)).mean(axis=1)
        return np.asarray(np.exp(self.common(sizes)) * mean_R)

    def fvu(self, sizes: Sizes, sharing_S: Array) -> Array:
        """[R, S], of one run."""
        noise_RS = np.random.default_rng(1).standard_normal((len(self.scatter), self.sites))
        own_RS = np.sqrt(1 - _SHARED) * self.scatter[:, None] * noise_RS
        return np.asarray(np.exp(self.common(sizes).T + self.of_sites(sharing_S) + own_RS))

    def delta_ce(self, fvu_RS: Array) -> Array:
        """[R, S], of one run with such an FVU at its sites."""
        noise_RS = np.random.default_rng(2).standard_normal(fvu_RS.shape)
        level_RS, slope_R1 = self.ce[:, :-1], self.ce[:, -1:]
        log_RS = level_RS + slope_R1 * np.log(fvu_RS) + self.ce_scatter * noise_RS
        return np.asarray(np.exp(log_RS))


def interval(draws: Array, axis: int = 0) -> tuple[Array, Array, Array]:
    """The median and the ends between which the share LEVEL of the draws lies."""
    ends = [0.5, (1 - LEVEL) / 2, (1 + LEVEL) / 2]
    middle, low, high = np.quantile(draws, ends, axis=axis)
    return np.asarray(middle), np.asarray(low), np.asarray(high)


def fit(readings: Readings, sites: int, draws: int = DRAWS, seed: int = 0) -> FVULaw:
    """The law of some pilots' readings, at least one for each site."""
    random, sizes = np.random.default_rng(seed), readings.sizes
    width0, k0 = (float(np.exp(np.log(x).mean())) for x in (sizes.width, sizes.k))
    origin = (width0, k0, float(sizes.tokens.max()))
    priors = [*PRIORS.values(), *[_SITE_SHARING] * sites, *[_SITE_LEVEL] * sites]
    mean, sd = np.array(priors).T
    problem = _Problem(readings, sites, origin, sd)
    log_fvu_P, scatter, best = np.log(readings.fvu), _SCATTER, mean[None]
    for _ in range(_ROUNDS):
        best = problem.solve(log_fvu_P[None], mean[None], np.array([scatter]), best)
        scatter, freedom = problem.scatter(log_fvu_P, best, scatter)
    scatter_R = scatter * np.sqrt(freedom / random.chisquare(freedom, draws))
    shared_RP = random.standard_normal((draws, int(readings.pilot.max()) + 1))[:, readings.pilot]
    alone_RP = random.standard_normal((draws, len(log_fvu_P)))
    noise_RP = np.sqrt(_SHARED) * shared_RP + np.sqrt(1 - _SHARED) * alone_RP
    prior_RN = mean + sd * random.standard_normal((draws, len(mean)))
    moved_RP = log_fvu_P + scatter_R[:, None] * noise_RP
    parameters = problem.solve(moved_RP, prior_RN, scatter_R, np.repeat(best, draws, axis=0))
    logs = np.log([sizes.width, sizes.experts, sizes.tokens])
    span = np.stack([logs.min(axis=1), logs.max(axis=1)], axis=1)
    ce, ce_scatter = _fit_ce(readings, sites, draws, random)
    return FVULaw(parameters, scatter_R, origin, span, ce, ce_scatter)


@dataclass(frozen=True)
class _Problem:
    """Least squares of readings and priors, for R draws at once."""

    readings: Readings
    sites: int
    origin: tuple[float, float, float]
    sd: Array

    def law(self, theta_RN: Array) -> tuple[Array, Array]:
        """[R, P] ln FVU of the readings, and its derivative [R, P, N]."""
        value_RP, slope = _law(theta_RN, self.readings.sizes, self.origin)
        shared_P = np.log(self.readings.sharing)
        at_PS = np.eye(self.sites)[self.readings.site]
        own_RS, level_RS = np.split(theta_RN[:, len(_NAMES) :], 2, axis=1)
        eta_RP = theta_RN[:, [_NAMES.index("sharing")]] + own_RS @ at_PS.T
        value_RP = value_RP + eta_RP * shared_P + level_RS @ at_PS.T
        rest_PN = np.column_stack([shared_P, at_PS * shared_P[:, None], at_PS])
        rest_RPN = np.broadcast_to(rest_PN, (len(theta_RN), *rest_PN.shape))
        return value_RP, np.concatenate([np.stack(slope, axis=2), rest_RPN], axis=2)

    def solve(self, log_fvu_RP: Array, prior_RN: Array, scatter_R: Array, start_RN: Array) -> Array:
        """Levenberg's and Marquardt's steps, each draw with its own damping."""
        weight_R1, precision_N = 1 / scatter_R[:, None] ** 2, self.sd**-2.0
        theta_RN, damping_R = start_RN, np.full(len(start_RN), 1e-2)

        def loss(value_RP: Array, theta: Array) -> Array:
            squares = (weight_R1 * (value_RP - log_fvu_RP) ** 2).sum(axis=1)
            return np.asarray(squares + (precision_N * (theta - prior_RN) ** 2).sum(axis=1))

        value_RP, slope_RPN = self.law(theta_RN)
        loss_R = loss(value_RP, theta_RN)
        for _ in range(_STEPS):
            off_RP = weight_R1 * (value_RP - log_fvu_RP)
            down_RN = np.einsum("rpn,rp->rn", slope_RPN, off_RP)
            down_RN += precision_N * (theta_RN - prior_RN)
            bend_RNN = np.swapaxes(slope_RPN, 1, 2) @ (weight_R1[:, :, None] * slope_RPN)
            bend_RNN = bend_RNN + np.diag(precision_N)
            damped = bend_RNN * (1 + damping_R[:, None, None] * np.eye(len(precision_N)))
            trial_RN = theta_RN - np.linalg.solve(damped, down_RN[:, :, None])[:, :, 0]
            trial_value, trial_slope = self.law(trial_RN)
            trial_loss = loss(trial_value, trial_RN)
            better_R = trial_loss < loss_R
            theta_RN = np.where(better_R[:, None], trial_RN, theta_RN)
            value_RP = np.where(better_R[:, None], trial_value, value_RP)
            slope_RPN = np.where(better_R[:, None, None], trial_slope, slope_RPN)
            loss_R = np.minimum(loss_R, trial_loss)
            damping_R = np.where(better_R, damping_R / 5, damping_R * 5)
        return theta_RN

    def scatter(self, log_fvu_P: Array, theta_1N: Array, before: float) -> tuple[float, float]:
        """Of the readings about the law, together with what is expected of it; and the degrees of
        freedom that it rests on."""
        value_1P, slope_1PN = self.law(theta_1N)
        scaled_PN = slope_1PN[0] / before
        inverse = np.linalg.inv(scaled_PN.T @ scaled_PN + np.diag(self.sd**-2.0))
        free = len(log_fvu_P) - float(np.trace(scaled_PN @ inverse @ scaled_PN.T))
        freedom = _SCATTER_READINGS + max(0.0, free)
        squares = float(((log_fvu_P - value_1P[0]) ** 2).sum())
        expected = _SCATTER_READINGS * _SCATTER**2
        return float(np.sqrt((expected + squares) / freedom)), freedom


def _law(
    theta_RN: Array, sizes: Sizes, origin: tuple[float, float, float]
) -> tuple[Array, list[Array]]:
    """[R, C] ln FVU but for what is the sites', and its derivatives by the parameters before η."""
    parameters = theta_RN[:, : len(_NAMES) - 1].T[:, :, None]
    gamma, log_beta, epsilon, log_b, log_delta, mu, nu = parameters
    width0, k0, tokens0 = origin
    m, n = np.log(sizes.width / width0), np.log(sizes.experts)
    k, t = np.log(sizes.k / k0), np.log(tokens0 / sizes.tokens)
    beta, delta = np.exp(log_beta), np.exp(log_delta)
    size, undertrained = -beta * (m - epsilon * n), log_b + delta * t + mu * m + nu * n
    both = np.logaddexp(size, undertrained)
    p, q = np.exp(size - both), np.exp(undertrained - both)
    ones = np.ones_like(both)
    return both - gamma * k, [-k * ones, p * size, p * beta * n, q, q * delta * t, q * m, q * n]


_SLOPE, _CE_SCATTER = Prior(1.0, 0.3), 0.1


def _fit_ce(
    readings: Readings, sites: int, draws: int, random: np.random.Generator
) -> tuple[Array, float]:
    """Draws of c_s and ζ of ln ΔCE_s = c_s + ζ·ln FVU_s, a linear model with normal priors, and its
    scatter. Readings whose ΔCE is not positive are lost in their noise, and left out."""
    kept = readings.delta_ce > 0
    x_P, y_P = np.log(readings.fvu[kept]), np.log(np.maximum(readings.delta_ce[kept], 1e-12))
    a_PS = np.column_stack([np.eye(sites)[readings.site[kept]], x_P])
    level = float((y_P - x_P).mean()) if len(y_P) else 0.0
    prior, sd = np.append(np.full(sites, level), _SLOPE.mean), np.append(np.full(sites, 3.0), 0.3)
    scatter, best = _CE_SCATTER, prior
    for _ in range(_ROUNDS):
        inverse = np.linalg.inv(a_PS.T @ a_PS / scatter**2 + np.diag(sd**-2.0))
        best = prior + inverse @ a_PS.T @ (y_P - a_PS @ prior) / scatter**2
        squares = float(((y_P - a_PS @ best) ** 2).sum())
        freedom = _SCATTER_READINGS + max(0, len(y_P) - sites - 1)
        scatter = np.sqrt((_SCATTER_READINGS * _CE_SCATTER**2 + squares) / freedom)
    return random.multivariate_normal(best, inverse, draws), scatter
