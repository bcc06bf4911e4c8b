"""How sites are divided into groups that share one SAE. L sites, G groups."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from saeworks.errors import UserError
from saeworks.results.groups import Cells, Matrix, Partition, Point, check_distances, measure

Method = Literal["complete", "contiguous", "even"]
Objective = Literal["amad", "weighted", "max"]
METHODS: tuple[Method, ...] = ("complete", "contiguous", "even")
OBJECTIVES: tuple[Objective, ...] = ("amad", "weighted", "max")


def partition(
    distances: Cells,
    groups: int,
    method: str = "complete",
    objective: str | None = None,
) -> Partition:
    """L sites in G groups.

    `complete`: agglomerative clustering with complete linkage on the distances themselves
    (Group-SAE, arXiv 2410.21508, section 3; where merges tie, scipy's order decides).
    `contiguous`: groups of neighbouring sites, the exact minimum of the objective over all such
    partitions, by dynamic programming: `amad` (by default), `weighted` or `max` (see `amad` and
    `Point`); of several minima, the one whose last groups start earliest. `even`: neighbours,
    sizes that differ by at most one, larger groups first.

    Args:
        distances: [L, L], symmetric, finite, zero on the diagonal.
        groups: G, from 1 to L.
        method: one of METHODS.
        objective: for `contiguous` only.

    Returns:
        Lists of indices, each in order, the lists in the order of their first index.

    Raises:
        UserError: if the matrix, G, the method or the objective is none of these.
    """
    d_LL = check_distances(distances)
    sites = len(d_LL)
    if isinstance(groups, bool) or not isinstance(groups, int | np.integer):
        raise UserError(f"groups = {groups!r}: it must be a whole number from 1 to {sites}")
    if not 1 <= groups <= sites:
        raise UserError(f"groups = {groups}: it must be from 1 to {sites}, the number of sites")
    return _partitions(d_LL, int(groups), method, objective)[-1]


def _partitions(d_LL: Matrix, most: int, method: str, objective: str | None) -> list[Partition]:
    """The partitions in 1, 2, … `most` groups."""
    check_method(method, objective)
    if method == "complete":
        return _complete(d_LL, most)
    if method == "even":
        return [even(len(d_LL), groups) for groups in range(1, most + 1)]
    return _contiguous(d_LL, most, objective or "amad")


def even(sites: int, groups: int) -> Partition:
    """Neighbours in groups whose sizes differ by at most one, the larger ones first."""
    return [part.tolist() for part in np.array_split(np.arange(sites), groups)]


def check_method(method: str, objective: str | None) -> None:
    """Refuse a method or an objective that is none, or that do not go together.

    Raises:
        UserError: if so.
    """
    if method not in METHODS:
        raise UserError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}")
    if objective is not None and method != "contiguous":
        raise UserError(
            f"objective {objective!r} goes with method 'contiguous'; {method!r} minimises none"
        )
    if objective is not None and objective not in OBJECTIVES:
        raise UserError(f"objective {objective!r} is unknown; choose {', '.join(OBJECTIVES)}")


def linkage(distances: Cells) -> Matrix:
    """scipy's record of the L − 1 merges of complete linkage: [L − 1, 4], for a dendrogram."""
    from scipy.cluster.hierarchy import linkage as scipy_linkage
    from scipy.spatial.distance import squareform

    return np.asarray(scipy_linkage(squareform(check_distances(distances)), "complete"))


def _complete(d_LL: Matrix, most: int) -> list[Partition]:
    from scipy.cluster.hierarchy import cut_tree  # exactly G clusters, also where merges tie

    labels_LG = cut_tree(linkage(d_LL))[:, ::-1]  # from all in one group to each in its own
    out = []
    for label_L in labels_LG.T[:most].tolist():
        members: dict[int, list[int]] = {}
        for site, label in enumerate(label_L):
            members.setdefault(label, []).append(site)
        out.append(list(members.values()))
    return out


def _contiguous(d_LL: Matrix, most: int, objective: str) -> list[Partition]:
    """best[g][j]: the least cost of the first j sites in g groups; the last group is i … j − 1. One
    table serves every number of groups: O(L³) for all of them."""
    sites = len(d_LL)
    cost = [[0.0] * (sites + 1) for _ in range(sites)]
    for i in range(sites):
        diameter = 0.0
        for j in range(i + 1, sites + 1):
            diameter = max(diameter, float(d_LL[i:j, j - 1].max()))
            cost[i][j] = diameter * (j - i) if objective == "weighted" else diameter
    best = [[math.inf] * (sites + 1) for _ in range(most + 1)]
    start = [[0] * (sites + 1) for _ in range(most + 1)]
    best[0][0] = 0.0
    for g in range(1, most + 1):
        for j in range(g, sites + 1):
            for i in range(g - 1, j):
                before, cost_ij = best[g - 1][i], cost[i][j]
                total = max(before, cost_ij) if objective == "max" else before + cost_ij
                if total < best[g][j]:
                    best[g][j], start[g][j] = total, i
    return [_ends(start, groups, sites) for groups in range(1, most + 1)]


def _ends(start: list[list[int]], groups: int, sites: int) -> Partition:
    """The groups, from the last to the first, by where each of them starts."""
    out: Partition = []
    end = sites
    for g in range(groups, 0, -1):
        out.append(list(range(start[g][end], end)))
        end = start[g][end]
    return out[::-1]


def curve(distances: Cells, method: str = "complete", objective: str | None = None) -> list[Point]:
    """The partition for every G from 1 to L, and its AMAD.

    Raises:
        UserError: as `partition` does.
    """
    d_LL = check_distances(distances)
    return [measure(d_LL, made) for made in _partitions(d_LL, len(d_LL), method, objective)]


def smallest_under(values: Sequence[float], threshold: float) -> int:
    """Ĝ = min{G : AMAD(G) < threshold}, where `values` are AMAD(1), AMAD(2), …

    Raises:
        UserError: if none is below the threshold.
    """
    for groups, value in enumerate(values, start=1):
        if value < threshold:
            return groups
    least = f"{min(values):g}" if len(values) else "not measured"
    raise UserError(
        f"threshold = {threshold}: no number of groups has an AMAD below it (the least is "
        f"{least}); give a larger one"
    )


def choose_groups(
    distances: Cells,
    threshold: float = 0.2,
    method: str = "complete",
    objective: str | None = None,
) -> tuple[int, Partition]:
    """The smallest G whose AMAD is below the threshold, and its partition.

    0.2 is the paper's threshold for every model (arXiv 2410.21508, section 3).

    Raises:
        UserError: as `partition` does, or if the threshold is not a number above 0.
    """
    points = curve(distances, method, objective)
    groups = smallest_under([point.amad for point in points], threshold)
    return groups, points[groups - 1].partition
