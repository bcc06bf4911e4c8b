"""From a configuration to its suites: `saeworks train`, and what it costs beside what it was said
to cost."""

from pathlib import Path
from typing import Any

from saeworks.config import RunConfig
from saeworks.cost.calibrate import calibrate
from saeworks.cost.estimate import predicted
from saeworks.errors import UserError
from saeworks.files.access import read_json, write_json
from saeworks.train.base import Job, Say
from saeworks.train.cached_job import CachedJob
from saeworks.train.live_job import LiveJob
from saeworks.train.run_dir import check_place

COST = "cost.json"


def train_run(config: RunConfig, out: Path, say: Say, predict: bool = False) -> bool:
    """Train to the end; False where it was interrupted.

    Args:
        predict: measure how fast this machine is first, and leave what is predicted in cost.json.
    """
    check_place(out)  # before anything is loaded
    job = prepare(config)
    if predict:
        _predict(job, out, say)
    outcome, trained = job.run(out, say)
    if trained:
        _compare(out, trained[0].seconds, say)
    return outcome == "finished"


def prepare(config: RunConfig) -> Job:
    """The run of a configuration, on a language model or on a cache.

    Raises:
        UserError: if a part of it is not there, or they do not go together.
    """
    return LiveJob.prepare(config) if config.source.cache is None else CachedJob.prepare(config)


def _predict(job: Job, out: Path, say: Say) -> None:
    """Leave the prediction in the run's folder, unless one is there."""
    if not isinstance(job, LiveJob):
        raise UserError("--cost is of runs on a language model; leave it out with source.cache")
    if (out / COST).exists():
        return
    speed = calibrate(job.work, job.config, job.lm, job.corpus)
    cost = predicted(job.work, speed)
    write_json(out / COST, cost.to_json())
    seconds = f"{cost.seconds.total:,.0f} s of training" if cost.seconds else "no seconds"
    say(f"predicted: {seconds}{speed.caveat}")


def _compare(out: Path, seconds: float, say: Say) -> None:
    """Put the seconds that the run took beside those predicted."""
    if not (out / COST).exists():
        return
    cost: Any = read_json(out / COST, "cost")
    try:
        before = None if cost["seconds"] is None else float(cost["seconds"]["total"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{out / COST} is not what `saeworks cost` wrote; delete it") from None
    write_json(out / COST, {**cost, "measured_seconds": seconds})
    if before is None:
        say(f"trained in {seconds:,.0f} s; no seconds were predicted")
        return
    change = seconds / before - 1
    say(f"trained in {seconds:,.0f} s; {before:,.0f} s were predicted ({change:+.0%})")
