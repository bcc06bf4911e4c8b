"""Suites: loaded, put together by model and text, measured in shared sweeps, results written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saeworks.config import ModelConfig, TextConfig
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.measure import banks as limits
from saeworks.measure.asked import (
    Work,
    measured_on,
    placed,
    ready_for_results,
    results_folder,
    works,
)
from saeworks.measure.engine import Measured, Study, Subject, measure
from saeworks.measure.held_out import HeldOut
from saeworks.measure.known import with_label
from saeworks.measure.progress import tracker
from saeworks.measure.studies.outliers import without
from saeworks.measure.sums import KEY, write_sums
from saeworks.results import regime
from saeworks.results.audit import AuditResult
from saeworks.results.metric import Metric, Value
from saeworks.results.result import Result
from saeworks.suite import Suite, load_suite


@dataclass(frozen=True)
class StudySet:
    """Studies that are asked for together.

    Attributes:
        tokens: held-out tokens that they want at most.
        studies: what is measured of banks; called before anything long is done.
        errors: whether suites on the error of others are measured, too: of studies that read codes
            alone.
    """

    tokens: int
    studies: Callable[[Subject, Work], Sequence[Study]]
    errors: bool = False


Results = dict[Path, list[Result | AuditResult]]
"""Suite → what was measured of it."""


def measure_suites(
    suites: Sequence[Suite],
    sets: Sequence[StudySet],
    device: str,
    say: Callable[[str], None] | None = None,
    *,
    model: ModelConfig | str | None = None,
    text: TextConfig | str | None = None,
) -> list[Results]:
    """Run sets of studies on suites, and write the results into each; those of each set are
    returned.

    Suites of the same model and text are measured together, in the same sweeps of the language
    model over the same tokens.

    Args:
        say: where lines about progress go; None for silence.
        model, text: others than the suite's own; see `saeworks.measure.run.evaluate`.

    Raises:
        UserError: if a suite's language model is not the one it was trained on, an SAE does not
            fit its site, there is no held-out text, an activation is NaN or infinite, a study
            refuses, or nothing can be written in a suite (found before any work).
    """
    ready_for_results(suites, results_folder(model, text))
    by_set: list[dict[Path, list[Measured]]] = [{} for _ in sets]
    for work in works(suites, model, text):
        for of_all, of_work in zip(by_set, _measured(work, sets, device, say, model), strict=True):
            of_all |= of_work
    return [
        {
            suite.path: [
                written(outcome, suite.path / placed(outcome.result.config, model, text))
                for outcome in of_set[suite.path]
            ]
            for suite in suites
        }
        for of_set in by_set
    ]


def written(measured: Measured, folder: Path) -> Result | AuditResult:
    """Write a result, after the sums it was computed from, which it names by their SHA-256."""
    result = measured.result
    if measured.sums:
        digest = write_sums(folder, result.evaluation, measured.sums)
        result = replace(result, config=result.config | {KEY: digest})
    result.write(folder / f"{result.evaluation}.json")
    return result


def _measured(
    work: Work,
    sets: Sequence[StudySet],
    device: str,
    say: Callable[[str], None] | None,
    model: ModelConfig | str | None,
) -> list[dict[Path, list[Measured]]]:
    lm = work.language_model(choose_device(device), own=model is None)
    errors = all(of_set.errors for of_set in sets)
    banks = work.banks(lm, fingerprinted=model is None, errors=errors)
    corpus = _corpus(lm, with_label(work.text), work.seed)
    asked = max(of_set.tokens for of_set in sets)
    all_tokens = _held_out(corpus, asked)
    kept = without(lm, all_tokens, work.limits)
    subject = Subject(banks, lm, all_tokens, kept, corpus)
    if say is not None:
        say(_announcement(work, lm, kept, asked))
    studies = [list(of_set.studies(subject, work)) for of_set in sets]
    results = iter(measure(lm, [study for of_set in studies for study in of_set], tracker(say)))
    by_set = [[next(results) for _ in of_set] for of_set in studies]
    return [
        {
            suite.path: [
                replace(outcome, result=described(outcome.result, about, suite))
                for outcome in (by_suite.get(str(suite.path)) for by_suite in of_set)
                if outcome is not None
            ]
            for suite in work.suites
            for about in [measured_on(suite, lm, work.model, work.text)]
        }
        for of_set in by_set
    ]


def described(
    result: Result | AuditResult, about: dict[str, Any], suite: Suite
) -> Result | AuditResult:
    """A result that also names its model and text, and, if it is the reconstruction, the tokens per
    latent that each SAE was trained on."""
    result = replace(result, config=result.config | about)
    if isinstance(result, AuditResult) or result.evaluation != "reconstruction":
        return result
    known = {site: suite.tokens_per_latent(site) for site in result.sites}
    if None in known.values():
        return result
    metric = Metric("Tokens per latent", regime.WHAT)
    sites = {
        site: {**values, regime.KEY: Value(known[site])} for site, values in result.sites.items()
    }
    return replace(result, metrics={**result.metrics, regime.KEY: metric}, sites=sites)


def loaded(paths: Sequence[Path]) -> list[Suite]:
    """The suites, each once.

    Raises:
        UserError: if one is missing or corrupt.
    """
    return [load_suite(path) for path in dict.fromkeys(paths)]


def held_out_tokens(
    lm: LanguageModel,
    text: TextConfig,
    seed: int,
    tokens: int,
    limits: Mapping[str, float] | None = None,
) -> HeldOut:
    """The first held-out tokens of a text, in the order that every study takes them in.

    Args:
        limits: of the suite (`Suite.norm_limits`): tokens beyond them are left out.

    Raises:
        UserError: if the text cannot be read or has none.
    """
    return without(lm, _held_out(_corpus(lm, text, seed), tokens), limits or {})


def _corpus(lm: LanguageModel, text: TextConfig, seed: int) -> Corpus:
    return Corpus(text, lm.tokenizer, bos_id=lm.bos_id, max_context=lm.max_context, seed=seed)


def _held_out(corpus: Corpus, tokens: int) -> HeldOut:
    sequences = max(1, limits.LM_TOKENS // corpus.config.context)
    return HeldOut.take(corpus.stream("held_out", sequences, epochs=1), tokens)


def _announcement(work: Work, lm: LanguageModel, held_out: HeldOut, asked: int) -> str:
    short = f" (of {asked:,} asked for: the text has no more)" if held_out.kept < asked else ""
    short = ", without outliers as in training," if work.limits else short
    held = "held-out " if work.text.held_out < 1 else ""
    return (
        f"{len(work.suites)} suite(s) of {lm.name} on {held_out.kept:,} {held}tokens{short} "
        f"of {held_out.documents:,} documents of {work.text.source}"
    )
