"""What `darkmatter.py` measured, as plain data, and how it is read."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from darkmatter import RUN_FILES, Run, finished

from saeworks.cost.machine import processor
from saeworks.results.names import AUDIT
from saeworks.suite import find_suites

Found = dict[str, Any]
Sae = dict[str, Any]
ARCHS = ("topk", "batchtopk", "jumprelu", "gated", "relu", "switch")
LEFT_OUT = ("synthetic", "positions", "zeroing")
"""Sections that no claim rests on; they are in the suites' own files."""


class Number(NamedTuple):
    """A value with its 95% interval; the interval is the value where there is none."""

    value: float
    low: float
    high: float

    def meets(self, low: float, high: float = math.inf) -> bool:
        """Whether the interval has a point in a range."""
        return self.high >= low and self.low <= high

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def number(sae: Sae, name: str) -> Number | None:
    """`section.metric` of an SAE; None where it is undefined or was not measured."""
    section, _, metric = name.partition(".")
    found = sae["values"].get(section, {}).get(metric)
    if found is None or found[0] is None:
        return None
    value, low, high = found
    return Number(value, value if low is None else low, value if high is None else high)


def over(numbers: Sequence[Number | None]) -> Number | None:
    """Mean of the seeds, and the hull of their intervals."""
    known = [n for n in numbers if n is not None]
    if not known:
        return None
    mean = sum(n.value for n in known) / len(known)
    return Number(mean, min(n.low for n in known), max(n.high for n in known))


def difference(a: Number, b: Number) -> Number:
    """a − b, with the widest interval that theirs allow."""
    return Number(a.value - b.value, a.low - b.high, a.high - b.low)


def part_lost(after: Number, before: Number) -> Number:
    """1 − after/before, likewise; both above 0."""
    low, high = after.low / before.high, after.high / before.low
    return Number(1 - after.value / before.value, 1 - high, 1 - low)


def collect(setting: str, seeds: Sequence[int]) -> Found:
    """Every audited SAE's numbers, with what they depend on."""
    places = [*(f"seed-{seed}" for seed in seeds), "random"]
    every = [Run(setting, where, file) for where in places for file in RUN_FILES]
    trained = [run for run in every if finished(run) and any(audits(run))]
    suites = [suite for run in trained for suite in find_suites(run.folder)]
    meta, first = (
        json.loads((suites[0] / name).read_text()) for name in ("suite.json", f"results/{AUDIT}")
    )
    return {
        "command": " ".join(
            ["python experiments/darkmatter.py", setting, "--seeds", *map(str, seeds)]
        ),
        "model": Path(meta["config"]["model"]["name"]).name,
        "seeds": sorted({run.seed for run in trained if run.where != "random"}),
        "random": any(run.where == "random" for run in trained),
        "tokens": meta["tokens"],
        "folds": first["folds"],
        "audit": {k: first["config"][k] for k in ("tokens", "pursuit", "mlp", "downstream")},
        "intervals": first["config"]["intervals"],
        "seconds": {str(run.folder): seconds(run) for run in trained},
        "versions": meta["versions"],
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "saes": [sae for run in trained for sae in saes(run)],
    }


def audits(run: Run) -> Iterator[Path]:
    """The files of its audits."""
    for suite in find_suites(run.folder):
        if (path := suite / "results" / AUDIT).exists():
            yield path


def seconds(run: Run) -> float:
    """Of the training."""
    suite = find_suites(run.folder)[0]
    return float(json.loads((suite / "suite.json").read_text())["seconds"])


def saes(run: Run) -> Iterator[Sae]:
    """One entry per suite and site."""
    for path in audits(run):
        meta = json.loads((path.parent.parent / "suite.json").read_text())
        audit = json.loads(path.read_text())
        options = next(iter(group_options(path.parent.parent, meta)))
        for site in meta["sites"]:
            yield {
                "where": run.where,
                "file": run.file,
                "variant": meta["variant"],
                "arch": meta["arch"],
                "width": options["width"],
                "grouped": len(meta["groups"]) < len(meta["sites"]),
                "site": site,
                "degenerate": audit["verdicts"][site]["degenerate"],
                "values": values(audit, site),
                "scaling": audit["sections"].get("scaling", {}).get("series", {}).get(site),
            }


def group_options(suite: Path, meta: Found) -> Iterator[Found]:
    """The options of each of a suite's SAEs."""
    for group in meta["groups"]:
        yield json.loads((suite / "groups" / group / "config.json").read_text())["options"]


def values(audit: Found, site: str) -> dict[str, dict[str, list[float | None]]]:
    """Section → metric → value, low, high, to five digits."""
    found = {}
    for name, section in audit["sections"].items():
        if name not in LEFT_OUT and site in section["sites"]:
            found[name] = {
                metric: [rounded(value[key]) for key in ("value", "low", "high")]
                for metric, value in section["sites"][site].items()
            }
    return found


def rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def by_layer(found: Found, where: str) -> dict[str, Sae]:
    """Site → the TopK SAE of its own layer."""
    return {
        sae["site"]: sae
        for sae in found["saes"]
        if sae["where"] == where and sae["file"] == "layers" and not sae["grouped"]
    }


def by_width(found: Found, where: str) -> list[Sae]:
    """TopK at one layer, narrowest first."""
    found_ = [
        sae
        for sae in found["saes"]
        if sae["where"] == where and sae["file"] == "layer" and sae["arch"] == "topk"
    ]
    return sorted(found_, key=lambda sae: sae["width"])


def by_arch(found: Found, where: str) -> dict[str, Sae]:
    """Architecture → its SAE at one layer, of one width; TopK in groups last."""
    at_layer = [s for s in found["saes"] if s["where"] == where and s["file"] == "layer"]
    width = next(s["width"] for s in at_layer if s["arch"] != "topk")
    site = at_layer[0]["site"]
    one_width = {s["arch"]: s for s in at_layer if s["width"] == width}
    made = {arch: one_width[arch] for arch in ARCHS if arch in one_width}
    groups = [s for s in found["saes"] if s["where"] == where and s["grouped"]]
    here = next((s for s in groups if s["site"] == site), None)
    return made | ({"topk in groups": here} if here else {})


def of_seeds(found: Found) -> list[str]:
    """The places of the trained model."""
    return [f"seed-{seed}" for seed in found["seeds"]]
