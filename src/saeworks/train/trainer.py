"""The one training loop: every SAE of a run on one pass of the activations.

Shapes: B tokens in a batch, D width of a plane, M latents.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from saeworks.activations.base import (
    ActivationBatch,
    ActivationSource,
    finite,
    refuse_nonfinite,
)
from saeworks.config import BufferConfig, NormaliserKind, TrainConfig
from saeworks.cost.machine import memory_kept
from saeworks.cost.precision import Chosen, choose_precision
from saeworks.cost.progress import Progress, duration
from saeworks.dictionary.base import SAE, Batch, Context
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.selection import Precision
from saeworks.errors import UserError
from saeworks.results import regime
from saeworks.train import checkpoints, schedule
from saeworks.train.interrupt import Stopped, StopRequest
from saeworks.train.learner import Learner
from saeworks.train.log import RunLogger, close_all, open_loggers
from saeworks.train.mixing import View
from saeworks.train.run_dir import RunDir, differences, plain
from saeworks.train.run_log import RunLog
from saeworks.train.state import RunState
from saeworks.train.step import train_step
from saeworks.train.variants import RunSAE
from saeworks.train.workers import Workers

DEAD_EVERY = 16
"""Steps between recounts of the dead latents on a GPU, where each one waits for the device; so do
checks that steps were finite, and the log is written then."""

Outcome = Literal["finished", "interrupted"]
Bank = Mapping[str, SAE]
Probe = Callable[[Bank], Mapping[str, Mapping[str, float]]]
"""From the bank of one variant (site → SAE on raw activations) to numbers for the log per site."""


@dataclass(frozen=True)
class FinishedVariant:
    """What a finished run hands over, once per variant.

    Attributes:
        groups: group → its SAE in normalised units, and the sites it serves.
        normalisers: by site, in the model's order.
        epochs: whole passes over the text that were read, None where that means nothing.
        train: this variant's own settings of optimiser and schedule.
        normaliser: the kind of its normalisers.
        seconds: the training loop's up to the last checkpoint, the reading of the language model
            and all variants of the run included; the same when the suite is written again.
        norm_limits: site → the norm above which tokens were left out; empty where none were.
        mean_over_std: site → ‖μ‖/‖σ‖ of the rows that its normaliser was estimated on; None where
            they do not vary.
        precision: in which active latents were looked for.
    """

    variant: str
    path: Path
    groups: dict[str, tuple[SAE, tuple[str, ...]]]
    normalisers: dict[str, Normaliser]
    tokens: int
    steps: int
    epochs: int | None
    train: dict[str, Any]
    normaliser: NormaliserKind
    seconds: float
    norm_limits: dict[str, float] = field(default_factory=dict)
    mean_over_std: dict[str, float | None] = field(default_factory=dict)
    precision: Precision = "float32"

    def facts(self) -> dict[str, Any]:
        """All of it by name, as `suite.write_suite` takes it."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


