"""What the study of Switch SAEs measured, collected from its runs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from experiments.criteria import Claim
from experiments.runs import Found, machine, read
from experiments.switch.arms import Arm, all_arms, value
from experiments.switch.claims import published
from experiments.switch.parts import Run
from experiments.switch.questions import asked
from saeworks.cost.estimate import Part
from saeworks.suite import load_suite

LOADS = ("experts_per_token", "busiest", "unused", "load_entropy", "confidence")


def measured(runs: Sequence[Run], results: Path) -> Found:
    """Everything the tables and figures show, with what it depends on."""
    first = all_arms()[0].suite.meta
    timing = results / "time.json"
    return {
        "model": Path(first["model"]["name"]).name,
        "runs": [run_facts(run) for run in runs],
        "versions": first["versions"],
        "machine": machine(),
        "claims": [claim_facts(claim) for claim in (*published(), *asked(results))],
        "arms": [entry for arm in all_arms() for entry in arm_facts(arm)],
        "timing": read(timing) if timing.exists() else None,
    }


def run_facts(run: Run) -> Found:
    suite = next(path for path in sorted(run.folder.iterdir()) if (path / "suite.json").exists())
    meta = load_suite(suite).meta
    evaluated = read(suite / "results/splice.json")
    return {
        "part": run.part,
        "folder": run.folder.name,
        "seed": run.seed,
        "batch": meta["config"]["train"]["batch"],
        "tokens": meta["tokens"],
        "epochs": meta["epochs"],
        "seconds": meta["seconds"],
        "splice_tokens": evaluated["tokens"],
        "documents": evaluated["documents"],
    }


def claim_facts(claim: Claim) -> Found:
    return {
        "number": claim.number,
        "title": claim.title,
        "verdict": claim.verdict,
        "parts": [
            asdict(part)
            | {
                "found": part.found.record(),
                "shown": f"{part.found:{part.form}}",
                "verdict": part.verdict,
                "remark": part.remark,
            }
            for part in claim.parts
        ],
    }


def arm_facts(arm: Arm) -> Iterator[Found]:
    """One entry per site."""
    meta, options = arm.suite.meta, arm.options
    for site, at in meta["sites"].items():
        part = Part(arm.variant, meta["arch"], options, at["d"], (site,))
        seeds = [read(folder / "switch.json")["sites"][site] for folder in arm.folders]
        yield {
            "part": arm.part,
            "variant": arm.variant,
            "arch": meta["arch"],
            "site": site,
            "options": options,
            "seeds": len(seeds),
            **{
                metric: value(arm, metric, site).record()
                for metric in ("fvu", "delta_ce", "loss_recovered_zero", "l0")
            },
            "first_seed_fvu": float(arm.drawn(0, "fvu", site)[0]),
            "live_share": fmean(entry["live"] / entry["width"] for entry in seeds),
            "duplicates": {
                cosine: fmean(entry["duplicates"][cosine] for entry in seeds)
                for cosine in seeds[0]["duplicates"]
            },
            "loads": {key: fmean(e[key] for e in seeds) for key in LOADS if key in seeds[0]},
            "flops": part.flops(meta["config"]["train"]["batch"]),
            "parameters": part.parameters,
        }
