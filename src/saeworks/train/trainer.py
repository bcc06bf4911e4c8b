"""The one training loop: every SAE of a run on one pass of the activations.

Shapes: B tokens in a batch, D width of a plane, M latents.
"""

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from saeworks.activations import outliers
from saeworks.activations.base import (
    ActivationBatch,
    ActivationSource,
    finite,
    refuse_nonfinite,
)
from saeworks.activations.offset import mean_over_std, offset_warning
from saeworks.activations.outliers import Outliers
from saeworks.activations.seeds import derive_seed, generator
from saeworks.config import BufferConfig, NormaliserKind, TrainConfig
from saeworks.cost.estimate import spent
from saeworks.cost.machine import resident_bytes
from saeworks.cost.precision import Chosen, choose_precision
from saeworks.cost.progress import Progress, duration
from saeworks.dictionary.base import SAE, Batch, Context
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.selection import Precision
from saeworks.errors import UserError
from saeworks.results import regime
from saeworks.results.names import LOG
from saeworks.train import checkpoints, schedule
from saeworks.train.interrupt import Stopped, StopRequest
from saeworks.train.learner import Learner
from saeworks.train.log import (
    MetricsLog,
    RunLogger,
    close_all,
    open_loggers,
)
from saeworks.train.mixing import View
from saeworks.train.run_dir import RunDir, differences, plain
from saeworks.train.step import train_step
from saeworks.train.variants import RunSAE
from saeworks.train.workers import Workers