class Trainer:
    """Trains all members on the batches of one source, resumably.

    A member's weights depend on the seed, its own variant and sites, and the source; not on the
    log, the probe or where the run was interrupted, and on the other members only in rounding
    (several SAEs are stepped side by side, a thread each; a single one has all threads).

    Args:
        members: the SAEs, on the device they are trained on; initialised here.
        source: its batches are `config.batch` rows; its planes are the sites.
        seed: of the initialisation.
        run_dir: checkpoints and the record of the run.
        suite_dirs: folder of each variant's metrics.jsonl and, in the end, suite.
        identity: all on which the weights depend, as nested plain values (the whole RunConfig,
            the model's fingerprint); a resume with another one is refused.
        buffer: how normalisers are estimated, on the first rows of the source.
        probe: held-out evaluation, every `config.eval_every` steps.
        finish: writes a suite; called once per variant at the end, again if that is interrupted.
        say: prints a line.
        log: `tensorboard`, `wandb`.

    Raises:
        UserError: for a configuration that makes no run.
    """

    def __init__(
        self,
        members: Sequence[RunSAE],
        source: ActivationSource,
        config: TrainConfig,
        *,
        seed: int,
        run_dir: Path,
        suite_dirs: Mapping[str, Path],
        identity: Mapping[str, Any],
        buffer: BufferConfig,
        probe: Probe | None = None,
        finish: Callable[[FinishedVariant], None] | None = None,
        say: Callable[[str], None] = print,
        log: Sequence[str] = (),
    ) -> None:
        self.config, self.source = config, source
        self.steps = schedule.steps(config)
        self._learners = [Learner.of(member, config, buffer.normaliser) for member in members]
        self.state = RunState(self._learners, source, seed)
        self._precision = Chosen("float32", "nothing was trained")
        self._buffer = buffer
        self._run_dir = RunDir(run_dir, suite_dirs, identity)
        self._suite_dirs = dict(suite_dirs)
        self._saver = checkpoints.Saver(run_dir / "checkpoints")
        self._identity, self._log_names = identity, log
        self._probe, self._finish, self._say = probe, finish, say
        self._log = RunLog(self._learners, config, suite_dirs, say)
        self._loggers: list[RunLogger] = []
        self._seconds, self._begun = 0.0, time.monotonic()
        self._recorded = 0.0

    @property
    def step(self) -> int:
        """Steps done."""
        return self.state.step

    @property
    def normalisers(self) -> Mapping[NormaliserKind, Mapping[str, Normaliser]]:
        """Those of the run, by kind and site."""
        return self.state.normalisers

    def run(self) -> Outcome:
        """Train to the end, or until a signal asks to stop; resumes by itself.

        Raises:
            UserError: if the folder holds another run, or an activation is NaN or Inf (naming
                plane and batch, the state before it checkpointed), or a loss, gradient or weight
                is (naming step, term and SAE, the last good checkpoint kept), or the disk is full.
        """
        with self._run_dir.opened(self._say) as state:
            if state == "finished":
                self._say(f"{self._run_dir.path} is finished already; nothing was changed")
                return "finished"
            if self._run_dir.damage is not None:
                self._say(f"repairing {self._run_dir.path}: {self._run_dir.damage}")
            try:
                return self._run()
            finally:
                self._saver.close()
                close_all(self._loggers)

    def _run(self) -> Outcome:
        progress = Progress("training", self.steps, self._say, each=self.config.batch)
        workers = Workers(len(self._learners), self._device)
        with StopRequest() as stop, progress, workers, memory_kept():
            self.source.tick = _both(progress, stop)
            self.source.read_in(workers.reading)
            try:
                self._begin()
                progress.begin(self.step)
                self._loop(stop, progress, workers)
            except Stopped:
                self._checkpoint()
                self._saver.wait()
                return self._interrupted()
        self._end()
        return "finished"

    def _loop(self, stop: StopRequest, progress: Progress, workers: Workers) -> None:
        config, state, log = self.config, self.state, self._log
        while self.step < self.steps:
            self._train(self._next(), workers)
            state.step, state.position = self.step + 1, self.source.state_dict()
            last = self.step == self.steps
            if last or self._due(config.log_every):
                log.note(self.step, self.steps, self._elapsed())
            if last or self._device.type == "cpu" or self._due(DEAD_EVERY):
                self._refuse_nonfinite()
                log.write()
            if self._probe and config.eval_every and (last or self._due(config.eval_every)):
                workers.rest()  # what is measured may change how the language model runs
                self._evaluate(self._probe)
            if last or self._due(config.checkpoint_every):
                self._checkpoint()
            progress.advance(self.step, lambda: log.at_step(self.step, self.steps))
            if not last:
                stop.check()

    def _next(self) -> ActivationBatch:
        """The next batch; if it is refused, the state before it is kept."""
        try:
            rows = next(self.source)
            if not self.source.vetted:
                refuse_nonfinite(rows, self.step + 1)
        except UserError:
            self._checkpoint()
            self._saver.wait()
            raise
        return rows

    def _train(self, rows: ActivationBatch, workers: Workers) -> None:
        """One step of every SAE; what several see in common is made once."""
        threshold = schedule.dead_threshold(self.config)
        progress = self.step / self.steps
        on_cpu = self._device.type == "cpu"  # elsewhere a step returns before it is done
        recount = on_cpu or self.step % DEAD_EVERY == 0
        logged = (self.step + 1) % max(self.config.log_every, 1) == 0 or self.step + 1 == self.steps
        batches: dict[View, Batch] = {}

        def make(view: View) -> None:
            batches[view] = self.state.batch(view, rows.x, self.step, rows.label)

        def step(job: tuple[Learner, Batch]) -> None:
            learner, batch = job
            begun = time.perf_counter()
            if recount:
                learner.dead = (learner.idle_M >= threshold).nonzero().squeeze(1)
            context = Context(learner.dead, progress, self._precision.precision)
            lr = learner.lr * schedule.lr_factor(learner.config, self.step)
            sites = len(learner.view.sites) if logged else 0
            learner.last = train_step(learner.sae, learner.optimiser, batch, context, lr, sites)
            learner.unseen.append((self.step + 1, *learner.last.numbers()))
            learner.idle_M.add_(batch.x.shape[0]).masked_fill_(learner.last.fired, 0)
            learner.seconds += time.perf_counter() - begun if on_cpu else math.nan

        workers.run(make, dict.fromkeys(learner.view for learner in self._learners))
        workers.run(step, [(learner, batches[learner.view]) for learner in self._learners])

    def _begin(self) -> None:
        """Resume from the newest good checkpoint, or initialise normalisers and SAEs."""
        self._begun = time.monotonic()  # the reading of the first text counts
        checkpoint = checkpoints.newest(self._saver.root, self._say)
        if checkpoint is not None:
            self._restore(checkpoint)
        else:
            self.state.initialise(self._buffer, self.config.batch, self._say)
            saes = [learner.sae for learner in self._learners]
            self._precision = choose_precision(self.config.precision, saes, self._device)
        if self.step < self.steps:
            facts = self.source.describe()
            self._say(f"activations: {', '.join(f'{k} {_show(v)}' for k, v in facts.items())}")
            for line in (*self._regime(), str(self._precision)):
                self._say(line)
        self.state.position = self.source.state_dict()
        self._loggers = open_loggers(
            self._log_names, self._run_dir.path, dict(self._identity), self.step
        )
        kept = checkpoint.texts() if checkpoint is not None else {}
        self._log.open(self._loggers, kept, self.step)

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        different = differences(checkpoint.state["identity"], plain(self._identity))
        if different:
            raise UserError(
                f"{checkpoint.folder} is of another configuration ({'; '.join(different)}); choose "
                "another --out or delete that folder"
            )
        self.state.restore(checkpoint)
        self._precision = Chosen(checkpoint.state["precision"], "as before the interruption")
        self._seconds = self._recorded = float(checkpoint.state["seconds"])
        self._say(f"resuming {self._run_dir.path} at step {self.step:,} of {self.steps:,}")

    def _regime(self) -> list[str]:
        """Tokens per latent, and warnings where they are few or the run has one step."""
        rows = self.steps * self.config.batch
        each = [regime.tokens_per_latent(rows, learner.sae.width) for learner in self._learners]
        few = regime.caution(each)
        lines = [f"SAEs: {regime.described(each)}", *([f"warning: {few}"] if few else [])]
        if self.steps == 1:
            lines.append(
                f"warning: train.tokens = {self.config.tokens:,} are one step of train.batch = "
                f"{self.config.batch:,}, which trains next to nothing; raise the one or lower the "
                "other"
            )
        return lines

    def _refuse_nonfinite(self) -> None:
        """End the run at a step whose losses or gradient were not finite."""
        for learner in self._learners:
            seen, learner.unseen = learner.unseen, []
            for step, names, values in seen:
                for name, value in zip(names, values.tolist(), strict=True):
                    if not math.isfinite(value):
                        raise self._diverged(step, f"the {name} of {learner.name} is {value}")

    def _refuse_bad_weights(self) -> None:
        """End the run before a state that is not finite is kept."""
        self._refuse_nonfinite()
        for learner in self._learners:
            for name, tensor in learner.tensors().items():
                if tensor.is_floating_point() and not finite(tensor):
                    what = f"{name.removeprefix('sae.')} of {learner.name} has NaN or infinity"
                    raise self._diverged(self.step, what)

    def _diverged(self, step: int, what: str) -> UserError:
        self._saver.wait()
        kept = next(iter(checkpoints.folders(self._saver.root)), None)
        why = (
            f"training stopped at step {step:,} of {self.steps:,}: {what}; "
            + (f"the last good state is kept in {kept}; " if kept else "nothing was kept; ")
            + "lower train.lr or train.clip and choose another --out"
        )
        self._run_dir.stop(why)
        return UserError(why)

    def _checkpoint(self) -> None:
        """Begin to save the state, unless nothing is trained, or nothing since a resume."""
        if self.step == 0 or not self._log.is_open:
            return
        self._refuse_bad_weights()
        self._recorded = self._elapsed()
        facts = {
            "identity": plain(self._identity),
            "seconds": self._recorded,
            "precision": self._precision.precision,
            **self.state.facts(),
        }
        self._saver.save(self.step, facts, self.state.tensors(), self._log.contents())

    def _evaluate(self, probe: Probe) -> None:
        """Held-out numbers of every variant, without a trace in the random state."""
        devices = [self._device] if self._device.type == "cuda" else []  # not every GPU there is
        with torch.random.fork_rng(devices), torch.no_grad():
            for variant in self._suite_dirs:
                numbers = probe(self.state.bank(variant))
                self._log.held_out(variant, self.step, numbers)

    def _end(self) -> None:
        """Write the suites, when the last checkpoint is on the disk."""
        self._saver.wait()
        state = self.state
        for variant, path in self._suite_dirs.items():
            groups: dict[str, tuple[SAE, tuple[str, ...]]] = {}
            normalisers: dict[str, Normaliser] = {}
            for learner in state.of(variant):
                sae, by_site = learner.shared(state.normalisers[learner.view.normaliser])
                groups[learner.member.group] = (sae, learner.view.sites)
                normalisers |= by_site
            trained = FinishedVariant(
                variant,
                path,
                groups,
                {site: normalisers[site] for site in self.source.planes if site in normalisers},
                self.steps * self.config.batch,
                self.steps,
                self.source.epoch,
                state.of(variant)[0].member.train,
                state.of(variant)[0].view.normaliser,
                self._recorded,
                dict(self.source.limits),
                {site: state.mean_over_std[site] for site in normalisers},
                self._precision.precision,
            )
            if self._finish:
                self._finish(trained)
        self._run_dir.finish()
        self._say(self._made())

    def _made(self) -> str:
        """The last line of a run: what was made."""
        saes, suites = len(self._learners), len(self._suite_dirs)
        last = f"; {self._log.last} at the end" if self._log.last else ""
        return (
            f"made {self._run_dir.path}: {saes} SAE{'s' * (saes > 1)} in {suites} "
            f"suite{'s' * (suites > 1)}, {self.steps * self.config.batch:,} tokens each, in "
            f"{duration(self._elapsed())}{last}"
        )

    def _interrupted(self) -> Outcome:
        where = f"at step {self.step:,} of {self.steps:,}" if self.step else "before step 1"
        self._say(f"interrupted {where}; run the same command again to resume")
        return "interrupted"

    @property
    def _device(self) -> torch.device:
        return self.state.device

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _elapsed(self) -> float:
        """Seconds of training, those before a resume included."""
        return self._seconds + time.monotonic() - self._begun


def _both(progress: Progress, stop: StopRequest) -> Callable[[float], None]:
    def tick(share: float) -> None:
        progress.tell(f"reading text {share:.0%}")
        stop.check()

    return tick


def _show(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
