"""From a run's configuration to its suites: model, text, source, SAEs, probe and trainer put
together, and what it costs beside what it was said to cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from saeworks.activations.base import ActivationSource
from saeworks.activations.error import ErrorSource
from saeworks.activations.labelled import Labelled
from saeworks.activations.live import LiveSource
from saeworks.config import RunConfig
from saeworks.cost.calibrate import calibrate, parts_of, workload
from saeworks.cost.estimate import Workload, predicted
from saeworks.errors import UserError
from saeworks.files.access import read_json, write_json
from saeworks.groups.grouping import Groupings
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.measure.probe import ErrorProbe, HeldOutProbe
from saeworks.suite import write_suite
from saeworks.train import schedule
from saeworks.train.error_job import ErrorJob
from saeworks.train.log import check_trackers
from saeworks.train.run_dir import check_place
from saeworks.train.trainer import Probe, Trained, Trainer
from saeworks.train.variants import (
    Variant,
    build_members,
    expand_variants,
    suite_dirs,
)

COST = "cost.json"
FEW_EPOCHS = 2.0
"""Readings of a text from which on a run warns."""


@dataclass(frozen=True)
class Job:
    """A run that is ready to begin.

    Attributes:
        error: where it is on the error of another suite.
    """

    config: RunConfig
    lm: LanguageModel
    widths: dict[str, int]
    variants: list[Variant]
    work: Workload
    error: ErrorJob | None = None

    @classmethod
    def prepare(cls, config: RunConfig, lm: LanguageModel | None = None) -> "Job":
        """Load the model, unless it is given, and resolve sites, groups and variants.

        Raises:
            UserError: if any of them is not there, or they do not go together.
        """
        check_trackers(config.log)  # before anything is loaded
        if config.error and config.train.audit:
            raise UserError("train.audit is of SAEs on activations; leave it out with error.suite")
        lm = lm or LanguageModel.load(config.model, choose_device(config.device))
        widths = {site: lm.width(site) for site in lm.sites(config.sites)}
        groupings = Groupings(widths, lm.fingerprint, lm.name, lm.unlike)
        variants = expand_variants(
            config.saes,
            widths,
            config.train,
            [g for spec in config.groups for g in groupings.resolve(spec, "groups")],
            groupings.resolve,
        )
        work = workload(config, lm, parts_of(variants, widths), widths)
        _check_label(config.text.label, work)
        error = None if config.error is None else ErrorJob.load(config.error, widths, lm)
        return cls(config, lm, widths, variants, work, error)

    @cached_property
    def corpus(self) -> Corpus:
        """The text, tokenised when it is first asked for: what a run costs can be counted without.

        Raises:
            UserError: if it is not there, or has more labels than an SAE takes.
        """
        corpus = Corpus(
            self.config.text,
            self.lm.tokenizer,
            bos_id=self.lm.bos_id,
            max_context=self.lm.max_context,
            seed=self.config.seed,
        )
        if corpus.labels is not None:
            _check_labels(corpus.labels.names, self.config, self.work)
        return corpus


def _check_label(label: str | None, work: Workload) -> None:
    """Refuse SAEs that are trained on labels where nobody says what the labels are."""
    for part in work.parts:
        if part.sae.labels is not None and label is None:
            raise UserError(
                f"variant {part.variant} is trained on a label for every document: name the column "
                "that holds it with text.label (for the embedded text: domain)"
            )


def _check_labels(names: Sequence[str], config: RunConfig, work: Workload) -> None:
    for part in work.parts:
        if part.sae.labels is not None and len(names) > part.sae.labels:
            shown = ", ".join([*names[:5], "…"] if len(names) > 5 else names)
            raise UserError(
                f"text {config.text.source!r} has {len(names)} labels in {config.text.label!r} "
                f"({shown}), more than labels = {part.sae.labels} of variant {part.variant}; raise "
                "labels or choose another text.label"
            )


def train_run(
    config: RunConfig, out: Path, say: Callable[[str], None], predict: bool = False
) -> bool:
    """Train to the end; False where it was interrupted.

    Args:
        predict: measure how fast this machine is first, and leave what is predicted in cost.json.
    """
    check_place(out)
    job = Job.prepare(config)
    if left_out := job.lm.left_out(config.sites):
        say(left_out)
    if predict:
        _predict(job, out, say)
    trained: list[Trained] = []

    def finish(one: Trained) -> None:
        _write_suite(one, job)
        trained.append(one)

    trainer = _trainer(job, out, say, finish)
    if (often := _epochs(job)) is not None and often > FEW_EPOCHS:
        say(
            f"warning: the run reads its text {often:.1f} times over, so SAEs may learn its tokens "
            "by heart; give more text, or lower train.tokens"
        )
    finished = trainer.run() == "finished"
    if trained:
        _compare(out, trained[0].seconds, say)
    return finished


def _trainer(
    job: Job, out: Path, say: Callable[[str], None], finish: Callable[[Trained], None]
) -> Trainer:
    config, lm = job.config, job.lm
    sequences = _sequences(config)
    source: ActivationSource = LiveSource(
        lm,
        job.corpus.stream("train", sequences),
        list(job.widths),
        config.buffer,
        batch=config.train.batch,
        seed=config.seed,
        tokens=config.train.tokens,
    )
    if job.corpus.labels is not None:
        source = Labelled(source, torch.from_numpy(job.corpus.labels.number))
    if job.error is not None:
        again = job.corpus.stream("train", sequences)
        source = job.error.source(source, lm, again, sequences * config.text.context)
    return Trainer(
        build_members(job.variants, job.widths, lm.device),
        source,
        config.train,
        seed=config.seed,
        run_dir=out,
        suite_dirs=suite_dirs(job.variants, out),
        identity={
            **asdict(config),
            "model_fingerprint": lm.fingerprint,
            "groupings": {v.name: v.grouping.groups for v in job.variants if v.grouping.name},
            **({"error_digest": job.error.digest} if job.error else {}),
        },
        buffer=config.buffer,
        probe=_probe(job, source),
        finish=finish,
        say=say,
        log=config.log,
    )


def _epochs(job: Job) -> float | None:
    """How often the run reads its text, None where the text's length is not known beforehand."""
    text, known = job.config.text, job.corpus.describe()
    tokens = known["tokens"]["train"]
    if tokens is None:
        return None
    if known["bos"] == "document" and text.exclude_bos:
        tokens -= known["documents"]["train"]
    kept = tokens * (1 - text.exclude_first / text.context)
    train = job.config.train
    return float(schedule.steps(train) * train.batch / max(kept, 1.0))