LOGS = "logs"
"""Name in a checkpoint of the compressed metrics.jsonl of every variant."""
DEAD_EVERY = 16
"""Steps between recounts of the dead latents on a GPU, where each one waits for the device; so do
checks that steps were finite."""

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
        self.config, self.source, self.seed = config, source, seed
        self.steps, self.step = schedule.steps(config), 0
        self.normalisers: dict[NormaliserKind, dict[str, Normaliser]] = {}
        self._mean_over_std: dict[str, float | None] = {}
        self._precision = Chosen("float32", "nothing was trained")
        self._buffer = buffer
        self._learners = [Learner.of(member, config, buffer.normaliser) for member in members]
        self._run_dir = RunDir(run_dir, suite_dirs, identity)
        self._suite_dirs = dict(suite_dirs)
        self._checkpoints = run_dir / "checkpoints"
        self._identity, self._log_names = identity, log
        self._probe, self._finish, self._say = probe, finish, say
        self._logs: dict[str, MetricsLog] = {}
        self._loggers: list[RunLogger] = []
        self._position: dict[str, Any] = {}
        self._seconds, self._begun = 0.0, time.monotonic()
        self._recorded = 0.0
        self._logged = (0, self._begun)
        self._numbers = ""

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
                close_all(self._loggers)

    def _run(self) -> Outcome:
        progress = Progress("training", self.steps, self._say, each=self.config.batch)
        workers = Workers(len(self._learners), self._device)
        with StopRequest() as stop, progress, workers:
            self.source.tick = _both(progress, stop)
            try:
                self._begin()
                progress.begin(self.step)
                self._loop(stop, progress, workers)
            except Stopped:
                self._checkpoint()
                return self._interrupted()
        self._end()
        return "finished"

    def _loop(self, stop: StopRequest, progress: Progress, workers: Workers) -> None:
        config = self.config
        while self.step < self.steps:
            self._train(self._next(), workers)
            self.step, self._position = self.step + 1, self.source.state_dict()
            last = self.step == self.steps
            if self._device.type == "cpu" or self._due(DEAD_EVERY):
                self._refuse_nonfinite()
            if last or self._due(config.log_every):
                self._log()
            if self._probe and config.eval_every and (last or self._due(config.eval_every)):
                self._evaluate(self._probe)
            if last or self._due(config.checkpoint_every):
                self._checkpoint()
            progress.advance(self.step, self._note)
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
            batches[view] = self._batch(view, rows.x, self.step, rows.label)

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

    def _batch(
        self, view: View, x: Mapping[str, Tensor], step: int, label: Tensor | None = None
    ) -> Batch:
        """What an SAE sees at a step; −1 for its initialisation."""
        on_device = {site: x[site].to(self._device) for site in view.sites}
        normalisers = self.normalisers[view.normaliser]
        return view.batch(on_device, normalisers, self.seed, step, label=label)

    def _begin(self) -> None:
        """Resume from the newest good checkpoint, or initialise normalisers and SAEs."""
        self._begun = time.monotonic()  # the reading of the first text counts
        checkpoint = checkpoints.newest(self._checkpoints, self._say)
        if checkpoint is not None:
            self._restore(checkpoint)
        else:
            torch.manual_seed(derive_seed(self.seed, "global"))
            self._initialise()
            saes = [learner.sae for learner in self._learners]
            self._precision = choose_precision(self.config.precision, saes, self._device)
        if self.step < self.steps:
            facts = self.source.describe()
            self._say(f"activations: {', '.join(f'{k} {_show(v)}' for k, v in facts.items())}")
            for line in (*self._regime(), str(self._precision)):
                self._say(line)
        self._position = self.source.state_dict()
        self._loggers = open_loggers(
            self._log_names, self._run_dir.path, dict(self._identity), self.step
        )
        lengths = checkpoint.state["metrics"] if checkpoint is not None else {}
        kept = checkpoint.tensors(LOGS) if checkpoint is not None and checkpoint.has(LOGS) else {}
        for variant, path in self._suite_dirs.items():
            self._logs[variant] = MetricsLog(path / LOG, variant, self._loggers)
            if variant in kept:
                content = zlib.decompress(kept[variant].numpy().tobytes())
                self._logs[variant].restore(content, self._say)
            else:  # nothing trained, or a checkpoint of before the log was in it
                self._logs[variant].truncate(int(lengths.get(variant, 0)))
        self._logged = (self.step, time.monotonic())

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

    def _initialise(self) -> None:
        """Normalisers first, then SAEs, on the first rows of the run."""
        kinds = self._kinds()
        head: dict[str, Tensor] = {}
        far: dict[str, Outliers] = {}
        for site in dict.fromkeys(site for sites in kinds.values() for site in sites):
            x_ND = self.source.head(site, max(self._buffer.normaliser_tokens, self.config.batch))
            first_ND = x_ND[: self._buffer.normaliser_tokens].to(self._device)
            head[site] = x_ND[: self.config.batch].clone()
            far[site] = Outliers.of(first_ND)
            self._mean_over_std[site] = mean_over_std(first_ND)
            for kind, sites in kinds.items():
                if site in sites:
                    frozen = "centre-scale" if kind == "learnable" else kind
                    normaliser = Normaliser.estimate(first_ND, frozen)
                    self.normalisers.setdefault(kind, {})[site] = normaliser
        raw = {site for kind in ("scale-only", "none") for site in kinds.get(kind, ())}
        off_centre = {site: self._mean_over_std[site] for site in raw}
        for warning in (outliers.warning(far), offset_warning(off_centre)):
            if warning:
                self._say(f"warning: {warning}")
        for view in dict.fromkeys(learner.view for learner in self._learners):
            x_BD = self._batch(view, head, -1).x
            for learner in self._learners:
                if learner.view == view:
                    member = learner.member
                    random = generator(self.seed, member.group, member.variant)
                    learner.sae.initialise(x_BD, random)

    def _kinds(self) -> dict[NormaliserKind, list[str]]:
        """The sites of each kind of normaliser."""
        kinds: dict[NormaliserKind, list[str]] = {}
        for view in dict.fromkeys(learner.view for learner in self._learners):
            sites = kinds.setdefault(view.normaliser, [])
            sites += [site for site in view.sites if site not in sites]
        return kinds

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        different = differences(checkpoint.state["identity"], plain(self._identity))
        if different:
            raise UserError(
                f"{checkpoint.folder} is of another configuration ({'; '.join(different)}); choose "
                "another --out or delete that folder"
            )
        self.step = int(checkpoint.state["step"])
        shared = checkpoint.tensors("run")
        for kind, sites in self._kinds().items():
            for site in sites:
                mean, scale = (shared[f"{kind}:{site}.{name}"] for name in ("mean", "scale"))
                normaliser = Normaliser(mean, scale).to(self._device)
                self.normalisers.setdefault(kind, {})[site] = normaliser
        torch.set_rng_state(shared["rng"])
        for i, learner in enumerate(self._learners):
            learner.load(checkpoint.tensors(f"sae-{i:04d}"))
        self.source.load_state_dict(checkpoint.state["source"])
        self._mean_over_std = dict(checkpoint.state["mean_over_std"])
        self._precision = Chosen(checkpoint.state["precision"], "as before the interruption")
        self._seconds = self._recorded = float(checkpoint.state["seconds"])
        for learner, seconds in zip(self._learners, checkpoint.state["step_seconds"], strict=True):
            learner.seconds = math.nan if seconds is None else float(seconds)
        self._say(f"resuming {self._run_dir.path} at step {self.step:,} of {self.steps:,}")

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
        kept = next(iter(checkpoints.folders(self._checkpoints)), None)
        why = (
            f"training stopped at step {step:,} of {self.steps:,}: {what}; "
            + (f"the last good state is kept in {kept}; " if kept else "nothing was kept; ")
            + "lower train.lr or train.clip and choose another --out"
        )
        self._run_dir.stop(why)
        return UserError(why)

    def _checkpoint(self) -> None:
        """Write the present state, unless nothing is trained, or nothing since a resume."""
        if self.step == 0 or not self._logs:
            return
        self._refuse_bad_weights()
        self._recorded = self._elapsed()
        state = {
            "identity": plain(self._identity),
            "source": self._position,
            "metrics": {variant: log.length() for variant, log in self._logs.items()},
            "mean_over_std": self._mean_over_std,
            "precision": self._precision.precision,
            "seconds": self._recorded,
            "step_seconds": [None if math.isnan(x.seconds) else x.seconds for x in self._learners],
        }
        checkpoints.save(self._checkpoints, self.step, state, self._tensors())

    def _tensors(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        shared = {"rng": torch.get_rng_state()}
        for kind, by_site in self.normalisers.items():
            for site, normaliser in by_site.items():
                shared[f"{kind}:{site}.mean"] = normaliser.mean
                shared[f"{kind}:{site}.scale"] = normaliser.scale
        yield "run", shared
        yield (
            LOGS,
            {
                variant: torch.frombuffer(
                    bytearray(zlib.compress(log.content())), dtype=torch.uint8
                )
                for variant, log in self._logs.items()
            },
        )
        for i, learner in enumerate(self._learners):
            yield f"sae-{i:04d}", learner.tensors()

    def _log(self) -> None:
        """A line per SAE; reading its numbers waits for the device."""
        self._refuse_nonfinite()
        now, (step, then) = time.monotonic(), self._logged
        self._logged = (self.step, now)
        shared = {
            "step": self.step,
            "tokens": self.step * self.config.batch,
            "tokens_per_second": (self.step - step) * self.config.batch / max(now - then, 1e-9),
            "seconds": self._elapsed(),
            "rss_bytes": resident_bytes(),
        }
        threshold = schedule.dead_threshold(self.config)
        records: dict[str, list[dict[str, Any]]] = {variant: [] for variant in self._logs}
        for learner in self._learners:
            by_site = learner.numbers(threshold)
            self._warn(learner, by_site[0])
            lr = learner.lr * schedule.lr_factor(learner.config, self.step - 1)
            per_sae = {
                "lr": lr,
                "tokens_per_latent": shared["tokens"] / learner.sae.width,
                "flops": spent(learner.sae, self.config.batch, self.step, self.steps),
                "step_seconds": learner.seconds,
            }
            for site, numbers in zip(learner.view.sites, by_site, strict=True):
                record = {"kind": "train", "site": site, **shared, **numbers, **per_sae}
                records[learner.member.variant].append(record)
        for variant, lines in records.items():
            self._logs[variant].write(lines)
        self._numbers = _shortly([line for lines in records.values() for line in lines])

    def _note(self) -> str:
        """The step and its numbers, for who watches."""
        threshold = schedule.dead_threshold(self.config)
        numbers = [site for learner in self._learners for site in learner.numbers(threshold)]
        return f"step {self.step:,} of {self.steps:,}, {_shortly(numbers)}"

    def _warn(self, learner: Learner, stats: Mapping[str, Any]) -> None:
        """Pass on an SAE's warning about its step, once."""
        warning = learner.sae.warning(stats)
        if warning is not None and not learner.warned:
            learner.warned = True
            self._say(f"warning: {learner.name}, step {self.step:,}: {warning}")

    def _evaluate(self, probe: Probe) -> None:
        """Held-out numbers of every variant, without a trace in the random state."""
        tokens = self.step * self.config.batch
        devices = [self._device] if self._device.type == "cuda" else []  # not every GPU there is
        with torch.random.fork_rng(devices), torch.no_grad():
            for variant in self._suite_dirs:
                held_out = probe(self._bank(variant))
                about = {"step": self.step, "tokens": tokens}
                self._logs[variant].write(
                    [
                        {"kind": "held_out", "site": site, **about, **held_out[site]}
                        for site in held_out
                    ]
                )

    def _bank(self, variant: str) -> dict[str, SAE]:
        """site → SAE on raw activations."""
        return {
            site: learner.at(index, self.normalisers[learner.view.normaliser][site])
            for learner in self._of(variant)
            for index, site in enumerate(learner.view.sites)
        }

    def _end(self) -> None:
        for variant, path in self._suite_dirs.items():
            groups: dict[str, tuple[SAE, tuple[str, ...]]] = {}
            normalisers: dict[str, Normaliser] = {}
            for learner in self._of(variant):
                sae, by_site = learner.shared(self.normalisers[learner.view.normaliser])
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
                self._of(variant)[0].member.train,
                self._of(variant)[0].view.normaliser,
                self._recorded,
                dict(self.source.limits),
                {site: self._mean_over_std[site] for site in normalisers},
                self._precision.precision,
            )
            if self._finish:
                self._finish(trained)
        self._run_dir.finish()
        self._say(self._made())

    def _made(self) -> str:
        """The last line of a run: what was made."""
        saes, suites = len(self._learners), len(self._suite_dirs)
        last = f"; {self._numbers} at the end" if self._numbers else ""
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
        return self._learners[0].idle_M.device

    def _of(self, variant: str) -> list[Learner]:
        return [learner for learner in self._learners if learner.member.variant == variant]

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _elapsed(self) -> float:
        """Seconds of training, those before a resume included."""
        return self._seconds + time.monotonic() - self._begun


def _shortly(lines: Sequence[Mapping[str, Any]]) -> str:
    """Loss and FVU of the last step, the means of all SAEs and sites."""
    count = len(lines)
    loss = sum(sum(line["loss"].values()) for line in lines) / count
    fvu = sum(line["fvu"] for line in lines) / count
    return f"{'mean ' * (count > 1)}loss {loss:.4g}, FVU {fvu:.4g}"


def _both(progress: Progress, stop: StopRequest) -> Callable[[float], None]:
    def tick(share: float) -> None:
        progress.tell(f"reading text {share:.0%}")
        stop.check()

    return tick


def _show(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
