"""A model's groups, with everything they follow from, as one JSON file."""

import math
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from saeworks import __version__
from saeworks.config import STRICT, from_mapping
from saeworks.errors import UserError
from saeworks.files.access import read_json, write_json
from saeworks.groups import partition as parts
from saeworks.groups.distances import AngularDistances

SCHEMA: Literal[1] = 1

Row = tuple[float | None, ...]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, config=STRICT)
class Distances:
    """The measured matrices [L, L], rows and columns in the order of the plan's sites."""

    raw: tuple[tuple[float, ...], ...]
    """Mean angle between the activations of two sites, in half turns."""
    centred: tuple[tuple[float, ...], ...]
    """The same after each site's mean is subtracted."""
    stderr: tuple[Row, ...]
    """Standard error of `raw` over documents; null where there was one document."""
    stderr_centred: tuple[Row, ...]
    """The same of `centred`."""


@dataclass(frozen=True, config=STRICT)
class Point:
    """What the partition into this many groups would be."""

    groups: int
    """G."""
    amad: float
    """Mean over groups of the largest distance within each."""
    weighted: float
    """The same, groups weighted by their size."""
    largest: float
    """The largest distance within any group."""
    partition: tuple[tuple[int, ...], ...]
    """The groups, as indices into the plan's sites."""


