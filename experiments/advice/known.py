"""Runs that other studies had made before, beside what the pilots of the advice predict of them.

They were trained in batches of 4,096 where the pilots' are smaller, so that they are no test of the
criteria; but they are some fifty times as long as the pilots, and include groups and experts.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from experiments.runs import read
from saeworks.advice.law import FVULaw, Readings, Sizes, fit, interval

HERE = Path(__file__).parents[1]
EVEN = np.array([3.0, 3.0, 3.0, 2.0, 2.0, 1.0])
"""Sites that share an SAE: two even groups of the embedded model's first five layers."""
ALONE = np.ones(6)
TOGETHER = {
    "TopK 256 per layer": (2, 1, 3.0e6, ALONE),
    "TopK 1024 per layer": (8, 1, 3.0e6, ALONE),
    "Switch 1024/4 per layer": (8, 4, 3.0e6, ALONE),
    "TopK 256, two even groups": (2, 1, 3.0e6, EVEN),
    "Switch 1024/4, two even groups": (8, 4, 3.0e6, EVEN),
    "TopK 256 per layer, 1.2M vectors each": (2, 1, 1.2e6, ALONE),
    "Switch 1024/4 per layer, 1.2M vectors each": (8, 4, 1.2e6, ALONE),
}
"""Arm of `experiments.together` (k = 16) → width in D, experts, tokens, sharing."""


def law_of(pilots: Path, sites: Sequence[str]) -> FVULaw:
    """The law of the pilots in a folder, read from their logs."""
    rows = [row for log in sorted(pilots.glob("*/*/metrics.jsonl")) for row in _rows(log, sites)]
    names = list(dict.fromkeys(row[0] for row in rows))
    pilot, sizes, site, sharing, fvu, delta_ce = zip(*rows, strict=True)
    numbers = np.array([names.index(name) for name in pilot])
    readings = Readings(
        Sizes.of(sizes), numbers, np.array(site), *map(np.array, (sharing, fvu, delta_ce))
    )
    return fit(readings, len(sites))


def _rows(log: Path, sites: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Of one variant: its name, size, site, sharing, FVU and ΔCE."""
    variant = log.parent.name
    sizes = [re.search(f"{key}([0-9]+)", variant) for key in ("-x", "-experts", "-k", "-g")]
    expansion, experts, k, groups = (int(size[1]) if size else 0 for size in sizes)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in {line["site"]: line for line in lines if line["kind"] == "held_out"}.values():
        at = sites.index(line["site"])
        sharing = len(sites) / groups if groups else 1.0  # the pilots' groups are of one size
        name = (log.parent, int(at // sharing))
        size = (expansion, max(1, experts), k, line["tokens"])
        yield name, size, at, sharing, line["held_out_fvu"], line["delta_ce"]


def known(model: str, out: Path) -> list[dict[str, Any]]:
    """What is known of a model, beside its predictions."""
    sites = read(out / "advice.json")["best"]["sites"]
    law = law_of(out / "pilots", list(sites))
    if model == "embedded":
        return list(_together(law))
    return list(_topk(law, model, list(sites)))


def _together(law: FVULaw) -> Iterator[dict[str, Any]]:
    """Means over the first five layers, and over seeds."""
    runs = read(HERE / "together" / "results" / "together.json")["runs"].values()
    for arm, (expansion, experts, tokens, sharing_S) in TOGETHER.items():
        fvu_RS = law.fvu(Sizes.of([(expansion, experts, 16, tokens)]), sharing_S)
        draws = {"fvu": fvu_RS, "delta_ce": law.delta_ce(fvu_RS)}
        for key, draws_RS in draws.items():
            true = fmean(arms[arm][key] for arms in runs)
            yield _record(arm, "mean of layers 0–4", key, draws_RS[:, :5].mean(axis=1), true)


def _topk(law: FVULaw, model: str, sites: Sequence[str]) -> Iterator[dict[str, Any]]:
    """TopK of 8 times D at single layers, with k up to a half of D."""
    path = HERE / "topk" / "results" / f"{model}.json"
    for variant, suite in (read(path)["suites"] if path.exists() else {}).items():
        k = int(variant.split("-k")[1])
        measured = suite["results"]
        fvu_RS = law.fvu(Sizes.of([(8, 1, k, suite["tokens"])]), np.ones(len(sites)))
        studies = (("reconstruction", "fvu", fvu_RS), ("splice", "delta_ce", law.delta_ce(fvu_RS)))
        for study, key, draws_RS in studies:
            for at, site in enumerate(sites):
                true = measured[study]["sites"][site][key]["value"]
                what = f"TopK 8 × D, k {k}, {suite['tokens']:,} tokens"
                yield _record(what, site, key, draws_RS[:, at], true)


def _record(what: str, site: str, key: str, draws_R: Any, true: float) -> dict[str, Any]:
    middle, low, high = (float(end) for end in interval(draws_R))
    predicted = {"value": middle, "low": low, "high": high}
    return {"what": what, "site": site, "metric": key, "predicted": predicted, "true": true}
