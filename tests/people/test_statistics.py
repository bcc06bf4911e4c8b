"""Intervals, differences, agreement and power against published numbers and plain simulation."""

import numpy as np
import pytest

from saeworks.people.statistics import (
    Count,
    cohen,
    detectable,
    difference,
    fleiss,
    power,
    share,
    wilson,
)
from saeworks.results.metric import Value


def test_wilsons_interval_is_newcombes_example() -> None:
    """Newcombe 1998a, table I, method 3."""
    assert wilson(Count(81, 263)) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(Count(0, 20)) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(Count(1, 29)) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert share(Count(0, 0)).value is None


def test_a_difference_of_one_site_is_newcombes_example() -> None:
    """Newcombe 1998b, table II, method 10."""
    value = difference([(Count(56, 70), Count(48, 80))])
    assert (value.value, value.low, value.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    extreme = difference([(Count(0, 10), Count(10, 10))])
    assert (extreme.low, extreme.high) == pytest.approx((-1.0, -0.6075), abs=5e-5)


def test_sites_that_are_alike_are_as_one_site_of_all_latents() -> None:
    parts = difference([(Count(8, 12), Count(5, 12))] * 4)
    whole = difference([(Count(32, 48), Count(20, 48))])
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=2e-3)
    assert difference([]).value is None
    assert difference([(Count(0, 0), Count(1, 2))]).value is None


@pytest.mark.parametrize("rates", [(0.9, 0.5, 0.2, 0.6), (0.95, 0.98, 0.9, 1.0)])
def test_the_interval_over_sites_covers_the_true_difference(rates: tuple[float, ...]) -> None:
    rng, covered, runs = np.random.default_rng(0), 0, 2000
    true = 0.0
    for _ in range(runs):
        first, second = rng.binomial(24, rates), rng.binomial(24, np.array(rates) - 0.1)
        true = 0.1
        value = difference(
            [(Count(int(a), 24), Count(int(b), 24)) for a, b in zip(first, second, strict=True)]
        )
        assert value.low is not None and value.high is not None
        covered += value.low <= true <= value.high
    assert 0.93 < covered / runs < 0.985


def test_fleiss_kappa_is_that_of_its_definition() -> None:
    """P and P_e as Fleiss (1971) has them, of eight latents and four raters: the third category is
    `maybe`."""
    table = [(4, 0, 0), (2, 2, 0), (0, 0, 4), (1, 1, 2), (0, 4, 0), (3, 0, 1), (0, 2, 2), (4, 0, 0)]
    kinds = ("yes", "no", "maybe")
    ratings = [
        [kind for kind, count in zip(kinds, row, strict=True) for _ in range(count)]
        for row in table
    ]
    agreed = sum(sum(n * n for n in row) - 4 for row in table) / (8 * 4 * 3)
    chance = sum((sum(row[c] for row in table) / 32) ** 2 for c in range(3))
    assert fleiss(ratings).kappa().value == pytest.approx((agreed - chance) / (1 - chance))


def test_cohens_kappa_is_that_of_the_table() -> None:
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5
    pairs += [("no", "yes")] * 10 + [("no", "no")] * 15
    value = cohen(pairs).kappa()
    assert value.value == pytest.approx(0.4)
    assert value.low is not None and value.high is not None
    assert value.low < 0.4 < value.high and value == cohen(pairs).kappa()
    for same in ([("yes", "yes")] * 3, []):
        assert cohen(same).kappa() == fleiss(same).kappa() == Value(None)
    assert fleiss(pairs).kappa().value == pytest.approx((0.7 - 0.505) / 0.495)


def test_power_is_the_share_of_simulated_studies_that_find_the_difference() -> None:
    rng, runs = np.random.default_rng(0), 4000
    first, second = rng.binomial(96, 0.6, runs), rng.binomial(96, 0.4, runs)
    found = 0
    for a, b in zip(first, second, strict=True):
        value = difference([(Count(int(a), 96), Count(int(b), 96))])
        assert value.low is not None and value.high is not None
        found += value.low > 0 or value.high < 0
    assert power(96, 0.2) == pytest.approx(found / runs, abs=0.02)
    assert power(96, 0.0) == pytest.approx(0.05, abs=0.01)


def test_the_detectable_difference_falls_with_the_latents() -> None:
    assert detectable(96) == pytest.approx(0.201)
    few, many = detectable(24), detectable(400)
    assert few is not None and many is not None and few > 0.35 and many < 0.1
    assert detectable(1) is None
