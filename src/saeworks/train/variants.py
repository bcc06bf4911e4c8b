"""Variants of a run: from the `saes` of its configuration to SAEs ready to be trained."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from saeworks.config import NormaliserKind, RunConfig, TrainConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import ARCHS, sae_config
from saeworks.errors import UserError
from saeworks.groups.grouping import Grouping, Groupings, per_site
from saeworks.train import schedule


@dataclass(frozen=True)
class Variant:
    """One choice of architecture, options and groups, for all sites.

    Attributes:
        name: unique in the run, the same whenever the options are: `topk-x8-k32`.
        arch: name in ARCHS.
        options: the architecture's options at each site (`width` depends on its D).
        grouping: which sites share an SAE.
        normaliser: instead of the run's.
        train: what its optimiser and schedule have for themselves.
    """

    name: str
    arch: str
    options: dict[str, dict[str, Any]]
    grouping: Grouping
    normaliser: NormaliserKind | None = None
    train: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSAE:
    """One SAE of a run: an element of the bank.

    Attributes:
        variant: name of its variant.
        group: its name in the suite; the site's where it serves one.
        sites: the sites it serves.
        sae: in normalised units.
        draw: how the rows of a step are taken from several sites (`mixing.View`).
        normaliser: instead of the run's.
        train: keys of TrainConfig that it has for itself.
    """

    variant: str
    group: str
    sites: tuple[str, ...]
    sae: SAE
    draw: Literal["one", "all"] = "one"
    normaliser: NormaliserKind | None = None
    train: dict[str, Any] = field(default_factory=dict)


Resolve = Callable[[object, str], list[Grouping]]
"""From an entry of `groups`, and what to call it in a message, to what it stands for."""


def expand_variants(
    saes: Sequence[Mapping[str, Any]],
    d_by_site: Mapping[str, int],
    train: TrainConfig | None = None,
    groupings: Sequence[Grouping] | None = None,
    resolve: Resolve | None = None,
) -> list[Variant]:
    """One Variant per combination of the listed values and grouping; widths from `expansion` times
    D.

    Args:
        train: the run's, over which a variant's own `train` must make sense; the defaults unless
            given.
        groupings: of every entry that has none of its own; an SAE per site unless given.
        resolve: for an entry's own `groups`; none are allowed without.

    Raises:
        UserError: if there is none, one has no `arch`, no width or two of them, an option is
            unknown or impossible (as `sae_config`), or two are the same.
    """
    if not saes:
        raise UserError("saes is empty; give at least one, such as {arch: topk, k: 32}")
    variants = [
        variant
        for i, options in enumerate(saes)
        for combination in _combinations(options)
        for variant in _variants(
            combination,
            d_by_site,
            train or TrainConfig(),
            groupings or [per_site(list(d_by_site))],
            resolve,
            f"saes[{i}]",
        )
    ]
    seen: set[str] = set()
    for variant in variants:
        if variant.name in seen:
            raise UserError(f"saes: two variants are the same, {variant.name}; leave one out")
        seen.add(variant.name)
    return variants


def resolved_variants(config: RunConfig, groupings: Groupings) -> list[Variant]:
    """The variants of a whole run.

    Raises:
        UserError: as `expand_variants` and `Groupings.resolve`.
    """
    every = [each for spec in config.groups for each in groupings.resolve(spec, "groups")]
    return expand_variants(config.saes, groupings.widths, config.train, every, groupings.resolve)


def build_members(
    variants: Sequence[Variant],
    d_by_site: Mapping[str, int],
    device: torch.device | str = "cpu",
) -> list[RunSAE]:
    """An SAE (not yet initialised) per variant and group."""
    return [
        RunSAE(
            variant.name,
            group,
            sites,
            _build(variant, sites, d_by_site[sites[0]]).to(device),
            variant.grouping.draw,
            variant.normaliser,
            variant.train,
        )
        for variant in variants
        for group, sites in variant.grouping.groups.items()
    ]


def suite_dirs(variants: Sequence[Variant], out: Path) -> dict[str, Path]:
    """The suite folder of each variant: `out` itself where there is only one."""
    if len(variants) == 1:
        return {variants[0].name: out}
    return {variant.name: out / variant.name for variant in variants}


def _build(variant: Variant, sites: Sequence[str], d: int) -> SAE:
    where = f"variant {variant.name} at {sites[0]}"
    config = sae_config(variant.arch, variant.options[sites[0]], where)
    try:
        sae = ARCHS[variant.arch](d, config)
        sae.share(len(sites))
        return sae
    except RuntimeError as error:
        if "alloc" not in str(error):
            raise
        raise UserError(
            f"{where}: width = {config.width} does not fit into memory; lower it"
        ) from None


def _combinations(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    whole = _sequences(options.get("arch"))
    choices = [
        value if isinstance(value, list) and not (key in whole and _flat(value)) else [value]
        for key, value in options.items()
    ]
    for key, values in zip(options, choices, strict=True):
        if not values:
            raise UserError(f"saes: {key} is an empty list; give at least one value")
    for combination in product(*choices):
        yield dict(zip(options, combination, strict=True))


def _sequences(arch: object) -> set[str]:
    """The architecture's options that are sequences themselves, such as nested sizes."""
    if not isinstance(arch, str) or arch not in ARCHS:
        return set()
    hints = get_type_hints(ARCHS[arch].Config)
    return {
        key
        for key, hint in hints.items()
        if any(get_origin(part) is tuple for part in (hint, *get_args(hint)))
    }


def _flat(values: Sequence[object]) -> bool:
    return not any(isinstance(value, list | tuple) for value in values)


def _variants(
    options: Mapping[str, Any],
    d_by_site: Mapping[str, int],
    run: TrainConfig,
    groupings: Sequence[Grouping],
    resolve: Resolve | None,
    where: str,
) -> list[Variant]:
    """One per grouping."""
    rest = dict(options)
    arch, expansion = rest.pop("arch", None), rest.pop("expansion", None)
    train, normaliser = rest.pop("train", {}), rest.pop("normaliser", None)
    if "groups" in rest:
        if resolve is None:
            raise UserError(f"{where}: groups are not resolved here; leave them out")
        groupings = resolve(rest.pop("groups"), f"{where}.groups")
    if not isinstance(arch, str):
        raise UserError(f"{where} has no arch; choose one of {', '.join(ARCHS)}")
    if (expansion is None) == ("width" not in rest):
        raise UserError(f"{where} (arch {arch}): give either width or expansion (times d)")
    if not isinstance(train, Mapping):
        raise UserError(f"{where}: train = {train!r} must be a mapping, such as {{lr: 1e-3}}")
    if normaliser is not None and normaliser not in get_args(NormaliserKind):
        raise UserError(
            f"{where}: normaliser = {normaliser!r}; choose one of "
            f"{', '.join(get_args(NormaliserKind))}"
        )
    if expansion is not None and not _positive(expansion):
        raise UserError(f"{where}: expansion = {expansion!r} must be a positive, finite number")
    by_site = {
        site: rest if expansion is None else {"width": round(expansion * d), **rest}
        for site, d in d_by_site.items()
    }
    for site, site_options in by_site.items():
        sae_config(arch, site_options, f"{where} at {site}")
    schedule.variant_config(run, train, where)
    name = _name(arch, expansion, {**rest, **train})
    name += f"-{normaliser}" if normaliser else ""
    return [
        Variant(
            f"{name}-{grouping.name}" if grouping.name else name,
            arch,
            by_site,
            grouping,
            normaliser,
            dict(train),
        )
        for grouping in groupings
    ]


def _positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < math.inf


def _name(arch: str, expansion: float | int | None, options: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in options.items() if key not in ("width", "k")}
    parts = [arch, f"x{expansion:g}" if expansion is not None else f"w{options['width']}"]
    parts += [f"k{options['k']}"] if "k" in options else []
    parts += [_part(key, rest[key]) for key in sorted(rest)]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts))


def _part(key: str, value: object) -> str:
    """`l10.1` would be misread."""
    return f"{key}{'_' if key[-1].isdigit() else ''}{_short(value)}"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