def _sequences(config: RunConfig) -> int:
    """Of a forward pass of the language model."""
    return max(1, config.buffer.lm_batch // config.text.context)


def _probe(job: Job, source: ActivationSource) -> Probe | None:
    """What is measured on held-out tokens on the way, if anything."""
    train = job.config.train
    if not train.eval_every:
        return None
    held_out = job.corpus.stream("held_out", _sequences(job.config), epochs=1)

    def limits() -> Mapping[str, float]:
        return source.limits  # known once the ring was filled

    if isinstance(source, ErrorSource):
        return ErrorProbe(job.lm, held_out, train.eval_tokens, source.of, limits)
    audited = list(job.widths) if train.audit else ()
    return HeldOutProbe(job.lm, held_out, train.eval_tokens, audited, limits)


def _write_suite(trained: Trained, job: Job) -> None:
    """One variant's suite, with all that is needed to use it and to train it again."""
    config, lm = job.config, job.lm
    (variant,) = (v for v in job.variants if v.name == trained.variant)
    write_suite(
        **trained.facts(),
        model={
            "name": lm.name,
            "revision": lm.revision,
            "fingerprint": lm.fingerprint,
            "layers": lm.layers,
        },
        text=asdict(config.text),
        config=asdict(config),
        seed=config.seed,
        grouping=variant.grouping.describe(),
        cost=flops_of(job.work, trained.variant),
        error=None if job.error is None else job.error.record(),
        error_maps=None if job.error is None else job.error.maps(),
    )


def flops_of(work: Workload, variant: str) -> dict[str, float]:
    """Operations of a suite's training: its SAEs', and the language model's as if it had been
    read for this suite alone."""
    lm = work.read * work.lm.flops
    saes = work.rows * sum(p.flops(work.batch) for p in work.parts if p.variant == variant)
    return {"flops": lm + saes, "flops_lm": lm, "flops_saes": saes}


def _predict(job: Job, out: Path, say: Callable[[str], None]) -> None:
    """Leave the prediction in the run's folder, unless one is there."""
    if (out / COST).exists():
        return
    speed = calibrate(job.work, job.config, job.lm, job.corpus)
    found = predicted(job.work, speed)
    write_json(out / COST, found.to_json())
    seconds = f"{found.seconds.total:,.0f} s of training" if found.seconds else "no seconds"
    say(f"predicted: {seconds}{speed.caveat}")


def _compare(out: Path, seconds: float, say: Callable[[str], None]) -> None:
    """Put the seconds that the run took beside those predicted."""
    if not (out / COST).exists():
        return
    cost: Any = read_json(out / COST, "cost")
    try:
        said = None if cost["seconds"] is None else float(cost["seconds"]["total"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{out / COST} is not what `saeworks cost` wrote; delete it") from None
    write_json(out / COST, {**cost, "measured_seconds": seconds})
    if said is None:
        say(f"trained in {seconds:,.0f} s; no seconds were predicted")
        return
    say(f"trained in {seconds:,.0f} s; {said:,.0f} s were predicted ({seconds / said - 1:+.0%})")
