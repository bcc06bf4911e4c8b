"""The pilots of a folder: how long they are, that they are trained, what they took. Resumable."""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import pstdev
from typing import Any

from saeworks.advice.budget import Budget
from saeworks.advice.costs import Speeds, calibration_of
from saeworks.advice.law import fit
from saeworks.advice.pilot import (
    EVAL_TOKENS,
    LEAST_TOKENS,
    NARROW,
    Design,
    batch_of,
    readings,
    run_pilot,
    seconds_of,
)
from saeworks.advice.search import Space
from saeworks.config import RunConfig, TrainConfig, parse_bytes, show_bytes
from saeworks.cost.calibrate import calibrate
from saeworks.cost.progress import duration
from saeworks.errors import UserError
from saeworks.files.access import read_json, write_json
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.train.base import Say
from saeworks.train.live_job import FEW_EPOCHS, LiveJob
from saeworks.train.run_dir import plain

STATE = "pilots.json"
SHARE, AIM = 0.09, 0.06
"""Of the budget, for the pilots: at most, and as it is planned, for seconds may be more than were
predicted. At 0.09 they are a tenth of the run that gets the rest."""
NO_TIME = 600.0
"""Seconds in the place of the budget's where only memory is bounded, to size the pilots."""
_TIMED_BATCH = 512
"""Rows of the steps by which it is measured how fast the machine is."""
_CALIBRATION, _LONGEST_CALIBRATION = 0.15, 12.0
"""How long that takes: of the pilots' seconds, and in seconds, at most."""
_SPREAD = 0.15
"""How far off seconds may be, in logs, at least."""
_RING, _LEAST_RING = 4, 64 * 2**20
"""The run's ring takes at most one so many-th of a memory budget, or so many bytes."""
_FINER, _LONGEST = 2**0.25, 1e9
"""Factor between the lengths of pilots that are tried, and the last of them."""


@dataclass(frozen=True)
class Taken:
    """What the pilots took, and what is left of the budget."""

    seconds: float
    flops: float
    left: Budget


@dataclass(frozen=True)
class Needs:
    """What the pilots will take: the sum of seconds and operations, the most memory."""

    seconds: float
    flops: float
    memory: int


