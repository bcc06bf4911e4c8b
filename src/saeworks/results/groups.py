"""Groups of sites: which partitions there may be, and how far apart a group's sites are.

A partition is a list of groups, each a list of indices of sites, in order. L sites.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.errors import UserError

Partition = list[list[int]]
Matrix = npt.NDArray[np.float64]
Cells = Any
"""Whatever may be a matrix [L, L]: an array, a tensor, nested lists; `check_distances` decides."""

_SYMMETRY = 1e-8
"""Largest difference between d(i, j) and d(j, i), relative to the largest distance."""


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
    partition = user_groups(
        [[str(index) for index in group] for group in groups], [str(i) for i in range(sites)]
    )
    return [[int(index) for index in group] for group in partition]


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
    indices = (sorted(place[site] for site in group) for group in groups)
    return sorted(indices, key=lambda group: group[0])


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


@dataclass(frozen=True, config=STRICT)
class Point:
    """A partition into so many groups, and how far apart its groups' sites are."""

    groups: int
    """G."""
    amad: float
    """Mean over groups of the largest distance within each."""
    weighted: float
    """The same, groups weighted by their size."""
    largest: float
    """The largest distance within any group."""
    partition: Partition
    """The groups, as indices of sites."""


def measure(distances: Cells, groups: Sequence[Sequence[int]]) -> Point:
    """How far apart the sites of a partition's groups are.

    Raises:
        UserError: if the matrix is none, or the groups are no partition of its sites.
    """
    d_LL = check_distances(distances)
    partition = [list(group) for group in groups]
    largest = max(diameters(d_LL, partition))
    plain, weighted = amad(d_LL, partition), amad(d_LL, partition, weighted=True)
    return Point(len(partition), plain, weighted, largest, partition)
