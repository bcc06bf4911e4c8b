"""`saeworks explain`: explanations of latents of any number of suites."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from saeworks.config import ModelConfig, TextConfig
from saeworks.errors import UserError
from saeworks.measure.asked import Work
from saeworks.measure.banks import Bank
from saeworks.measure.engine import Subject
from saeworks.measure.explaining.config import ExplainConfig
from saeworks.measure.explaining.study import Explain
from saeworks.measure.known import Truth, truth_of
from saeworks.measure.progress import tracker
from saeworks.measure.suites import StudySet, loaded, measure_suites
from saeworks.results.result import Result


def explain(
    suite_paths: Sequence[Path],
    config: ExplainConfig,
    say: Callable[[str], None] | None = None,
    *,
    model: ModelConfig | str | None = None,
    text: TextConfig | str | None = None,
) -> dict[Path, Result]:
    """Explain latents of suites, and write `results/explanations.json` into each.

    Args:
        say: where lines about progress go; None for silence.
        model, text: others than the suites' own; see `saeworks.measure.run.evaluate`.

    Raises:
        UserError: as `measure_suites`, or if a site or latent that was named is not there.
    """
    suites = loaded(suite_paths)

    def studies(subject: Subject, work: Work) -> list[Explain]:
        subject = replace(subject, banks=_named(subject, config.site))
        truth = _truth(subject, work, config) if config.concepts else None
        return [Explain(subject, config, truth, tracker(say))]

    asked = StudySet(config.tokens, studies, errors=True)
    (results,) = measure_suites(suites, [asked], config.device, say, model=model, text=text)
    return {
        path: result
        for path, of_suite in results.items()
        for result in of_suite
        if isinstance(result, Result)
    }


def _named(subject: Subject, sites: Sequence[str]) -> dict[str, Bank]:
    """The banks at the named sites alone; all where none is named."""
    banks: dict[str, Bank] = {
        name: {site: sae for site, sae in bank.items() if not sites or site in sites}
        for name, bank in subject.banks.items()
    }
    known = {site for bank in subject.banks.values() for site in bank}
    if lacking := [site for site in sites if site not in known]:
        raise UserError(
            f"--site {lacking[0]!r}: no suite has an SAE there, but at {', '.join(sorted(known))}"
        )
    return {name: bank for name, bank in banks.items() if bank}


def _truth(subject: Subject, work: Work, config: ExplainConfig) -> Truth | None:
    """The concepts of the kept tokens, where they are known."""
    if work.text.source != "embedded":
        return None
    return truth_of(work.text, work.seed, subject.lm, subject.held_out(config.tokens))