@dataclass
class Pilots:
    """The pilots in a folder.

    Attributes:
        state: what is kept in pilots.json: the pilots' sizes and the calibration.
        jobs: those that are finished, and their folders.
    """

    design: Design
    lm: LanguageModel
    corpus: Corpus
    out: Path
    say: Say
    state: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, tuple[LiveJob, Path]] = field(default_factory=dict)

    @classmethod
    def prepare(cls, config: RunConfig, k: tuple[int, ...], out: Path, say: Say) -> "Pilots":
        """Load model and text.

        Raises:
            UserError: if they are not there, or the folder has pilots of something else.
        """
        lm = LanguageModel.load(config.model, choose_device(config.device))
        sites = tuple(lm.sites(config.sites))
        design = Design(config, sites, k, len({lm.width(site) for site in sites}) == 1)
        most = NARROW * min(lm.width(site) for site in sites) // 4
        if max(k) > most:
            raise UserError(f"k = {max(k)}: the pilots' SAEs are wide enough for {most}; lower --k")
        corpus = LiveJob.prepare(design.sample(_TIMED_BATCH), lm).corpus
        pilots = cls(design, lm, corpus, out, say)
        if (out / STATE).exists():
            pilots.state = read_json(out / STATE, "pilots")
            if pilots.state.get("identity") != pilots.identity:
                raise UserError(
                    f"{out / STATE} is of pilots with another model, text, sites or k; choose "
                    "another --out"
                )
        return pilots

    @property
    def identity(self) -> Any:
        """On what the pilots' numbers depend; budget and target may change from call to call."""
        config = replace(self.design.config, device="auto", log=())
        return plain({**asdict(config), "k": self.design.k, "model": self.lm.fingerprint})

    def run(self, budget: Budget) -> Taken | None:
        """Train what is not trained; None where it was interrupted."""
        if not self.state:
            self._plan(budget)
        for name in self._configs():
            if name == "long" and self.state["longest"] is None:
                self._size_longest(budget)
            self.say(f"pilot {len(self.jobs) + 1} of {len(self._configs())}: {name}")
            folder = self.out / "pilots" / name
            job = run_pilot(self._configs()[name], self.lm, self.corpus, folder, self.say)
            if job is None:
                return None
            self.jobs[name] = (job, folder)
        return self._spent(budget)

    @cached_property
    def measured(self) -> Speeds:
        """How fast the machine is, as it was measured before the pilots."""
        sample = self._job(self.design.sample(_TIMED_BATCH))
        return Speeds(calibration_of(self.state["speed"]), sample.work)

    def speeds(self) -> Speeds:
        """Corrected by the pilots that are finished, each as long as it is."""
        ratios, rows = [], []
        for job, folder in self.jobs.values():
            ratios.append(math.log(seconds_of(job, folder) / self.measured.seconds(job.work)))
            rows.append(job.work.rows)
        mean = sum(r * x for r, x in zip(rows, ratios, strict=True)) / sum(rows)
        spread = max(_SPREAD, 2 * pstdev(ratios))
        return replace(self.measured, factor=math.exp(mean), slower=math.exp(spread))

    def space(self, budget: Budget) -> Space:
        """The runs that could be made, by what the pilots measured."""
        design, sites = self.design, self.design.sites
        run = replace(design.sample(self.state["batch"]), train=self.train)
        if budget.memory is not None:
            ring = max(_LEAST_RING, budget.memory // _RING)
            ring = min(parse_bytes(run.buffer.memory), ring)
            run = replace(run, buffer=replace(run.buffer, memory=f"{ring}B"))
        count = len(sites)
        groups = {count, -(-count // 2), -(-count // 3), 1} if design.one_width else {count}
        law = fit(readings(self.jobs, sites), count)
        most = self.text_tokens
        if most == math.inf and budget.seconds is None and budget.flops is None:
            raise UserError(
                f"budget {budget}: memory does not bound a text without end; also give a time or "
                "operations, such as --budget 2h 10GiB"
            )
        short = self._configs()["short"].train.tokens
        work = self._job(run).work
        return Space(law, self.speeds(), work, sorted(groups), design.k, most, short)

    @property
    def train(self) -> TrainConfig:
        """The run's training, but for its length."""
        return replace(self.design.config.train, batch=self.state["batch"])

    @property
    def text_tokens(self) -> float:
        """That the text has to train on, read as often as a run reads it without a warning."""
        tokens = self.corpus.describe()["tokens"]["train"]
        return math.inf if tokens is None else FEW_EPOCHS * tokens * self.state["speed"]["kept"]

    def _configs(self) -> dict[str, RunConfig]:
        state = self.state
        longest = state["longest"] or state["tokens"]
        return self.design.runs(state["tokens"], state["batch"], state["eval_tokens"], longest)

    def _job(self, config: RunConfig) -> LiveJob:
        return LiveJob.prepare(config, self.lm, self.corpus)

    def _plan(self, budget: Budget) -> None:
        """Measure how fast the machine is, and decide how long the pilots are."""
        limit = AIM * (budget.seconds or NO_TIME)
        bounded = budget.seconds is not None
        sample = self._job(self.design.sample(_TIMED_BATCH))
        seconds = min(_LONGEST_CALIBRATION, _CALIBRATION * limit)
        self.say(f"measuring how fast this machine is: about {seconds:.0f} s")
        measured = calibrate(sample.work, sample.config, self.lm, self.corpus, seconds)
        self.state = {"identity": self.identity, "speed": asdict(measured)}
        left = Budget(
            limit - measured.took if bounded or budget.flops is None else None,
            None if budget.flops is None else SHARE * budget.flops,
            budget.memory,
        )
        self.state |= self._sizes(left, budget)
        write_json(self.out / STATE, self.state)
        needs = self._cost(self.state)
        self.say(
            f"pilots: {self.state['tokens']:,} tokens at most, about {duration(needs.seconds)} and "
            f"{needs.flops:.2g} FLOPs, of a budget of {budget}"
        )

    def _sizes(self, left: Budget, budget: Budget) -> dict[str, Any]:
        """Of the longest pilots that fit.

        Raises:
            UserError: if not even the shortest do, or the text is too short for them.
        """
        enough = self.text_tokens
        if enough < LEAST_TOKENS:
            raise UserError(
                f"the text has {enough / FEW_EPOCHS:,.0f} tokens to train on; pilots need "
                f"{LEAST_TOKENS / FEW_EPOCHS:,.0f} at least: give more text"
            )
        tries = [
            round(LEAST_TOKENS * _FINER**i)
            for i in range(int(math.log(min(enough, _LONGEST) / LEAST_TOKENS, _FINER)) + 1)
        ]
        for eval_tokens in EVAL_TOKENS:

            def too_much(tokens: int, eval_tokens: int = eval_tokens) -> bool:
                return _excess(self._cost(_sized(tokens, eval_tokens)), left) is not None

            fitting = bisect_left(tries, True, key=too_much)
            if fitting:
                return _sized(tries[fitting - 1], eval_tokens)
        least = self._cost(_sized(LEAST_TOKENS, EVAL_TOKENS[-1]))
        kind = _excess(least, left)
        if kind == "seconds":
            took = least.seconds + float(self.state["speed"]["took"])
            why = f"{duration(took)}, so that {duration(took / AIM)} is enough"
        elif kind == "flops":
            why = f"{least.flops:.2g} FLOPs, so that {least.flops / SHARE:.2g}flops is enough"
        else:
            why = f"{show_bytes(least.memory)}; give as much"
        raise UserError(f"budget {budget} is too small for pilots, which take at least {why}")

    def _cost(self, sizes: Mapping[str, Any]) -> "Needs":
        """Of all pilots, if they have these sizes."""
        longest = sizes["longest"] or sizes["tokens"]
        configs = self.design.runs(sizes["tokens"], sizes["batch"], sizes["eval_tokens"], longest)
        costs = [self.measured.predict(self._job(config).work) for config in configs.values()]
        return Needs(
            sum(cost.seconds.total for cost in costs if cost.seconds),
            sum(sum(cost.flops.values()) for cost in costs),
            max(sum(cost.memory.values()) for cost in costs),
        )

    def _size_longest(self, budget: Budget) -> None:
        """Shorten the longest pilot where the others took longer than was predicted."""
        tokens = self.state["tokens"]
        if budget.seconds is not None and self.jobs:
            left = SHARE * budget.seconds - self._seconds()
            needs = self.speeds().seconds(self._job(self._configs()["long"]).work)
            tokens = round(tokens * min(1.0, max(0.5, left / needs)))
        self.state["longest"] = tokens
        write_json(self.out / STATE, self.state)

    def _seconds(self) -> float:
        """That the finished pilots and the calibration took."""
        took = sum(seconds_of(job, folder) for job, folder in self.jobs.values())
        return took + float(self.state["speed"]["took"])

    def _spent(self, budget: Budget) -> Taken:
        seconds, flops = self._seconds(), self._cost(self.state).flops
        left = replace(
            budget,
            seconds=None if budget.seconds is None else budget.seconds - seconds,
            flops=None if budget.flops is None else budget.flops - flops,
        )
        return Taken(seconds, flops, left)


def _sized(tokens: int, eval_tokens: int) -> dict[str, Any]:
    batch = batch_of(tokens)
    return {"tokens": tokens, "batch": batch, "eval_tokens": eval_tokens, "longest": None}


def _excess(needs: Needs, left: Budget) -> str | None:
    """What of a budget does not suffice."""
    for kind in ("memory", "seconds", "flops"):
        limit = getattr(left, kind)
        if limit is not None and getattr(needs, kind) > limit:
            return kind
    return None
