"""The law: derivatives, data made by a known law, coverage over seeds."""

from typing import Any

import numpy as np
import pytest

from saeworks.advice.law import LEVEL, PRIORS, Array, Readings, Sizes, _law, fit, interval

SITES = 3
PILOTS = [(256, 1, 32), (1024, 1, 32), (256, 1, 16), (1024, 4, 32)]
RUN = Sizes.of([(2048, 8, 32, 4e6)])


def truth(random: np.random.Generator) -> Array:
    """Parameters as the priors expect them."""
    theta = [mean + sd * random.standard_normal() for mean, sd in PRIORS.values()]
    sharing = 0.1 * random.standard_normal(SITES)
    level = -2.0 + 0.3 * random.standard_normal(SITES)
    return np.array([*theta, *sharing, *level])


def log_fvu(theta: Array, sizes: Sizes, site: Any, sharing: Array, origin: Array) -> Array:
    """Written out again, by the equation in the docstring of `FVULaw`."""
    gamma, log_beta, eps, log_b, log_delta, mu, nu, eta = theta[:8]
    m, t = sizes.width / origin[0], origin[2] / sizes.tokens
    size = (m * sizes.experts**-eps) ** -np.exp(log_beta)
    undertrained = np.exp(log_b) * t ** np.exp(log_delta) * m**mu * sizes.experts**nu
    own = theta[8 + site] * np.log(sharing) + theta[8 + SITES + site]
    factor = (sizes.k / origin[1]) ** -gamma * sharing**eta
    return np.asarray(np.log(factor * (size + undertrained)) + own)


def pilots(theta: Array, random: np.random.Generator, scatter: float) -> tuple[Readings, Array]:
    """Two lengths of every pilot at every site, and one SAE that all sites share."""
    setups = [(*p, tokens, 1.0) for tokens in (5e4, 2e5) for p in PILOTS]
    setups += [(256, 1, 32, 2e5, 3.0)]
    rows = [(number, s, site) for number, s in enumerate(setups) for site in range(SITES)]
    number, site = np.array([r[0] for r in rows]), np.array([r[2] for r in rows])
    sizes = Sizes.of([r[1][:4] for r in rows])
    sharing = np.array([r[1][4] for r in rows])
    origin = np.array([np.exp(np.log(x).mean()) for x in (sizes.width, sizes.k)] + [2e5])
    exact = log_fvu(theta, sizes, site, sharing, origin)
    shared = random.standard_normal(len(setups))[number]
    noise = scatter * np.sqrt(0.5) * (shared + random.standard_normal(len(rows)))
    fvu = np.exp(exact + noise)
    delta_ce = 0.3 * fvu**1.2 * np.exp(0.05 * random.standard_normal(len(rows)))
    return Readings(sizes, number, site, sharing, fvu, delta_ce), origin


def test_derivatives() -> None:
    random = np.random.default_rng(0)
    theta, sizes = truth(random), Sizes.of([(512, 4, 16, 1e5), (4096, 1, 64, 1e6)])
    origin = (1024.0, 32.0, 3e5)
    _, slope = _law(theta[None], sizes, origin)
    for i, exact in enumerate(slope):
        step = np.zeros_like(theta)
        step[i] = 1e-6
        ends = [_law((theta + sign * step)[None], sizes, origin)[0] for sign in (1, -1)]
        np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, exact, atol=1e-6)


def test_a_known_law_is_found_again() -> None:
    """Exact readings at the pilots' own sizes, and at ten times their tokens."""
    random = np.random.default_rng(1)
    theta = truth(random)
    readings, origin = pilots(theta, random, 0.005)
    law = fit(readings, SITES)
    for tokens, within in ((2e5, 0.06), (2e6, 0.25)):
        sizes = Sizes.of([(1024, 4, 32, tokens)])
        exact = np.exp(log_fvu(theta, sizes, np.arange(SITES), np.ones(SITES), origin))
        middle, low, high = interval(law.fvu(sizes, np.ones(SITES)))
        np.testing.assert_allclose(middle, exact, rtol=within)
        assert (low < exact).all()
        assert (exact < high).all()
    ce, _, _ = interval(law.delta_ce(np.tile(exact, (len(law.scatter), 1))))
    np.testing.assert_allclose(ce, 0.3 * exact**1.2, rtol=0.3)


@pytest.mark.parametrize("sharing", [1.0, 3.0])
def test_coverage(sharing: float) -> None:
    """Runs of twice the width, twice the experts and twenty times the tokens of the longest pilot
    are within the interval of their mean FVU at least as often as is stated (20 laws and their
    pilots; two misses more by chance are allowed for)."""
    hits = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        theta = truth(random)
        readings, origin = pilots(theta, random, 0.04)
        law = fit(readings, SITES, draws=100, seed=seed)
        shared_S = np.full(SITES, sharing)
        exact = np.exp(log_fvu(theta, RUN, np.arange(SITES), shared_S, origin)).mean()
        _, low, high = interval(law.mean_fvu(RUN, shared_S), axis=1)
        hits.append(low[0] <= exact <= high[0])
    assert np.mean(hits) >= LEVEL - 2 / 20


def test_intervals_widen_beyond_the_pilots() -> None:
    random = np.random.default_rng(2)
    readings, _ = pilots(truth(random), random, 0.02)
    law = fit(readings, SITES)
    widths = []
    for tokens in (2e5, 2e6, 2e7):
        _, low, high = interval(
            np.log(law.mean_fvu(Sizes.of([(1024, 1, 32, tokens)]), np.ones(3))), 1
        )
        widths.append(high[0] - low[0])
    assert widths[0] < widths[1] < widths[2]


def test_delta_ce_that_is_noise_is_left_out() -> None:
    random = np.random.default_rng(3)
    readings, _ = pilots(truth(random), random, 0.02)
    readings.delta_ce[:] = -0.001
    law = fit(readings, SITES)
    assert np.isfinite(law.delta_ce(law.fvu(RUN, np.ones(SITES)))).all()
