"""A run that reads the language model as it goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch

from saeworks.activations.base import ActivationSource
from saeworks.activations.error import ErrorSource
from saeworks.activations.labelled import Labelled
from saeworks.activations.live import RowReader, pass_sequences
from saeworks.activations.ring import RingSource
from saeworks.config import RunConfig
from saeworks.cost.calibrate import parts_of, workload
from saeworks.cost.estimate import Workload
from saeworks.errors import UserError
from saeworks.groups.grouping import Groupings
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.measure.probe import ErrorProbe, HeldOutProbe
from saeworks.train.base import Job
from saeworks.train.error_target import ErrorTarget
from saeworks.train.log import check_loggers
from saeworks.train.trainer import FinishedVariant, Probe
from saeworks.train.variants import resolved_variants

FEW_EPOCHS = 2.0
"""Readings of a text from which on a run warns."""


@final
@dataclass(frozen=True)
class LiveJob(Job):
    """A run on the activations of a language model.

    Attributes:
        work: what the run does, for its cost.
        error: where it is on the error of another suite.
        read: the text, where it was read before.
    """

    lm: LanguageModel
    work: Workload
    error: ErrorTarget | None = None
    read: Corpus | None = None

    @classmethod
    def prepare(
        cls, config: RunConfig, lm: LanguageModel | None = None, read: Corpus | None = None
    ) -> "LiveJob":
        """Load the model, unless it is given, and resolve sites, groups and variants.

        Args:
            read: the text, where another run with the same seed has read it.

        Raises:
            UserError: if any of them is not there, or they do not go together.
        """
        check_loggers(config.log)  # before anything is loaded
        if config.error and config.train.audit:
            raise UserError("train.audit is of SAEs on activations; leave it out with error.suite")
        lm = lm or LanguageModel.load(config.model, choose_device(config.device))
        widths = {site: lm.width(site) for site in lm.sites(config.sites)}
        groupings = Groupings(widths, lm.fingerprint, lm.name, lm.unlike)
        variants = resolved_variants(config, groupings)
        work = workload(config, lm, parts_of(variants, widths), widths)
        _check_label(config.text.label, work)
        error = None if config.error is None else ErrorTarget.load(config.error, widths, lm)
        model = {
            "name": lm.name,
            "revision": lm.revision,
            "fingerprint": lm.fingerprint,
            "layers": lm.layers,
        }
        return cls(config, model, widths, variants, lm.device, lm, work, error, read)

    @cached_property
    def corpus(self) -> Corpus:
        """The text, tokenised when it is first asked for: what a run costs can be counted without.

        Raises:
            UserError: if it is not there, or has more labels than an SAE takes.
        """
        corpus = self.read or Corpus(
            self.config.text,
            self.lm.tokenizer,
            bos_id=self.lm.bos_id,
            max_context=self.lm.max_context,
            seed=self.config.seed,
        )
        if corpus.labels is not None:
            _check_labels(corpus.labels.names, self.config, self.work)
        return corpus

    @property
    def sequences(self) -> int:
        """Of a forward pass of the language model."""
        return pass_sequences(self.config.buffer, self.config.text.context, self.lm.device)

    def rows(self) -> RowReader:
        """The rows of the training text from its beginning."""
        return RowReader(self.lm, self.corpus.stream("train", self.sequences), list(self.widths))

    def source(self) -> ActivationSource:
        config = self.config
        batch, tokens = config.train.batch, config.train.tokens
        source: ActivationSource = RingSource(
            self.rows(), config.buffer, batch, config.seed, tokens
        )
        if self.corpus.labels is not None:
            source = Labelled(source, torch.from_numpy(self.corpus.labels.number))
        if self.error is not None:
            again = self.corpus.stream("train", self.sequences)
            source = self.error.source(source, self.lm, again)
        return source

    def probe(self, source: ActivationSource) -> Probe | None:
        train = self.config.train
        if not train.eval_every:
            return None
        held_out = self.corpus.stream("held_out", self.sequences, epochs=1)

        def limits() -> Mapping[str, float]:
            return source.limits  # known once the ring was filled

        if isinstance(source, ErrorSource):
            return ErrorProbe(self.lm, held_out, train.eval_tokens, source.of, limits)
        audited = list(self.widths) if train.audit else ()
        return HeldOutProbe(self.lm, held_out, train.eval_tokens, audited, limits)

    def notes(self) -> list[str]:
        left_out = self.lm.left_out(self.config.sites)
        lines = [left_out] if left_out else []
        if (epochs := self._epochs()) is not None and epochs > FEW_EPOCHS:
            lines.append(
                f"warning: the run reads its text {epochs:.1f} times over, so SAEs may learn its "
                "tokens by heart; give more text, or lower train.tokens"
            )
        return lines

    def identity(self) -> dict[str, Any]:
        return {} if self.error is None else {"error_digest": self.error.digest}

    def record(self, trained: FinishedVariant) -> dict[str, Any]:
        cost = {"cost": self.work.flops_of(trained.variant)}
        return cost if self.error is None else {**cost, **self.error.record()}

    def _epochs(self) -> float | None:
        """How often the run reads its text; None where the text's length is not known before."""
        text, known = self.config.text, self.corpus.describe()
        tokens = known["tokens"]["train"]
        if tokens is None:
            return None
        if known["bos"] == "document" and text.exclude_bos:
            tokens -= known["documents"]["train"]
        kept = tokens * (1 - text.exclude_first / text.context)
        return float(self.work.rows / max(kept, 1.0))


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
