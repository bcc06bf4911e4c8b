"""`saeworks eval`: what is measured of any number of suites, alone or together with an audit."""

from collections.abc import Callable, Sequence
from pathlib import Path

from saeworks.config import AuditConfig, EvalConfig, ModelConfig, TextConfig
from saeworks.measure.asked import Work
from saeworks.measure.audit.error_saes import match
from saeworks.measure.audit.run import audit_results, audits
from saeworks.measure.engine import Study, Subject
from saeworks.measure.known import labels_of, truth_of
from saeworks.measure.studies.consistency import Consistency
from saeworks.measure.studies.dedup import Dedup
from saeworks.measure.studies.experts import Experts
from saeworks.measure.studies.geometry import Geometry
from saeworks.measure.studies.latents import Latents
from saeworks.measure.studies.reconstruction import Reconstruction
from saeworks.measure.studies.splice import Splice
from saeworks.measure.suites import Results, StudySet, loaded, measure_suites
from saeworks.results.audit import AuditResult
from saeworks.results.result import Result

STUDIES: tuple[type[Study], ...] = (
    Reconstruction,
    Splice,
    Latents,
    Geometry,
    Experts,
    Consistency,
    Dedup,
)
"""Of `saeworks eval`, in the order in which they are shown."""


def evaluate(
    suite_paths: Sequence[Path],
    config: EvalConfig,
    say: Callable[[str], None] | None = None,
    *,
    model: ModelConfig | str | None = None,
    text: TextConfig | str | None = None,
) -> dict[Path, list[Result]]:
    """Evaluate suites and write `results/<study>.json` into each.

    Suites of the same model and text are evaluated together, in the same sweeps of the language
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
        UserError: as `measure_suites`, or if a suite is missing or corrupt.
    """
    suites = loaded(suite_paths)
    asked = evaluations(config)
    (results,) = measure_suites(suites, [asked], config.device, say, model=model, text=text)
    return _results(results)


def evaluate_and_audit(
    suite_paths: Sequence[Path],
    config: EvalConfig,
    audit: AuditConfig,
    say: Callable[[str], None] | None = None,
    error_saes: Sequence[Path] = (),
    *,
    model: ModelConfig | str | None = None,
    text: TextConfig | str | None = None,
) -> tuple[dict[Path, list[Result]], dict[Path, AuditResult]]:
    """What `evaluate` and `audit_suites` write, measured in the same sweeps on the same tokens, on
    the device of `config`."""
    suites = loaded(suite_paths)
    asked = [evaluations(config), audits(audit, match(error_saes, suites))]
    results = measure_suites(suites, asked, config.device, say, model=model, text=text)
    return _results(results[0]), audit_results(results[1])


def evaluations(config: EvalConfig) -> StudySet:
    """The studies of `saeworks eval`."""
    return StudySet(config.tokens, lambda subject, work: evaluation(subject, work, config))


def _results(results: Results) -> dict[Path, list[Result]]:
    return {
        path: [result for result in of_suite if isinstance(result, Result)]
        for path, of_suite in results.items()
    }


def evaluation(subject: Subject, work: Work, config: EvalConfig) -> list[Study]:
    """The studies of `saeworks eval`, sharing the sites' means and the latents' counts.

    Raises:
        UserError: if consistency is asked for, and the concepts of the text are not known; or
            dedup, and the tokens cannot be halved.
    """
    reconstruction = Reconstruction(subject, config)
    means, tally, held_out = reconstruction.means, reconstruction.tally, reconstruction.held_out
    studies: list[Study] = [reconstruction]
    if config.splice:
        studies.append(Splice(subject, config, means))
    if config.latents != 0:
        studies.append(Latents(subject, config, tally))
    if config.geometry:
        studies.append(Geometry(config, tally))
    if config.experts:
        assert subject.corpus is not None
        studies.append(Experts(config, tally, labels_of(subject.corpus, held_out)))
    if config.consistency:
        truth = truth_of(work.text, work.seed, subject.lm, held_out)
        studies.append(Consistency(config, tally, truth))
    if config.dedup is not None:
        studies.append(Dedup(subject, config, config.dedup, tally))
    return studies
