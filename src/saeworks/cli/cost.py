"""What `saeworks cost` does: the run's cost as tables, or as JSON."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from saeworks.cli.printing import cell, console, say
from saeworks.config import RunConfig
from saeworks.cost.calibrate import calibrate
from saeworks.cost.estimate import Predicted, predicted
from saeworks.errors import DONE, UserError
from saeworks.files.access import write_json
from saeworks.files.folders import make_ready
from saeworks.train.job import Job


def cost(
    config: RunConfig, *, calibrated: bool = True, out: Path | None = None, as_json: bool = False
) -> int:
    """Print what a run will cost; with `calibrated`, also how long it will take here."""
    if out is not None:
        make_ready(out.parent)
        if out.is_dir():
            raise UserError(f"--out {out} is a folder; name a JSON file")
    job = Job.prepare(config)
    speed = calibrate(job.work, config, job.lm, job.corpus) if calibrated else None
    found = predicted(job.work, speed)
    values = found.to_json()
    if speed is not None:
        values["calibration"] = {k: v for k, v in asdict(speed).items() if k != "shapes"}
    if out is not None:
        write_json(out, values)
    if as_json:
        print(json.dumps(values))
        return DONE
    _print(found, job.lm.name)
    if speed is not None:
        say(f"Calibrated in {speed.took:.0f} s{speed.caveat}.")
    return DONE


def _print(found: Predicted, model: str) -> None:
    out = console()
    out.print(_summary(found, model))
    out.print(_bytes_table(found))
    if found.groups:
        out.print(_group_table(found))
    for line in found.assumptions:
        say(f"Assumed: {line}.")


def _summary(found: Predicted, model: str) -> Table:
    """A row per kind of work: operations, seconds and their shares; the authors' count beside."""
    title = (
        f"{cell(Path(model).name)}: {found.saes} SAEs, {_short(found.parameters)} parameters"
        f" in all, {_short(found.rows)} vectors each"
    )
    table = Table(title=title, title_justify="left")
    for head in ("", "FLOPs", "share", "seconds", "share", "authors' FLOPs"):
        table.add_column(head, justify="right" if head else "left")
    total, spent = sum(found.flops.values()), found.seconds
    seconds: dict[str, float] = {}
    if spent is not None:
        saes = spent.draws + spent.steps
        seconds = {"lm": spent.lm, "saes": saes, "evaluation": spent.evaluation}
    names = {"lm": "language model", "saes": "SAEs", "evaluation": "held-out evaluation"}
    for key, flops in found.flops.items():
        part, authors = seconds.get(key), found.authors_flops.get(key)
        table.add_row(
            names[key],
            f"{flops:.3g}",
            f"{flops / total:.0%}",
            _time(part),
            "–" if part is None or spent is None else f"{part / spent.total:.0%}",
            "–" if authors is None else f"{authors:.3g}",
        )
    table.add_section()
    for name, regime in (("total", "online"), ("total, if cached", "cached")):
        row = found.regimes()[regime]
        authors = found.authors_flops["saes"]
        authors += found.authors_flops["lm"] if regime == "online" else 0.0
        table.add_row(name, f"{row['flops']:.3g}", "", _time(row["seconds"]), "", f"{authors:.3g}")
    return table


def _bytes_table(found: Predicted) -> Table:
    table = Table(title="Memory and disk", title_justify="left")
    for head in ("memory", "", "disk", ""):
        table.add_column(head, justify="right" if not head else "left")
    memory = [*found.memory.items(), ("total", sum(found.memory.values()))]
    disk = [(k, v) for k, v in found.disk.items() if k != "cache"]
    disk += [("total", sum(v for _, v in disk)), ("a cache instead", found.disk["cache"])]
    for i, (name, size) in enumerate(memory):
        right = (disk[i][0], _size(disk[i][1])) if i < len(disk) else ("", "")
        table.add_row(name, _size(size), *right)
    return table


def _group_table(found: Predicted) -> Table:
    table = Table(
        title="With G SAEs for all sites, each like the first of `saes`",
        title_justify="left",
    )
    for head in ("G", "FLOPs", "saved", "authors' FLOPs", "saved", "seconds", "saved"):
        table.add_column(head, justify="right")
    for row in found.groups:
        table.add_row(
            str(row.groups),
            f"{row.flops:.3g}",
            f"{row.saving:.1%}",
            f"{row.authors_flops:.3g}",
            f"{row.authors_saving:.1%}",
            _time(row.seconds),
            "–" if row.seconds_saving is None else f"{row.seconds_saving:.1%}",
        )
    return table


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def _short(number: int | float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def _size(size: int | float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000 or unit == "GiB":
            return f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError
