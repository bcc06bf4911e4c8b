"""What the study of dark matter measured, collected from its runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.darkmatter.saes import Sae
from experiments.darkmatter.trainings import RUN_FILES, Run
from experiments.runs import Found, finished, machine, read
from saeworks.results.names import AUDIT
from saeworks.suite import find_suites

LEFT_OUT = ("synthetic", "positions", "zeroing")
"""Sections that no claim rests on; they are in the suites' own files."""


def measured(setting: str, seeds: Sequence[int]) -> Found:
    """Every audited SAE's numbers, with what they depend on."""
    places = [*(f"seed-{seed}" for seed in seeds), "random"]
    every = [Run(setting, where, file) for where in places for file in RUN_FILES]
    trained = [run for run in every if finished(run.folder) and any(audits(run))]
    suites = [suite for run in trained for suite in find_suites(run.folder)]
    meta, first = (read(suites[0] / name) for name in ("suite.json", f"results/{AUDIT}"))
    return {
        "command": f"python -m experiments.darkmatter {setting} --seeds "
        + " ".join(map(str, seeds)),
        "model": Path(meta["config"]["model"]["name"]).name,
        "seeds": sorted({run.seed for run in trained if run.where != "random"}),
        "random": any(run.where == "random" for run in trained),
        "tokens": meta["tokens"],
        "folds": first["folds"],
        "audit": {k: first["config"][k] for k in ("tokens", "pursuit", "mlp", "downstream")},
        "intervals": first["config"]["intervals"],
        "seconds": {str(run.folder): seconds(run) for run in trained},
        "versions": meta["versions"],
        "machine": machine(),
        "saes": [sae for run in trained for sae in saes(run)],
    }


def audits(run: Run) -> Iterator[Path]:
    """The files of its audits."""
    for suite in find_suites(run.folder):
        if (path := suite / "results" / AUDIT).exists():
            yield path


def seconds(run: Run) -> float:
    """Of the training."""
    return float(read(find_suites(run.folder)[0] / "suite.json")["seconds"])


def saes(run: Run) -> Iterator[Sae]:
    """One entry per suite and site."""
    for path in audits(run):
        meta, audit = read(path.parent.parent / "suite.json"), read(path)
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
        yield read(suite / "groups" / group / "config.json")["options"]


def values(audit: Found, site: str) -> dict[str, dict[str, list[float | None]]]:
    """Section → metric → value, low, high."""
    found = {}
    for name, section in audit["sections"].items():
        if name not in LEFT_OUT and site in section["sites"]:
            found[name] = {
                metric: [value[key] for key in ("value", "low", "high")]
                for metric, value in section["sites"][site].items()
            }
    return found
