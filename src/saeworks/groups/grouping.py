"""What a run configuration says about groups, resolved to the sites of a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from saeworks.config import GroupsConfig, from_mapping
from saeworks.errors import UserError
from saeworks.files.access import sha256
from saeworks.groups import partition as parts
from saeworks.results.groups import Partition, amad, user_groups
from saeworks.results.plan import Plan

PER_SITE = "per-site"


@dataclass(frozen=True)
class Grouping:
    """Every site of a run in exactly one group.

    Attributes:
        name: part of the names of its variants; empty where every site is its own group.
        groups: name of a group → its sites, in the model's order.
        method: `per-site`, `user`, or one of `partition.METHODS`.
        draw: whether a step takes one site of every token, or all.
        amad: by the plan's distances; None without a plan.
        plan: SHA-256 of the plan's file.
    """

    name: str
    groups: dict[str, tuple[str, ...]]
    method: str
    draw: Literal["one", "all"] = "one"
    objective: str | None = None
    amad: float | None = None
    plan: str | None = None

    def describe(self) -> dict[str, Any]:
        """Plain values for a suite and for a run's identity."""
        return asdict(self) | {"groups": len(self.groups)}


def per_site(sites: Sequence[str]) -> Grouping:
    """An SAE for every site."""
    return Grouping("", {site: (site,) for site in sites}, PER_SITE)


@dataclass(frozen=True)
class Groupings:
    """Resolves entries of `groups` for one model.

    Attributes:
        widths: D of every site of the run, in the model's order.
        fingerprint: of the model, which a plan must be for.
        model: its name, for messages.
        unlike: why a recorded fingerprint is not the model's; by default where it is another.
    """

    widths: Mapping[str, int]
    fingerprint: str
    model: str
    unlike: Callable[[str], str | None] | None = None
    _plans: dict[str, Plan] = field(default_factory=dict, repr=False)

    def resolve(self, spec: object, where: str) -> list[Grouping]:
        """The groupings of one entry: several where it names several numbers of groups.

        Args:
            spec: `per-site`, a GroupsConfig, or a mapping of its fields.
            where: for messages.

        Raises:
            UserError: if it is none of these, needs a plan or contradicts one, the plan is of
                another model or other sites, or a group is impossible (`user_groups`, `partition`).
        """
        if spec == PER_SITE:
            return [per_site(list(self.widths))]
        if isinstance(spec, Mapping):
            spec = from_mapping(GroupsConfig, spec, where)
        if not isinstance(spec, GroupsConfig):
            raise UserError(
                f"{where} = {spec!r}: write per-site, or a mapping of plan, method, groups, draw"
            )
        try:
            return self._resolved(spec)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def _resolved(self, spec: GroupsConfig) -> list[Grouping]:
        if isinstance(spec.groups, tuple) and not all(isinstance(g, int) for g in spec.groups):
            return [self._given(spec)]
        if spec.plan is not None:
            return self._planned(spec, self._plan(spec.plan))
        if spec.method == "even" and spec.groups is not None:
            if spec.objective is not None:
                parts.check_method("even", spec.objective)
            return [self._even(number, spec) for number in _numbers(spec.groups)]
        if spec.method == "even":
            raise UserError("method even needs groups, how many; such as groups: 2")
        raise UserError(
            "give plan, a file that `saeworks plan` wrote; or method: even and a number of groups; "
            "or groups by names of sites"
        )

    def _given(self, spec: GroupsConfig) -> Grouping:
        """Groups by names of sites."""
        for key in ("plan", "method", "objective"):
            if getattr(spec, key) is not None:
                raise UserError(f"{key} does not go with groups that are named; leave it out")
        named = [list(g) if isinstance(g, tuple) else [str(g)] for g in spec.groups or ()]  # type: ignore[union-attr]
        return self._grouping(user_groups(named, self._sites, self.widths), "user", spec)

    def _even(self, number: int, spec: GroupsConfig) -> Grouping:
        sites = len(self._sites)
        if not 1 <= number <= sites:
            raise UserError(f"groups = {number}: it must be from 1 to {sites}, the number of sites")
        return self._grouping(parts.even(sites, number), "even", spec)

    def _planned(self, spec: GroupsConfig, plan: Plan) -> list[Grouping]:
        if spec.groups is None and spec.method in (None, plan.method):
            objective = plan.objective
            return [self._grouping(plan.partition, plan.method, spec, plan, objective)]
        numbers = _numbers(len(plan.groups) if spec.groups is None else spec.groups)
        method = spec.method or (plan.method if plan.method != "user" else "complete")
        objective = spec.objective
        if objective is None and method == "contiguous":
            objective = plan.objective or "amad"
        return [
            self._grouping(
                parts.partition(plan.measured, number, method, objective),
                method,
                spec,
                plan,
                objective,
            )
            for number in numbers
        ]

    def _grouping(
        self,
        partition: Partition,
        method: str,
        spec: GroupsConfig,
        plan: Plan | None = None,
        objective: str | None = None,
    ) -> Grouping:
        names = [[self._sites[i] for i in group] for group in partition]
        user_groups(names, self._sites, self.widths)  # one width in a group
        name = f"g{len(partition)}-{method}"
        name += f"-{objective}" if objective not in (None, "amad") else ""
        name += "-all" if spec.draw == "all" else ""
        return Grouping(
            name,
            {f"group-{i}": tuple(group) for i, group in enumerate(names)},
            method,
            spec.draw,
            objective,
            None if plan is None else amad(plan.measured, partition),
            None if spec.plan is None else sha256(Path(spec.plan)),
        )

    def _plan(self, path: str) -> Plan:
        """The plan of a file, checked against the model and the run's sites."""
        if path not in self._plans:
            plan = Plan.read(Path(path))
            plan.check_model(self.fingerprint, self.model, self.unlike)
            plan.check_widths(self.widths)
            for site in self.widths:
                if site not in plan.sites:
                    raise UserError(
                        f"site {site!r} of this run is not in plan {path}; leave it out of sites "
                        "(--plan takes the plan's), or make a plan with it (--last for the last "
                        "block)"
                    )
            self._plans[path] = plan
        return self._plans[path]

    @property
    def _sites(self) -> list[str]:
        return list(self.widths)


def _numbers(groups: object) -> list[int]:
    return [groups] if isinstance(groups, int) else list(groups)  # type: ignore[call-overload]
