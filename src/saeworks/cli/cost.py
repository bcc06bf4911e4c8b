"""`saeworks cost`: what a run costs, before it starts."""

from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from saeworks.cli.arguments import Json, RunOptions
from saeworks.cli.printing import print_json, say
from saeworks.config import show_bytes
from saeworks.errors import DONE, UserError
from saeworks.files.access import write_json
from saeworks.files.folders import make_ready

if TYPE_CHECKING:
    from saeworks.cost.estimate import Predicted


@dataclass(frozen=True)
class Cost(RunOptions):
    """Say what a training run will cost before it starts: FLOPs, seconds, memory, disk.

    Takes the run as `train` does. Seconds are predicted from some seconds of the run's own work;
    with several sites, also what it would cost and save with G SAEs in place of one per site.
    """

    calibrate: bool = True
    """Also predict seconds, from some seconds of the run's own work on its own text."""
    out: Path | None = None
    """A JSON file to write all numbers to."""
    json: Json = False

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cost.calibrate import calibrate
        from saeworks.cost.estimate import predicted
        from saeworks.train.live_job import LiveJob

        config = self.config()
        if self.out is not None:
            make_ready(self.out.parent)
            if self.out.is_dir():
                raise UserError(f"--out {self.out} is a folder; name a JSON file")
        job = LiveJob.prepare(config)
        speed = calibrate(job.work, config, job.lm, job.corpus) if self.calibrate else None
        cost = predicted(job.work, speed)
        values = cost.to_json()
        if speed is not None:
            values["calibration"] = {k: v for k, v in asdict(speed).items() if k != "shapes"}
        if self.out is not None:
            write_json(self.out, values)
        if self.json:
            print_json(values)
            return DONE
        print_cost(cost, job.lm.name)
        if speed is not None:
            say(f"Calibrated in {speed.took:.0f} s{speed.caveat}.")
        return DONE


def print_cost(cost: "Predicted", model: str) -> None:
    """Operations and seconds, memory and disk, and what groups would save."""
    _print_work(cost, model)
    _print_bytes(cost)
    if cost.groups:
        _print_groups(cost)
    for line in cost.assumptions:
        say(f"Assumed: {line}.")


def _print_work(cost: "Predicted", model: str) -> None:
    """A row per kind of work: operations, seconds and their shares; the authors' count beside."""
    from saeworks.cli.tables import ABSENT, print_table

    total, spent = sum(cost.flops.values()), cost.seconds
    seconds: dict[str, float] = {}
    if spent is not None:
        saes = spent.draws + spent.steps
        seconds = {"lm": spent.lm, "saes": saes, "evaluation": spent.evaluation}
    names = {"lm": "language model", "saes": "SAEs", "evaluation": "held-out evaluation"}
    rows = []
    for key, flops in cost.flops.items():
        part, authors = seconds.get(key), cost.authors_flops.get(key)
        share = ABSENT if part is None or spent is None else f"{part / spent.total:.0%}"
        count = ABSENT if authors is None else f"{authors:.3g}"
        rows.append([names[key], f"{flops:.3g}", f"{flops / total:.0%}", _time(part), share, count])
    rows.append([])
    for name, regime in (("total", "online"), ("total, if cached", "cached")):
        row = cost.regimes()[regime]
        counted = cost.authors_flops["saes"]
        counted += cost.authors_flops["lm"] if regime == "online" else 0.0
        rows.append([name, f"{row['flops']:.3g}", "", _time(row["seconds"]), "", f"{counted:.3g}"])
    say(
        f"{Path(model).name}: {cost.saes} SAEs, {_short(cost.parameters)} parameters in all, "
        f"{_short(cost.rows)} vectors each"
    )
    print_table(["", "FLOPs", "share", "seconds", "share", "authors' FLOPs"], rows)


def _print_bytes(cost: "Predicted") -> None:
    from saeworks.cli.tables import print_table

    memory = [*cost.memory.items(), ("total", sum(cost.memory.values()))]
    disk = [(name, size) for name, size in cost.disk.items() if name != "cache"]
    disk += [("total", sum(size for _, size in disk)), ("a cache instead", cost.disk["cache"])]
    rows = [
        [cell for name, size in pair for cell in (name, "" if size is None else show_bytes(size))]
        for pair in zip_longest(memory, disk, fillvalue=("", None))
    ]
    say()
    say("Memory and disk")
    print_table(["memory", "", "disk", ""], rows)


def _print_groups(cost: "Predicted") -> None:
    from saeworks.cli.tables import ABSENT, print_table

    heads = ["G", "FLOPs", "saved", "authors' FLOPs", "saved", "seconds", "saved"]
    rows = [
        [
            str(row.groups),
            f"{row.flops:.3g}",
            f"{row.saving:.1%}",
            f"{row.authors_flops:.3g}",
            f"{row.authors_saving:.1%}",
            _time(row.seconds),
            ABSENT if row.seconds_saving is None else f"{row.seconds_saving:.1%}",
        ]
        for row in cost.groups
    ]
    say()
    say("With G SAEs for all sites, each like the first of `saes`")
    print_table(heads, rows, words=0)


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
