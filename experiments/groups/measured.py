"""What the study of groups measured, collected from its runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.groups.variants import BASELINE, config, folder, pairs, plan_of, suites_of
from experiments.runs import Found, machine, read
from saeworks.config import CompareConfig, RunConfig, from_mapping, read_yaml
from saeworks.measure.comparing.compare import compared_with
from saeworks.measure.comparing.over_seeds import over_seeds
from saeworks.results.comparison import Comparison
from saeworks.suite import load_suite
from saeworks.train.live_job import LiveJob

METRICS = ("fvu", "delta_ce")


def measured(setting: str, seeds: Sequence[int], results: Path) -> Found:
    """Everything the tables and figures show, with what it depends on."""
    plan, run = plan_of(setting), read_yaml(config(setting))
    suites = {seed: suites_of(setting, seed) for seed in seeds}
    first = load_suite(suites[seeds[0]][BASELINE]).meta
    names = [name for name in suites[seeds[0]] if name != BASELINE]
    timing = results / f"{setting}_time.json"
    return {
        "model": Path(run["model"]["name"]).name,
        "seeds": list(seeds),
        "sites": list(plan.sites),
        "chosen": len(plan.groups),
        "amad": [point.amad for point in plan.curve],
        "tokens": first["tokens"],
        "epochs": first["epochs"],
        "seconds": [load_suite(suites[seed][BASELINE]).meta["seconds"] for seed in seeds],
        "versions": first["versions"],
        "machine": machine(),
        "intervals": "95%, Student's t over seeds"
        if len(seeds) > 1
        else "95%, paired bootstrap over documents",
        "variants": {name: variant(name, suites) for name in names},
        "cost": costs(suites[seeds[0]]),
        "pairs": {
            f"{name} − {other}": paired(name, other, suites)
            for name, other in pairs(names, len(plan.groups), len(plan.sites))
        },
        "alignment": {
            name: alignment([suites[seed][name] for seed in seeds])
            for name in names
            if "-g" in name
        },
        "transfer": [read(folder(setting, seed) / "transfer.json") for seed in seeds],
        "timing": read(timing) if timing.exists() else None,
    }


def variant(name: str, suites: Mapping[int, Mapping[str, Path]]) -> Found:
    """A variant beside the baseline of its seed, per site and on average, and what it cost."""
    meta = load_suite(next(iter(suites.values()))[name]).meta
    return {
        "grouping": meta["grouping"],
        "normaliser": meta["normaliser"],
        "groups": {group: entry["sites"] for group, entry in meta["groups"].items()},
        "tokens": meta["tokens"],
        **values([Comparison.read(by_name[name]) for by_name in suites.values()]),
    }


def costs(suites: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """Operations of each variant's training, the language model's reading included."""
    jobs: dict[str, LiveJob] = {}
    flops = {}
    for name, path in suites.items():
        meta = load_suite(path).meta
        key = json.dumps(meta["config"])
        if key not in jobs:
            jobs[key] = LiveJob.prepare(from_mapping(RunConfig, meta["config"], str(path)))
        flops[name] = jobs[key].work.flops_of(meta["variant"])
    return flops


def paired(name: str, other: str, suites: Mapping[int, Mapping[str, Path]]) -> Found:
    """Two variants beside one another."""
    settings = CompareConfig(alignment=False)
    return values(
        [
            compared_with(load_suite(s[name]), load_suite(s[other]), [], settings)
            for s in suites.values()
        ]
    )


def values(comparisons: Sequence[Comparison]) -> Found:
    """Suite, baseline, difference and ratio: over seeds where there are several."""
    whole: Any = over_seeds(comparisons) if len(comparisons) > 1 else comparisons[0]
    sites = {
        site: {metric: plain(pairs_[metric]) for metric in (*METRICS, "l0")}
        for site, pairs_ in whole.sites.items()
    }
    return {"mean": {m: plain(whole.mean[m]) for m in METRICS}, "sites": sites}


def plain(pair: Any) -> Found:
    return {
        key: asdict(value) if (value := getattr(pair, key)) is not None else None
        for key in ("suite", "baseline", "difference", "ratio")
    }


def alignment(paths: Sequence[Path]) -> Found:
    """MMCS and MMCO with the baseline, beside those of the baseline's other seeds; how many of its
    sites a shared latent lives at."""
    aligned = [c.alignment for path in paths if (c := Comparison.read(path)).alignment is not None]
    sites = [site for a in aligned for site in a.sites.values()]
    with_baseline = {m: [getattr(s.suite, m) for s in sites] for m in ("mmcs", "mmco")}
    seeds = {m: [getattr(o, m) for s in sites for o in s.seeds] for m in ("mmcs", "mmco")}
    shared = [spread for a in aligned for spread in a.spread.values()]
    return {
        **{m: float(np.mean(v)) for m, v in with_baseline.items() if v},
        **{f"{m}_seeds": float(np.mean(v)) for m, v in seeds.items() if v},
        "lives_at": [{"sites": len(s.sites), "latents": s.lives_at} for s in shared],
        "effective": [s.effective for s in shared],
    }
