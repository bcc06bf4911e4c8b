"""`saeworks eval`: suites on held-out documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes

from saeworks.cli.arguments import Json, OtherModel, OtherText, Suites
from saeworks.cli.audit import print_audits
from saeworks.cli.audit import values_of as audit_values
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.config import AuditConfig, EvalConfig
from saeworks.errors import DONE
from saeworks.files.seals import RESULTS
from saeworks.results import regime

if TYPE_CHECKING:
    from saeworks.results.audit import AuditResult
    from saeworks.results.result import Result


@dataclass(frozen=True)
class Eval:
    """Evaluate suites on held-out documents: reconstruction, splice, latents, experts."""

    suites: Suites
    model: OtherModel = None
    text: OtherText = None
    audit: bool = False
    """Audit them, too, as `saeworks audit` does without options, on as many tokens: in the same
    passes of the language model, which takes less time than the two commands."""
    json: Json = False
    evaluation: Annotated[EvalConfig, OmitArgPrefixes] = field(default_factory=EvalConfig)

    def __call__(self) -> int:
        """Run it."""
        from saeworks.measure.asked import placed
        from saeworks.measure.run import evaluate, evaluate_and_audit
        from saeworks.suite import find_all_suites

        suites, config, tell = find_all_suites(self.suites), self.evaluation, speaker(self.json)
        other: dict[str, Any] = {"model": self.model, "text": self.text}
        audits: dict[Path, AuditResult] = {}
        if self.audit:
            audit = AuditConfig(config.tokens, config.bootstrap, device=config.device)
            results, audits = evaluate_and_audit(suites, config, audit, tell, **other)
        else:
            results = evaluate(suites, config, tell, **other)
        if self.json:
            values = values_of(results)
            for path, result in audits.items():
                values[str(path)][result.evaluation] = audit_values(result)
            print_json(values)
            return DONE
        print_results(results)
        if audits:
            print_audits(audits)
        folders = {
            placed(result.config, self.model, self.text)
            for of_suite in results.values()
            for result in of_suite
        }
        if folders <= {Path(RESULTS)}:
            say(f"Next: {command('report', *self.suites)}")
        else:
            say(f"Results: {', '.join(f'{folder}/' for folder in sorted(folders))} in each suite")
        return DONE


def values_of(results: "Mapping[Path, Sequence[Result]]") -> dict[str, Any]:
    """Plain data of the suites' results, by evaluation."""
    return {
        str(path): {result.evaluation: result.values() for result in of_suite if result.sites}
        for path, of_suite in results.items()
    }


def print_results(results: "Mapping[Path, Sequence[Result]]") -> None:
    """A table per suite, and what to keep in mind when reading it."""
    from saeworks.measure.studies import outliers

    for path, of_suite in results.items():
        print_suite(path, of_suite)
        seen = [v.get(regime.KEY) for r in of_suite for v in r.sites.values()]
        if few := regime.caution(value.value for value in seen if value is not None):
            say(f"Note: {few}.")
        for note in outliers.notes(of_suite):
            say(f"Note: {note}.")


def print_suite(path: Path, results: "Sequence[Result]") -> None:
    """A row per site: the headline metrics of every study."""
    from saeworks.cli.tables import print_values
    from saeworks.measure.run import STUDIES

    headlines = {study.name: study.headline for study in STUDIES}
    print_values(f"{path} on held-out documents", results, headlines)
