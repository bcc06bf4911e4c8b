"""The plan that follows from measured distances."""

import math
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from saeworks import __version__
from saeworks.groups import partition as parts
from saeworks.groups.distances import AngularDistances
from saeworks.results.groups import check_distances, user_groups
from saeworks.results.plan import Distances, Plan


def make_plan(
    distances: AngularDistances,
    groups: int | Sequence[Sequence[str]] | None = None,
    *,
    method: parts.Method = "complete",
    objective: parts.Objective | None = None,
    threshold: float = 0.2,
    matrix: Literal["raw", "centred"] = "raw",
) -> Plan:
    """The plan that follows from measured distances.

    Args:
        groups: their number; or the groups themselves, by names of sites; by default the smallest
            number whose AMAD is below `threshold`.
        method, objective: how sites are grouped, see `partition`; not for groups given by name.
        matrix: which distances the groups follow from.

    Raises:
        UserError: as `partition`, `user_groups` and `choose_groups` do.
    """
    d_LL = check_distances(getattr(distances, matrix))
    if method == "contiguous" and objective is None:
        objective = "amad"
    curve = parts.curve(d_LL, method, objective)
    given = groups is not None and not isinstance(groups, int)
    if groups is None:
        number = parts.smallest_under([point.amad for point in curve], threshold)
        chosen = curve[number - 1].partition
    elif isinstance(groups, int):
        chosen = parts.partition(d_LL, groups, method, objective)
    else:
        chosen = user_groups(groups, distances.sites)
    sites = distances.sites
    if given:
        curve = parts.curve(d_LL)
    return Plan(
        model=distances.model,
        revision=distances.revision,
        fingerprint=distances.fingerprint,
        text=dict(distances.text or {}),
        sites=sites,
        groups={f"group-{g}": tuple(sites[i] for i in chosen[g]) for g in range(len(chosen))},
        method="user" if given else method,
        objective=None if given else objective,
        threshold=threshold if groups is None else None,
        matrix=matrix,
        distances=Distances(
            raw=_rows(distances.raw),
            centred=_rows(distances.centred),
            stderr=_rows(distances.stderr),
            stderr_centred=_rows(distances.stderr_centred),
        ),
        curve=tuple(curve),
        linkage=_rows(parts.linkage(d_LL)),
        tokens=distances.tokens,
        documents=distances.documents,
        mean_tokens=distances.mean_tokens,
        seed=distances.seed,
        versions=_versions(),
    )


def _rows(matrix: Any) -> Any:
    """A matrix as nested tuples; NaN, which JSON does not know, is None."""
    return tuple(tuple(None if math.isnan(v) else v for v in row) for row in matrix.tolist())


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"saeworks": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "numpy", "scipy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions
