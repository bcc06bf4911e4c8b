"""The audited SAEs: which of them a claim, table or figure is about, and their numbers."""

from collections.abc import Sequence
from typing import Any

from experiments.criteria import Number, hull, number
from experiments.runs import Found
from experiments.tables import ARCHS as NAMES

Sae = dict[str, Any]
ARCHS = ("topk", "batchtopk", "jumprelu", "gated", "relu", "switch")
GROUPED = "topk in groups"


def value(sae: Sae, name: str) -> Number | None:
    """`section.metric` of an SAE; None where it is undefined or was not measured."""
    section, _, metric = name.partition(".")
    return number(sae["values"].get(section, {}).get(metric))


def mean(saes: Sequence[Sae | None], name: str) -> Number | None:
    """Over the seeds, with the hull of their intervals."""
    return hull(value(sae, name) for sae in saes if sae)


def shown(n: Number | None) -> str:
    return "–" if n is None else f"{n:.3f}"


def arch_name(arch: str) -> str:
    return "TopK in groups" if arch == GROUPED else NAMES[arch]


def by_layer(found: Found, where: str) -> dict[str, Sae]:
    """Site → the TopK SAE of its own layer."""
    return {
        sae["site"]: sae
        for sae in found["saes"]
        if sae["where"] == where and sae["file"] == "layers" and not sae["grouped"]
    }


def at_layer(found: Found, where: str) -> list[Sae]:
    """Every SAE of the run at one layer."""
    return [s for s in found["saes"] if s["where"] == where and s["file"] == "layer"]


def by_width(found: Found, where: str) -> list[Sae]:
    """TopK at one layer, narrowest first."""
    saes = [sae for sae in at_layer(found, where) if sae["arch"] == "topk"]
    return sorted(saes, key=lambda sae: sae["width"])


def by_arch(found: Found, where: str) -> dict[str, Sae]:
    """Architecture → its SAE at one layer, of one width; TopK in groups last."""
    saes = at_layer(found, where)
    width = next(sae["width"] for sae in saes if sae["arch"] != "topk")
    as_wide = {sae["arch"]: sae for sae in saes if sae["width"] == width}
    chosen = {arch: as_wide[arch] for arch in ARCHS if arch in as_wide}
    for sae in found["saes"]:
        if sae["where"] == where and sae["grouped"] and sae["site"] == saes[0]["site"]:
            chosen.setdefault(GROUPED, sae)
    return chosen


def of_seeds(found: Found) -> list[str]:
    """The places of the trained model."""
    return [f"seed-{seed}" for seed in found["seeds"]]


def layers_of(found: Found) -> dict[str, list[Sae | None]]:
    """Site → its TopK SAE of every seed."""
    seeds = [by_layer(found, where) for where in of_seeds(found)]
    return {site: [sites.get(site) for sites in seeds] for site in seeds[0]}


def archs_of(found: Found) -> dict[str, list[Sae | None]]:
    """Architecture → its SAE at one layer, of every seed."""
    seeds = [by_arch(found, where) for where in of_seeds(found)]
    return {arch: [archs.get(arch) for archs in seeds] for arch in seeds[0]}


def widths_of(found: Found) -> list[list[Sae | None]]:
    """TopK at one layer, narrowest first, of every seed."""
    seeds = [by_width(found, where) for where in of_seeds(found)]
    return [[saes[at] for saes in seeds] for at in range(len(seeds[0]))]
