"""A model's groups, with everything they follow from, as one JSON file."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.errors import UserError
from saeworks.files.access import read_json, write_json
from saeworks.results.groups import (
    Matrix,
    Partition,
    Point,
    check_distances,
    measure,
    user_groups,
)
from saeworks.results.records import SCHEMA, parse_file

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
    def partition(self) -> Partition:
        """The groups as lists of indices into `sites`."""
        return user_groups(list(self.groups.values()), self.sites)

    @property
    def measured(self) -> Matrix:
        """The distances that the groups follow from, [L, L]."""
        return check_distances(getattr(self.distances, self.matrix))

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
        user_groups(list(self.groups.values()), self.sites, widths)

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
        return parse_file(cls, read_json(path, "plan"), path, "plan", "saeworks plan")


def _check(plan: Plan) -> None:
    """Refuse a plan whose parts do not fit one another: it may come from anywhere."""
    if len(set(plan.sites)) != len(plan.sites):
        raise UserError("sites names one site twice; name each once")
    for name in plan.groups:
        if not _NAME.fullmatch(name):
            raise UserError(
                f"groups: {name!r} is no name of a folder; use letters, digits, '.', '_', '-'"
            )
    user_groups(list(plan.groups.values()), plan.sites)
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
            check_distances(rows)
    _check_curve(plan, size)


def _check_curve(plan: Plan, size: int) -> None:
    if plan.saving is not None and not (
        len(plan.saving) == size and all(math.isfinite(s) and s <= 1 for s in plan.saving)
    ):
        raise UserError(f"saving must have one share for every number of groups from 1 to {size}")
    if [point.groups for point in plan.curve] != list(range(1, size + 1)):
        raise UserError(f"curve must have one point for every number of groups from 1 to {size}")
    for point in plan.curve:
        expected = measure(plan.measured, point.partition)
        values = (expected.groups, expected.amad, expected.weighted, expected.largest)
        written = (point.groups, point.amad, point.weighted, point.largest)
        if not all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(values, written, strict=True)):
            raise UserError(
                f"curve: the point of {point.groups} groups is not that of its partition"
            )
    _check_linkage(plan, size)


def _check_linkage(plan: Plan, size: int) -> None:
    merges = [row for row in plan.linkage if len(row) == 4 and all(map(math.isfinite, row))]
    if len(merges) != size - 1 or len(plan.linkage) != size - 1:
        raise UserError(f"linkage is not [{size - 1}, 4], a merge for all sites but one")
    clusters = set(range(size))
    for number, (first, second, _, _) in enumerate(plan.linkage):
        if first == second or not {first, second} <= clusters:
            raise UserError(f"linkage: merge {number} is not of two clusters that are there")
        clusters = (clusters - {first, second}) | {size + number}
