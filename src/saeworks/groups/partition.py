"""Partitions of sites into groups that share one SAE, and how far apart a group's sites are.

A partition is a list of groups, each a list of indices of sites, in order. L sites, G groups.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from saeworks.errors import UserError

Method = Literal["complete", "contiguous", "even"]
Objective = Literal["amad", "weighted", "max"]
Partition = list[list[int]]
Matrix = npt.NDArray[np.float64]
Cells = Any
"""Whatever may be a matrix [L, L]: an array, a tensor, nested lists; `check_distances` decides."""

METHODS: tuple[Method, ...] = ("complete", "contiguous", "even")
OBJECTIVES: tuple[Objective, ...] = ("amad", "weighted", "max")

_SYMMETRY = 1e-8
"""Largest difference between d(i, j) and d(j, i), relative to the largest distance."""


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
    `CurvePoint`); of several minima, the one whose last groups start earliest. `even`: neighbours,
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
    check_method(method, objective)
    if method == "complete":
        return _complete(d_LL, int(groups))
    if method == "even":
        return even(sites, int(groups))
    return _contiguous(d_LL, int(groups), objective or "amad")


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


def _complete(d_LL: Matrix, groups: int) -> Partition:
    from scipy.cluster.hierarchy import cut_tree  # exactly G clusters, also where merges tie

    label_L = cut_tree(linkage(d_LL), n_clusters=groups)[:, 0]
    found: dict[int, list[int]] = {}
    for site, label in enumerate(label_L.tolist()):
        found.setdefault(label, []).append(site)
    return list(found.values())


def _contiguous(d_LL: Matrix, groups: int, objective: str) -> Partition:
    """best[g][j]: the least cost of the first j sites in g groups; the last group is i … j − 1."""
    sites = len(d_LL)
    cost = [[0.0] * (sites + 1) for _ in range(sites)]
    for i in range(sites):
        for j in range(i + 1, sites + 1):
            diameter = float(d_LL[i:j, i:j].max())
            cost[i][j] = diameter * (j - i) if objective == "weighted" else diameter
    best = [[math.inf] * (sites + 1) for _ in range(groups + 1)]
    start = [[0] * (sites + 1) for _ in range(groups + 1)]
    best[0][0] = 0.0
    for g in range(1, groups + 1):
        for j in range(g, sites + 1):
            for i in range(g - 1, j):
                before, own = best[g - 1][i], cost[i][j]
                total = max(before, own) if objective == "max" else before + own
                if total < best[g][j]:
                    best[g][j], start[g][j] = total, i
    out: Partition = []
    end = sites
    for g in range(groups, 0, -1):
        out.append(list(range(start[g][end], end)))
        end = start[g][end]
    return out[::-1]


def check_distances(distances: Cells) -> Matrix:
    """The matrix in float64, symmetric to the last bit.

    Raises:
        UserError: if it is not square, has fewer than two sites, or a cell is not finite, is
            negative, not zero on the diagonal, or differs from its mirror image.
    """
    try:
        d_LL = np.asarray(distances, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError("the distances are not a matrix of numbers; give [L, L]") from None
    if d_LL.ndim != 2 or d_LL.shape[0] != d_LL.shape[1]:
        raise UserError(f"the distances have shape {list(d_LL.shape)}, not [L, L]: give a square")
    if len(d_LL) < 2:
        raise UserError(
            f"the distances are of {len(d_LL)} site(s); at least two are needed to make groups"
        )
    _refuse(~np.isfinite(d_LL), d_LL, "must be finite")
    _refuse(d_LL < 0, d_LL, "must not be negative")
    _refuse(np.diag(np.diag(d_LL) != 0), d_LL, "must be 0: it is on the diagonal")
    apart = np.abs(d_LL - d_LL.T) > _SYMMETRY * d_LL.max()
    if apart.any():
        i, j = (int(index) for index in np.argwhere(apart)[0])
        raise UserError(
            f"distances[{i}, {j}] = {d_LL[i, j]:g} but distances[{j}, {i}] = {d_LL[j, i]:g}: the "
            "matrix must be symmetric; average it with its transpose if that is what you mean"
        )
    return np.asarray((d_LL + d_LL.T) / 2)


def _refuse(bad_LL: npt.NDArray[np.bool_], d_LL: Matrix, why: str) -> None:
    if bad_LL.any():
        i, j = (int(index) for index in np.argwhere(bad_LL)[0])
        raise UserError(f"distances[{i}, {j}] = {d_LL[i, j]:g} {why}; measure the distances anew")


def check_groups(groups: Sequence[Sequence[int]], sites: int) -> Partition:
    """The groups as lists, if every index from 0 to `sites` − 1 is in exactly one of them.

    Raises:
        UserError: if a group is empty, or an index is unknown, repeated or missing.
    """
    found = user_groups(
        [[str(index) for index in group] for group in groups], [str(i) for i in range(sites)]
    )
    return [[int(index) for index in group] for group in found]


def user_groups(
    groups: Sequence[Sequence[str]],
    sites: Sequence[str],
    widths: Mapping[str, int] | None = None,
) -> Partition:
    """Groups of sites by name, as indices into `sites`.

    Args:
        groups: every site in exactly one of them.
        sites: canonical names.
        widths: D of each site, checked to be one within each group where given.

    Raises:
        UserError: if a group is empty or mixes widths, or a site is unknown, repeated or in none.
    """
    place = {site: index for index, site in enumerate(sites)}
    seen: dict[str, int] = {}
    for number, group in enumerate(groups):
        if not group:
            raise UserError(f"group {number} is empty; leave it out")
        for site in group:
            if site not in place:
                near = get_close_matches(site, sites, n=3) or [*sites[:3]]
                raise UserError(
                    f"group {number} names the unknown site {site!r}; nearest: {', '.join(near)}"
                )
            if site in seen:
                raise UserError(
                    f"site {site!r} is in group {seen[site]} and again in group {number}; "
                    "name it once"
                )
            seen[site] = number
        _check_widths(number, group, widths)
    for site in sites:
        if site not in seen:
            raise UserError(
                f"site {site!r} is in no group; add it to one, or leave it out of sites"
            )
    found = (sorted(place[site] for site in group) for group in groups)
    return sorted(found, key=lambda group: group[0])


def _check_widths(number: int, group: Sequence[str], widths: Mapping[str, int] | None) -> None:
    for site in group if widths is not None else ():
        if widths is not None and widths[site] != widths[group[0]]:
            raise UserError(
                f"group {number} mixes widths: {group[0]!r} has {widths[group[0]]}, {site!r} "
                f"{widths[site]}; one SAE takes one width, so split the group"
            )


def diameters(distances: Cells, groups: Sequence[Sequence[int]]) -> list[float]:
    """The largest distance within each group; 0 for a group of one.

    Raises:
        UserError: if the matrix is none, or the groups are no partition of its sites.
    """
    d_LL = check_distances(distances)
    check_groups(groups, len(d_LL))
    return [float(d_LL[np.ix_(group, group)].max()) for group in groups]


def amad(distances: Cells, groups: Sequence[Sequence[int]], weighted: bool = False) -> float:
    """Average maximum angular distance: (1/G)·Σ_g max_{i,j ∈ g} d(i, j), groups of one count 0.

    (Group-SAE, arXiv 2410.21508, section 3.) With `weighted`, (1/L)·Σ_g |g|·max d: singletons
    beside one large group cannot make that small.

    Raises:
        UserError: if the matrix is none, or the groups are no partition of its sites.
    """
    largest = diameters(distances, groups)
    weights = [len(group) if weighted else 1 for group in groups]
    return sum(w * d for w, d in zip(weights, largest, strict=True)) / sum(weights)


@dataclass(frozen=True)
class CurvePoint:
    """A partition into G groups, and how far apart its groups' sites are.

    Attributes:
        groups: G.
        amad: mean over groups of the largest distance within each.
        weighted: the same with groups weighted by their size.
        largest: the largest distance within any group.
        partition: the groups.
    """

    groups: int
    amad: float
    weighted: float
    largest: float
    partition: Partition


def curve(
    distances: Cells, method: str = "complete", objective: str | None = None
) -> list[CurvePoint]:
    """The partition for every G from 1 to L, and its AMAD.

    Raises:
        UserError: as `partition` does.
    """
    d_LL = check_distances(distances)
    return [
        measure(d_LL, partition(d_LL, groups, method, objective))
        for groups in range(1, len(d_LL) + 1)
    ]


def measure(distances: Cells, groups: Sequence[Sequence[int]]) -> CurvePoint:
    """How far apart the sites of a partition's groups are.

    Raises:
        UserError: if the matrix is none, or the groups are no partition of its sites.
    """
    d_LL = check_distances(distances)
    found = [list(group) for group in groups]
    largest = max(diameters(d_LL, found))
    plain, weighted = amad(d_LL, found), amad(d_LL, found, weighted=True)
    return CurvePoint(len(found), plain, weighted, largest, found)


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
    found = curve(distances, method, objective)
    groups = smallest_under([point.amad for point in found], threshold)
    return groups, found[groups - 1].partition
