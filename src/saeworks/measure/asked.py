"""Which model and text suites are measured with, whether these are their own, where results go."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from saeworks.config import TENSOR, ModelConfig, TextConfig
from saeworks.errors import UserError
from saeworks.files.access import own_folder
from saeworks.files.folders import make_ready
from saeworks.files.seals import RESULTS
from saeworks.lm.model import LanguageModel
from saeworks.measure.banks import Bank, sites_of
from saeworks.measure.coded_errors import coded_errors
from saeworks.suite import TEXT_DIGEST, Suite, text_digest

Own = TypeVar("Own", ModelConfig, TextConfig)


@dataclass(frozen=True)
class Work:
    """Suites that are measured with the same language model on the same held-out tokens."""

    model: ModelConfig
    text: TextConfig
    seed: int
    limits: dict[str, float]
    suites: tuple[Suite, ...]

    def language_model(self, device: torch.device, own: bool) -> LanguageModel:
        """The language model.

        Args:
            own: it is the one that the suites name, not one that was asked for.

        Raises:
            UserError: if it cannot be loaded.
        """
        try:
            return LanguageModel.load(self.model, device)
        except UserError as error:
            if not own:
                raise
            raise UserError(
                f"{self.suites[0].path}: {error}; if the model has moved, name it with --model"
            ) from error

    def banks(
        self, lm: LanguageModel, fingerprinted: bool, errors: bool = False
    ) -> dict[str, Bank]:
        """Path of a suite → its bank, on the model's device.

        Args:
            fingerprinted: refuse another model than the suites' own.
            errors: take suites on the error of others, too, for their codes.

        Raises:
            UserError: as `check_fingerprint`, `sites_of`, `Suite.bank` and `coded_errors`.
        """
        banks: dict[str, Bank] = {}
        for suite in self.suites:
            if fingerprinted:
                check_fingerprint(suite, lm)
            coded = errors and suite.error is not None
            bank = coded_errors(suite, lm.device) if coded else suite.bank()
            banks[str(suite.path)] = {site: sae.to(lm.device) for site, sae in bank.items()}
        sites_of(banks, lm)
        return banks


def works(
    suites: Sequence[Suite], model: ModelConfig | str | None, text: TextConfig | str | None
) -> list[Work]:
    """Suites put together where model, text, seed and limits of norms are the same."""
    by_key: dict[str, Work] = {}
    for suite in suites:
        run = suite.run
        own_text = asked_text(text, suite, run.text)
        work = Work(asked_model(model, run.model), own_text, run.seed, suite.norm_limits, (suite,))
        key = json.dumps([asdict(work.model), asdict(work.text), work.seed, work.limits])
        known = by_key.get(key)
        by_key[key] = work if known is None else replace(known, suites=(*known.suites, suite))
    return list(by_key.values())


def asked_model(asked: ModelConfig | str | None, own: ModelConfig) -> ModelConfig:
    """The model to measure with: a name alone keeps the precision of the suite's own.

    Raises:
        UserError: as `own_or_refused`.
    """
    if isinstance(asked, str):
        return replace(own, name=asked, revision=None)
    return asked or own_or_refused(own, own.name)


def asked_text(asked: TextConfig | str | None, suite: Suite, own: TextConfig) -> TextConfig:
    """The text to measure on: a source alone keeps the packing of the suite's own, and is measured
    on whole; the suite's own text, in whatever place it lies, only where it is held out, since the
    rest was trained on.

    Raises:
        UserError: as `own_or_refused`.
    """
    if not isinstance(asked, str):
        return asked or own_or_refused(own, own.source)
    content = suite.meta.get(TEXT_DIGEST)
    if asked == own.source or (content is not None and text_digest(asked) == content):
        return replace(own, source=asked)
    return replace(own, source=asked, subset=None, split=TextConfig.split, label=None, held_out=1.0)


def own_or_refused(own: Own, name: str) -> Own:
    """The suite's own model or text.

    Raises:
        UserError: if it has none, because it was trained on a tensor.
    """
    if name == TENSOR:
        raise UserError(
            "the suite was trained on a tensor (sw.train), so its model and text are not known: "
            "name both with --model and --text, or measure it in Python with sw.evaluate and "
            "sw.audit"
        )
    return own


def measured_on(
    suite: Suite, lm: LanguageModel, model: ModelConfig, text: TextConfig
) -> dict[str, Any]:
    """For a result's `config`: the model, the text, and whether they are the `own` of the suite,
    in whatever place they lie."""
    run, trained_on = suite.run, suite.meta["model"]
    same_model = lm.fingerprint == trained_on.get("fingerprint") and (
        replace(model, name=run.model.name, revision=run.model.revision) == run.model
    )
    content = suite.meta.get(TEXT_DIGEST)
    same_text = text == run.text or (
        content is not None
        and replace(text, source=run.text.source) == run.text
        and text_digest(text.source) == content
    )
    return {
        "model": {"name": lm.name, "revision": lm.revision, "fingerprint": lm.fingerprint},
        "text": asdict(text),
        "own": same_model and same_text,
    }


def check_fingerprint(suite: Suite, lm: LanguageModel) -> None:
    """Refuse another model than the suite's own.

    Raises:
        UserError: if its weights or its config have changed.
    """
    trained_on: Any = suite.meta["model"]
    recorded = trained_on.get("fingerprint") if isinstance(trained_on, dict) else None
    if reason := lm.unlike(recorded):
        raise UserError(
            f"{suite.path} was trained on a model with fingerprint {str(recorded)[:12]}, but "
            f"{lm.name} is now {lm.fingerprint[:12]}: {reason}; restore that model, or name the "
            "one to use with --model"
        )


def ready_for_results(suites: Sequence[Suite], folder: Path = Path(RESULTS)) -> None:
    """Before any work: refuse suites in whose `folder` nothing can be written, or a link leads
    outside, and sweep it.

    Raises:
        UserError: if there is one.
    """
    for suite in suites:
        target = own_folder(suite.path, folder)
        make_ready(target, "make it writable, or copy the suite to a folder that is")


def placed(
    config: Mapping[str, Any], model: ModelConfig | str | None, text: TextConfig | str | None
) -> Path:
    """Where in a suite a result with this config goes."""
    return Path(RESULTS) if config.get("own") else results_folder(model, text)


def results_folder(model: ModelConfig | str | None, text: TextConfig | str | None) -> Path:
    """Where in a suite `evaluate` puts its results: with another model or text, in a folder named
    after them."""
    if model is None and text is None:
        return Path(RESULTS)
    name = model.name if isinstance(model, ModelConfig) else model
    source = text.source if isinstance(text, TextConfig) else text
    names = [Path(name).name] if name is not None else []
    names += [Path(source).stem] if source is not None else []
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(names)).strip(".-")
    return Path(RESULTS) / (label or "other")