@dataclass(frozen=True, config=STRICT)
class Plan:
    """Which sites share an SAE, and why."""

    model: str
    """Name of the language model."""
    revision: str | None
    """Its revision on Hugging Face."""
    fingerprint: str
    """SHA-256 of its configuration and weights."""
    text: dict[str, Any]
    """The fields of the text's configuration."""
    sites: tuple[str, ...]
    """Canonical names, in model order."""
    groups: dict[str, tuple[str, ...]]
    """Name of a group → its sites; every site in exactly one."""
    method: Literal["complete", "contiguous", "even", "user"]
    """How they were found; `user`: given by hand."""
    objective: Literal["amad", "weighted", "max"] | None
    """What `contiguous` minimised."""
    threshold: float | None
    """The AMAD below which the smallest G was chosen; null where G was given."""
    matrix: Literal["raw", "centred"]
    """The distances that groups and curve follow from."""
    distances: Distances
    """Raw and centred side by side, with standard errors."""
    curve: tuple[Point, ...]
    """For every G from 1 to L, by `method` (`complete` where that is `user`)."""
    linkage: tuple[tuple[float, ...], ...]
    """The L − 1 merges of complete linkage, as scipy writes them: what a dendrogram draws."""
    tokens: int
    """Tokens that the distances are means over."""
    documents: int
    """Documents they come from."""
    mean_tokens: int
    """Tokens on which the sites' means were taken, before those."""
    seed: int
    """Of the order of the documents."""
    saving: tuple[float, ...] | None = None
    """For every G from 1 to L: the share of the training's operations, the language model's
    included, that G SAEs save against one per site."""
    saving_of: str | None = None
    """With which SAEs and for how many tokens that is counted."""
    versions: dict[str, str | None] = field(default_factory=dict)
    """Packages it was made with."""
    schema: Literal[1] = SCHEMA

    def __post_init__(self) -> None:
        _check(self)

    @property
    def partition(self) -> parts.Partition:
        """The groups as lists of indices into `sites`."""
        return parts.user_groups(list(self.groups.values()), self.sites)

    @property
    def measured(self) -> parts.Matrix:
        """The distances that the groups follow from, [L, L]."""
        return parts.check_distances(getattr(self.distances, self.matrix))

    def check_model(
        self,
        fingerprint: str,
        name: str = "this model",
        unlike: Callable[[str], str | None] | None = None,
    ) -> None:
        """Refuse another model than the plan's.

        Args:
            fingerprint, name: the model's.
            unlike: why a recorded fingerprint is not the model's, None where it is.

        Raises:
            UserError: if the fingerprint is another.
        """
        if fingerprint == self.fingerprint:
            return
        reason = unlike(self.fingerprint) if unlike else "it is another one"
        if reason is not None:
            raise UserError(
                f"the plan was made for {self.model!r} (fingerprint {self.fingerprint[:12]}), not "
                f"for {name} ({fingerprint[:12]}): {reason}; make one for it with `saeworks plan`"
            )

    def check_widths(self, widths: Mapping[str, int]) -> None:
        """Refuse a group whose sites differ in width, or a site that the model does not have.

        Raises:
            UserError: if there is one.
        """
        for site in self.sites:
            if site not in widths:
                raise UserError(f"the plan's site {site!r} is none of this run's; add it to sites")
        parts.user_groups(list(self.groups.values()), self.sites, widths)

    def write(self, path: Path) -> None:
        """Write JSON atomically."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read JSON strictly, whoever wrote it.

        Raises:
            UserError: if the file is missing, not JSON, of another schema, has an unknown key or a
                wrong type, or does not hold together.
        """
        data = read_json(path, "plan")
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise UserError(
                f"plan {path} has schema {found!r}, this version reads {SCHEMA}; make it anew with "
                "`saeworks plan`"
            )
        return from_mapping(cls, data, f"plan {path}")


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
    d_LL = parts.check_distances(getattr(distances, matrix))
    if method == "contiguous" and objective is None:
        objective = "amad"
    curve = parts.curve(d_LL, method, objective)
    given = groups is not None and not isinstance(groups, int)
    if groups is None:
        number = parts.smallest_under([point.amad for point in curve], threshold)
        found = curve[number - 1].partition
    elif isinstance(groups, int):
        found = parts.partition(d_LL, groups, method, objective)
    else:
        found = parts.user_groups(groups, distances.sites)
    sites = distances.sites
    if given:
        curve = parts.curve(d_LL)
    return Plan(
        model=distances.model,
        revision=distances.revision,
        fingerprint=distances.fingerprint,
        text=dict(distances.text or {}),
        sites=sites,
        groups={f"group-{g}": tuple(sites[i] for i in found[g]) for g in range(len(found))},
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
        curve=tuple(
            Point(p.groups, p.amad, p.weighted, p.largest, tuple(map(tuple, p.partition)))
            for p in curve
        ),
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


def _check(plan: Plan) -> None:
    """Refuse a plan whose parts do not fit one another: it may come from anywhere."""
    if len(set(plan.sites)) != len(plan.sites):
        raise UserError("sites names one site twice; name each once")
    for name in plan.groups:
        if not _NAME.fullmatch(name):
            raise UserError(
                f"groups: {name!r} is no name of a folder; use letters, digits, '.', '_', '-'"
            )
    parts.user_groups(list(plan.groups.values()), plan.sites)
    size = len(plan.sites)
    for key in ("raw", "centred", "stderr", "stderr_centred"):
        rows = getattr(plan.distances, key)
        if len(rows) != size or any(len(row) != size for row in rows):
            raise UserError(f"distances.{key} is not [{size}, {size}], as many as there are sites")
        if key.startswith("stderr"):
            cells = [cell for row in rows for cell in row if cell is not None]
            if not all(math.isfinite(cell) and cell >= 0 for cell in cells):
                raise UserError(f"distances.{key} holds a cell that is no standard error")
        else:
            parts.check_distances(rows)
    _check_curve(plan, size)


def _check_curve(plan: Plan, size: int) -> None:
    if plan.saving is not None and not (
        len(plan.saving) == size and all(math.isfinite(s) and s <= 1 for s in plan.saving)
    ):
        raise UserError(f"saving must have one share for every number of groups from 1 to {size}")
    if [point.groups for point in plan.curve] != list(range(1, size + 1)):
        raise UserError(f"curve must have one point for every number of groups from 1 to {size}")
    for point in plan.curve:
        own = parts.measure(plan.measured, point.partition)
        values = (own.groups, own.amad, own.weighted, own.largest)
        written = (point.groups, point.amad, point.weighted, point.largest)
        if not all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(values, written, strict=True)):
            raise UserError(
                f"curve: the point of {point.groups} groups is not that of its partition"
            )
    merges = [row for row in plan.linkage if len(row) == 4 and all(map(math.isfinite, row))]
    if len(merges) != size - 1 or len(plan.linkage) != size - 1:
        raise UserError(f"linkage is not [{size - 1}, 4], a merge for all sites but one")


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"saeworks": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
