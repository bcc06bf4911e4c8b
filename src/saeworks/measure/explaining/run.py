"""`saeworks explain`: explanations of latents of any number of suites."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from saeworks.config import ModelConfig, TextConfig
from saeworks.errors import UserError
from saeworks.measure.asked import Work
from saeworks.measure.banks import Bank
from saeworks.measure.concepts.labels import AUTO, RULES, token_labels
from saeworks.measure.engine import Subject
from saeworks.measure.explaining.answers import Answers
from saeworks.measure.explaining.config import AskConfig, ExplainConfig
from saeworks.measure.explaining.endpoint import Endpoint
from saeworks.measure.explaining.metrics import EXPLAINED_LATENTS, MODEL_LATENTS
from saeworks.measure.explaining.study import Explain
from saeworks.measure.known import Truth
from saeworks.measure.progress import tracker
from saeworks.measure.suites import StudySet, loaded, measure_suites
from saeworks.results.result import Result


@dataclass(frozen=True)
class Outcome:
    """What was found, and why it ended early where it did.

    Attributes:
        ended: one line; empty where all was done.
    """

    results: dict[Path, Result]
    ended: str = ""


def explain(
    suite_paths: Sequence[Path],
    config: ExplainConfig,
    ask: AskConfig | None = None,
    say: Callable[[str], None] | None = None,
    *,
    model: ModelConfig | str | None = None,
    text: TextConfig | str | None = None,
) -> Outcome:
    """Explain latents of suites, and write `results/explanations.json` into each.

    Args:
        ask: a server that explains them, too.
        say: where lines about progress go; None for silence.
        model, text: others than the suites' own; see `saeworks.measure.run.evaluate`.

    Raises:
        UserError: as `measure_suites`, if a site or latent that was named is not there, or the
            server refuses what it is asked.
    """
    suites = loaded(suite_paths)
    endpoint = _endpoint(ask, say)

    def studies(subject: Subject, work: Work) -> list[Explain]:
        subject = replace(subject, banks=_named(subject, config.site))
        truth = _truth(subject, work, config) if config.concepts else None
        return [Explain(subject, config, truth, tracker(say), endpoint, say)]

    asked = StudySet(config.tokens, studies, errors=True)
    try:
        (found,) = measure_suites(suites, [asked], config.device, say, model=model, text=text)
    except KeyboardInterrupt:
        if endpoint is not None and say is not None:
            say(f"Every answer is kept in {endpoint.answers.path}; the same command goes on")
        raise
    finally:
        if endpoint is not None:
            endpoint.close()
    results = {
        path: result
        for path, of_suite in found.items()
        for result in of_suite
        if isinstance(result, Result)
    }
    return Outcome(results, "" if endpoint is None else _ended(endpoint, results))


def _endpoint(ask: AskConfig | None, say: Callable[[str], None] | None) -> Endpoint | None:
    """The server, if one is named, once it has shown that it is there."""
    if ask is None or ask.endpoint is None:
        return None
    endpoint = Endpoint(ask, Answers(ask.answers), say)
    if not ask.estimate:
        try:
            endpoint.check()
        except UserError:
            endpoint.close()
            raise
    return endpoint


def _ended(endpoint: Endpoint, results: Mapping[Path, Result]) -> str:
    """Why there is less than was asked for."""
    if not endpoint.out_of_budget:
        return ""
    values = [v for result in results.values() for v in result.sites.values()]
    done, all_ = (
        sum(int(v[key].value or 0) for v in values if key in v)
        for key in (MODEL_LATENTS, EXPLAINED_LATENTS)
    )
    return (
        f"the budget is reached: the language model has explained {done:,} of {all_:,} latents, at "
        f"the cost of {endpoint.bill.spent.words(endpoint.config)}; the same command goes on from "
        "there, and pays for no answer twice"
    )


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


def _truth(subject: Subject, work: Work, config: ExplainConfig) -> Truth:
    """The concepts of the kept tokens: the grammar's of the embedded text, else rules."""
    held_out = subject.held_out(config.tokens)
    try:
        return token_labels(AUTO, work.text, work.seed, subject.lm, held_out)
    except UserError:  # the model's tokens are not the grammar's
        return token_labels(RULES, work.text, work.seed, subject.lm, held_out)
