"""Partitions against scipy and enumeration, AMAD by hand and of the paper, bad input."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.spatial.distance import squareform

import saeworks as sw
from saeworks.errors import UserError
from saeworks.groups import partition as parts
from saeworks.results.groups import check_distances, user_groups

PYTHIA_160M = [0.450, 0.372, 0.314, 0.267, 0.231, 0.179, 0.118, 0.075, 0.044, 0.019]
PYTHIA_1B = [
    *(0.459, 0.364, 0.309, 0.250, 0.225, 0.191, 0.174),
    *(0.139, 0.100, 0.075, 0.053, 0.036, 0.022, 0.010),
]
"""AMAD of G = 1, 2, … (Group-SAE, arXiv 2410.21508)."""


def matrix(sites: int, seed: int, levels: int | None = None) -> Any:
    """Random distances; of few different `levels`, so that many tie."""
    rng = np.random.default_rng(seed)
    half = np.triu(rng.uniform(0.01, 0.5, (sites, sites)), 1)
    if levels is not None:
        half = np.triu(rng.integers(1, levels + 1, (sites, sites)) / 8, 1)
    return half + half.T


def all_partitions(sites: list[int]) -> Iterator[list[list[int]]]:
    if not sites:
        yield []
        return
    for rest in all_partitions(sites[1:]):
        yield [[sites[0]], *rest]
        for at in range(len(rest)):
            yield [*rest[:at], [sites[0], *rest[at]], *rest[at + 1 :]]


def contiguous_partitions(sites: int, groups: int) -> Iterator[list[list[int]]]:
    for cuts in itertools.combinations(range(1, sites), groups - 1):
        ends = [0, *cuts, sites]
        yield [list(range(a, b)) for a, b in itertools.pairwise(ends)]


def value(d: Any, groups: list[list[int]], objective: str) -> float:
    """The objective from its definition, cell by cell."""
    largest = [max(d[i, j] for i in group for j in group) for group in groups]
    if objective == "max":
        return float(max(largest))
    weights = [len(group) if objective == "weighted" else 1 for group in groups]
    return float(sum(w * x for w, x in zip(weights, largest)) / sum(weights))


def naive_complete(d: Any, groups: int) -> list[list[int]]:
    """Merge the two clusters whose farthest members are nearest, until `groups` are left."""
    found = [[i] for i in range(len(d))]
    while len(found) > groups:
        pairs = itertools.combinations(range(len(found)), 2)
        a, b = min(pairs, key=lambda p: max(d[i, j] for i in found[p[0]] for j in found[p[1]]))
        found[a] = sorted(found[a] + found[b])
        del found[b]
    return sorted(found)


@pytest.mark.parametrize("seed", range(8))
def test_complete_is_complete_linkage_on_the_distances(seed: int) -> None:
    d = matrix(7, seed)
    merges = scipy_linkage(squareform(d), "complete")
    for groups in range(1, 8):
        found = sw.partition(d, groups)
        label = fcluster(merges, groups, "maxclust")
        expected = sorted(np.flatnonzero(label == one).tolist() for one in set(label))
        assert found == expected == naive_complete(d, groups)
    np.testing.assert_array_equal(parts.linkage(d), merges)


def test_complete_finds_groups_that_are_not_contiguous() -> None:
    d = matrix(7, 0) + 1.0 - np.eye(7)
    for i, j in itertools.permutations([0, 2, 5], 2):
        d[i, j] = 0.1
    for i, j in itertools.permutations([1, 3, 4, 6], 2):
        d[i, j] = 0.2
    assert sw.partition(d, 2) == [[0, 2, 5], [1, 3, 4, 6]]
    best = min(
        (p for p in all_partitions(list(range(7))) if len(p) == 2), key=lambda p: value(d, p, "max")
    )
    assert sorted(best) == sw.partition(d, 2)
    contiguous = sw.partition(d, 2, method="contiguous")
    assert sw.amad(d, contiguous) > sw.amad(d, sw.partition(d, 2))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [None, 2, 3])
@pytest.mark.parametrize("objective", parts.OBJECTIVES)
def test_contiguous_is_the_exact_optimum(
    seed: int, levels: int | None, objective: parts.Objective
) -> None:
    d = matrix(7, seed, levels)
    for groups in range(1, 8):
        found = sw.partition(d, groups, method="contiguous", objective=objective)
        assert len(found) == groups
        assert list(itertools.chain(*found)) == list(range(7))
        best = min(value(d, p, objective) for p in contiguous_partitions(7, groups))
        assert value(d, found, objective) == pytest.approx(best, abs=1e-12)


def test_objectives_differ() -> None:
    found = {
        tuple(map(tuple, sw.partition(matrix(7, 11), 3, method="contiguous", objective=objective)))
        for objective in parts.OBJECTIVES
    }
    assert len(found) > 1
    assert sw.partition(matrix(7, 11), 3, method="contiguous") == sw.partition(
        matrix(7, 11), 3, method="contiguous", objective="amad"
    )


@pytest.mark.parametrize("method", parts.METHODS)
@pytest.mark.parametrize("levels", [1, 2])
def test_ties_still_give_as_many_groups_as_asked_for(method: parts.Method, levels: int) -> None:
    d = matrix(7, 5, levels)
    for groups in range(1, 8):
        found = sw.partition(d, groups, method=method)
        assert len(found) == groups
        assert sorted(itertools.chain(*found)) == list(range(7))
        assert found == sorted(found)
        assert found == sw.partition(d.tolist(), groups, method=method)


def test_even_sizes_differ_by_one_at_most() -> None:
    d = matrix(7, 0)
    assert sw.partition(d, 3, method="even") == [[0, 1, 2], [3, 4], [5, 6]]
    assert sw.partition(d, 1, method="even") == [[*range(7)]]
    assert sw.partition(d, 7, method="even") == [[i] for i in range(7)]


def test_amad_by_hand() -> None:
    d = np.array([[0, 0.1, 0.4, 0.5], [0.1, 0, 0.3, 0.6], [0.4, 0.3, 0, 0.2], [0.5, 0.6, 0.2, 0]])
    assert sw.amad(d, [[0, 1], [2, 3]]) == pytest.approx((0.1 + 0.2) / 2)
    assert sw.amad(d, [[0, 1, 2], [3]]) == pytest.approx((0.4 + 0.0) / 2)
    assert sw.amad(d, [[0, 1, 2], [3]], weighted=True) == pytest.approx((3 * 0.4 + 0.0) / 4)
    assert sw.amad(d, [[0], [1], [2], [3]]) == 0.0
    assert sw.amad(d, [[3, 1, 0, 2]]) == pytest.approx(0.6)
    point = parts.curve(d)[2]
    assert (point.groups, point.partition) == (3, [[0, 1], [2], [3]])
    assert point.amad == pytest.approx(0.1 / 3)
    assert point.weighted == pytest.approx(2 * 0.1 / 4)
    assert point.largest == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("curve", "threshold", "groups"),
    [
        (PYTHIA_160M, 0.2, 6),
        (PYTHIA_160M, 0.19, 6),
        (PYTHIA_1B, 0.2, 6),
        (PYTHIA_1B, 0.15, 8),
        (PYTHIA_1B, 0.191, 7),
    ],
)
def test_number_of_groups_of_the_published_curves(
    curve: list[float], threshold: float, groups: int
) -> None:
    assert parts.smallest_under(curve, threshold) == groups


@pytest.mark.parametrize("method", parts.METHODS)
def test_choose_groups_takes_the_smallest_number_below(method: parts.Method) -> None:
    d = matrix(7, 3)
    for threshold in (0.05, 0.2, 0.3, 0.6):
        groups, found = sw.choose_groups(d, threshold, method)
        assert found == sw.partition(d, groups, method)
        assert sw.amad(d, found) < threshold
        for fewer in range(1, groups):
            assert sw.amad(d, sw.partition(d, fewer, method)) >= threshold
    assert sw.choose_groups(d, 1e-9, method)[0] == 7


def test_curve_is_of_every_number() -> None:
    d = matrix(6, 1)
    for objective in parts.OBJECTIVES:
        found = parts.curve(d, "contiguous", objective)
        assert [point.groups for point in found] == [1, 2, 3, 4, 5, 6]
        for point in found:
            assert point.amad == pytest.approx(value(d, point.partition, "amad"))
            assert point.weighted == pytest.approx(value(d, point.partition, "weighted"))
            assert point.largest == pytest.approx(value(d, point.partition, "max"))


def changed(cells: dict[tuple[int, int], float]) -> Any:
    d = matrix(4, 0)
    for (i, j), number in cells.items():
        d[i, j] = number
    return d


@pytest.mark.parametrize(
    ("distances", "said"),
    [
        (changed({(1, 2): 0.9}), r"distances\[1, 2\] = 0.9 but distances\[2, 1\]"),
        (changed({(0, 3): np.nan}), r"distances\[0, 3\] = nan must be finite"),
        (changed({(2, 1): np.inf}), r"distances\[2, 1\] = inf must be finite"),
        (changed({(2, 2): 1e-9}), r"distances\[2, 2\] = 1e-09 must be 0"),
        (changed({(1, 0): -0.1, (0, 1): -0.1}), r"distances\[0, 1\] = -0.1 must not be negative"),
        (np.zeros((1, 1)), r"of 1 site\(s\); at least two"),
        (np.zeros((0, 0)), r"of 0 site\(s\); at least two"),
        (np.zeros((2, 3)), r"shape \[2, 3\]"),
        (np.zeros(4), r"shape \[4\]"),
        (None, "shape"),
        ([["x", 1], [1, 0]], "not a matrix of numbers"),
        ([[0], [1, 0]], "not a matrix of numbers"),
    ],
)
def test_bad_distances(distances: Any, said: str) -> None:
    for use in (lambda d: sw.partition(d, 1), sw.choose_groups, lambda d: sw.amad(d, [[0]])):
        with pytest.raises(UserError, match=said) as caught:
            use(distances)
        assert "\n" not in str(caught.value)


def test_rounding_of_the_mirror_image_is_forgiven() -> None:
    d = changed({})
    d[1, 2] += 1e-12
    assert check_distances(d)[1, 2] == check_distances(d)[2, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups": 0}, "groups = 0: it must be from 1 to 4"),
        ({"groups": 5}, "groups = 5: it must be from 1 to 4"),
        ({"groups": -1}, "groups = -1"),
        ({"groups": True}, "groups = True: it must be a whole number"),
        ({"method": "ward"}, "method 'ward' is unknown; choose one of complete, contiguous, even"),
        ({"objective": "amad"}, "goes with method 'contiguous'"),
        ({"method": "contiguous", "objective": "sum"}, "objective 'sum' is unknown"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        sw.partition(matrix(4, 0), **{"groups": 2, **options})


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_threshold_that_nothing_is_below(threshold: float) -> None:
    with pytest.raises(UserError, match="no number of groups has an AMAD below"):
        sw.choose_groups(matrix(4, 0), threshold)
    with pytest.raises(UserError, match="not measured"):
        parts.smallest_under([], 0.2)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([[0, 1], [2]], "site '3' is in no group"),
        ([[0, 1], [1, 2, 3]], "site '1' is in group 0 and again in group 1"),
        ([[0, 0], [1, 2, 3]], "site '0' is in group 0 and again in group 0"),
        ([[0, 1], [2, 3, 4]], "unknown site '4'"),
        ([[0, 1, 2, 3], []], "group 1 is empty"),
        ([[0, 1, 2], [-1]], "unknown site '-1'"),
    ],
)
def test_amad_of_no_partition(groups: list[list[int]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        sw.amad(matrix(4, 0), groups)


SITES = ["layers.0", "layers.1", "layers.2"]
WIDTHS = {"layers.0": 16, "layers.1": 16, "layers.2": 8}


def test_groups_of_a_user() -> None:
    assert user_groups([["layers.1"], ["layers.2", "layers.0"]], SITES) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([["layers.0", "layers.7"]], "group 0 names the unknown site 'layers.7'; nearest: layers"),
        ([["layers.0"], ["layers.1", "layers.0"]], "'layers.0' is in group 0 and again in group 1"),
        ([["layers.0"], ["layers.2"]], "site 'layers.1' is in no group"),
        ([SITES[:2], []], "group 1 is empty"),
        ([["layers.0"], ["layers.1", "layers.2"]], "group 1 mixes widths: 'layers.1' has 16, 'l"),
    ],
)
def test_bad_groups_of_a_user(groups: list[list[str]], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        user_groups(groups, SITES, WIDTHS)
    assert "\n" not in str(caught.value)
