"""`saeworks eval`: every evaluation of any number of suites, each language model loaded once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from saeworks.config import EvalConfig, ModelConfig, TextConfig
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.measure.asked import (
    Work,
    measured_on,
    placed,
    ready_for_results,
    results_folder,
    works,
)
from saeworks.measure.banks import LM_TOKENS, Bank, sites_of
from saeworks.measure.held_out import HeldOut
from saeworks.measure.known import (
    Labels,
    Truth,
    labels_of,
    truth_of,
    with_label,
)
from saeworks.measure.progress import Tracker, tracker
from saeworks.measure.studies import reconstruction, splice
from saeworks.measure.studies.consistency import consistency
from saeworks.measure.studies.dedup import dedup
from saeworks.measure.studies.experts import experts
from saeworks.measure.studies.geometry import geometry
from saeworks.measure.studies.latents import latents
from saeworks.measure.studies.outliers import means_and_usual, without
from saeworks.measure.sums import KEY, PerDocument, write_sums
from saeworks.results import regime
from saeworks.results.metric import Metric, Value
from saeworks.results.result import Result
from saeworks.suite import Suite, load_suite


@dataclass(frozen=True)
class Measured:
    """A result and the sums by document behind it; none where it has no metric."""

    result: Result
    sums: PerDocument = field(default_factory=dict)


@dataclass(frozen=True)
class _Known:
    """What is known of the held-out text beforehand; None where nothing is, or nobody asks."""

    labels: Labels | None
    truth: Truth | None

    @classmethod
    def of(
        cls,
        work: Work,
        lm: LanguageModel,
        corpus: Corpus,
        held_out: HeldOut,
        config: EvalConfig,
    ) -> "_Known":
        """Find it out.

        Raises:
            UserError: if consistency is asked for, and the concepts of the text are not known; or
                dedup, and the tokens cannot be halved.
        """
        if config.dedup is not None:
            held_out.halves()
        return cls(
            labels_of(corpus, held_out) if config.experts else None,
            truth_of(work.text, work.seed, lm, held_out) if config.consistency else None,
        )


def evaluate(
    suite_paths: Sequence[Path],
    config: EvalConfig,
    say: Callable[[str], None] | None = None,
    *,
    model: ModelConfig | str | None = None,
    text: TextConfig | str | None = None,
) -> dict[Path, list[Result]]:
    """Evaluate suites and write `results/<evaluation>.json` into each.

    Suites of the same model and text are evaluated together, in the same passes of the language
    model and on the same tokens.

    Args:
        say: where lines about progress go; None for silence.
        model: another language model than the suite's own, such as the same one moved to another
            folder, or a fine-tuned one; a name alone keeps the suite's precision.
        text: another text than the suite's own; a source alone keeps the suite's way of packing,
            and is measured on whole.
            With another model or text the results go to `results/<their names>/`
            (`results_folder`), and the suite's own results stay; where they turn out to be the
            suite's own in another place, by the model's fingerprint and the file's content, the
            results are the suite's own, too.

    Raises:
        UserError: if a suite is missing or corrupt, its language model is not the one it was
            trained on, an SAE does not fit its site, there is no held-out text, an activation is
            NaN or infinite, or nothing can be written in a suite (found before any work).
    """
    suites = [load_suite(path) for path in dict.fromkeys(suite_paths)]
    ready_for_results(suites, results_folder(model, text))
    found: dict[Path, list[Measured]] = {}
    for work in works(suites, model, text):
        found |= _evaluate(work, config, say, fingerprinted=model is None)
    return {
        suite.path: [
            written(one, suite.path / placed(one.result.config, model, text))
            for one in found[suite.path]
        ]
        for suite in suites
    }


def written(measured: "Measured", folder: Path) -> Result:
    """Write a result, after the sums it was computed from, which it names by their SHA-256."""
    result = measured.result
    if measured.sums:
        digest = write_sums(folder, result.evaluation, measured.sums)
        result = replace(result, config=result.config | {KEY: digest})
    result.write(folder / f"{result.evaluation}.json")
    return result


def _evaluate(
    work: Work, config: EvalConfig, say: Callable[[str], None] | None, fingerprinted: bool
) -> dict[Path, list[Measured]]:
    lm = work.language_model(choose_device(config.device), own=fingerprinted)
    banks = work.banks(lm, fingerprinted)
    corpus = _corpus(lm, with_label(work.text), work.seed)
    every = _held_out(corpus, config.tokens)
    held_out = without(lm, every, work.limits)
    if say is not None:
        say(_announcement(work, lm, held_out, config))
    known = _Known.of(work, lm, corpus, held_out, config)
    results = _measure(banks, lm, held_out, every, config, tracker(say), known)
    return {
        suite.path: [
            replace(one, result=with_regime(one.result, about, suite))
            for one in results[str(suite.path)]
        ]
        for suite in work.suites
        for about in [measured_on(suite, lm, work.model, work.text)]
    }


def with_regime(result: Result, about: dict[str, Any], suite: Suite) -> Result:
    """A result that also names its model and text, and, if it is the reconstruction, the tokens per
    latent that each SAE was trained on."""
    result = replace(result, config=result.config | about)
    known = {site: suite.tokens_per_latent(site) for site in result.sites}
    if result.evaluation != "reconstruction" or None in known.values():
        return result
    metric = Metric("Tokens per latent", regime.WHAT)
    sites = {
        site: {**values, "tokens_per_latent": Value(known[site])}
        for site, values in result.sites.items()
    }
    return replace(result, metrics={**result.metrics, "tokens_per_latent": metric}, sites=sites)


def _measure(
    banks: dict[str, Bank],
    lm: LanguageModel,
    held_out: HeldOut,
    every: HeldOut,
    config: EvalConfig,
    progress: Tracker,
    known: _Known,
) -> dict[str, list[Measured]]:
    """Every evaluation asked for, sharing the sites' means and the latents' counts.

    Args:
        every: the tokens that are left out among them.
    """
    sites = sites_of(banks, lm)
    with torch.no_grad(), progress("reconstruction", 2 * held_out.tokens_NT.numel()) as tick:
        means, usual = means_and_usual(lm, sites, held_out, tick)
        tallies = reconstruction.tally(banks, lm, held_out, means, tick, usual)
    results = reconstruction.summarise(tallies, banks, held_out, config)
    if every.kept > held_out.kept:
        with progress("excluded tokens", 2 * every.tokens_NT.numel()) as tick:
            results = reconstruction.with_excluded(results, banks, lm, every, config, tick)
    found = {
        name: [Measured(results[name], reconstruction.per_document(sites))]
        for name, sites in tallies.items()
    }
    if config.splice:
        part = held_out.first(config.splice_tokens)
        for name, sums in splice.tally(banks, lm, part, progress, means).items():
            found[name].append(Measured(splice.summarise(sums, part, config), sums))
    for one in _dictionaries(banks, lm, held_out, config, progress, known, tallies):
        for name, result in one.items():
            found[name].append(Measured(result))
    return found


def _dictionaries(
    banks: dict[str, Bank],
    lm: LanguageModel,
    held_out: HeldOut,
    config: EvalConfig,
    progress: Tracker,
    known: _Known,
    tallies: reconstruction.Tallies,
) -> Iterator[dict[str, Result]]:
    """The evaluations asked for that look at latents and experts."""
    if config.latents > 0:
        yield latents(banks, lm, held_out, config, progress, tallies)
    if config.geometry:
        yield geometry(banks, tallies, held_out, config)
    if config.experts:
        yield experts(banks, lm, held_out, config, tallies, known.labels, progress)
    if known.truth is not None:
        yield consistency(banks, lm, held_out, config, known.truth, progress)
    if config.dedup is not None:
        yield dedup(banks, lm, held_out, config, config.dedup, progress)


def held_out_tokens(
    lm: LanguageModel,
    text: TextConfig,
    seed: int,
    tokens: int,
    limits: Mapping[str, float] | None = None,
) -> HeldOut:
    """The first held-out tokens of a text, in the order that every evaluation takes them in.

    Args:
        limits: of the suite (`Suite.norm_limits`): tokens beyond them are left out.

    Raises:
        UserError: if the text cannot be read or has none.
    """
    return without(lm, _held_out(_corpus(lm, text, seed), tokens), limits or {})


def _corpus(lm: LanguageModel, text: TextConfig, seed: int) -> Corpus:
    return Corpus(text, lm.tokenizer, bos_id=lm.bos_id, max_context=lm.max_context, seed=seed)


def _held_out(corpus: Corpus, tokens: int) -> HeldOut:
    sequences = max(1, LM_TOKENS // corpus.config.context)
    return HeldOut.take(corpus.stream("held_out", sequences, epochs=1), tokens)


def _announcement(work: Work, lm: LanguageModel, held_out: HeldOut, config: EvalConfig) -> str:
    asked = config.tokens
    short = f" (of {asked:,} asked for: the text has no more)" if held_out.kept < asked else ""
    short = ", without outliers as in training," if work.limits else short
    held = "held-out " if work.text.held_out < 1 else ""
    return (
        f"{len(work.suites)} suite(s) of {lm.name} on {held_out.kept:,} {held}tokens{short} "
        f"of {held_out.documents:,} documents of {work.text.source}"
    )
