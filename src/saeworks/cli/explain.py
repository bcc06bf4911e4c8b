"""`saeworks explain`: what tells when single latents fire."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes

from saeworks.cli.arguments import Json, OtherModel, OtherText, Suites
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.errors import DONE, UserError
from saeworks.measure.explaining.config import AskConfig, ExplainConfig
from saeworks.results.series import EXPLAINED

if TYPE_CHECKING:
    from saeworks.results.result import Result

SHOWN = 3
"""Latents of each site that are printed; all are in the file and in the report."""


@dataclass(frozen=True)
class ExplainLatents:
    """Explain single latents: by small programs, and, with --endpoint, by a language model.

    Explanations are made on some held-out documents and scored on others. Leaves
    results/explanations.json in each suite.
    """

    suites: Suites
    model: OtherModel = None
    text: OtherText = None
    json: Json = False
    explaining: Annotated[ExplainConfig, OmitArgPrefixes] = field(default_factory=ExplainConfig)
    asking: Annotated[AskConfig, OmitArgPrefixes] = field(default_factory=AskConfig)

    def __call__(self) -> int:
        """Run it."""
        from saeworks.measure.explaining.run import explain
        from saeworks.suite import find_all_suites

        suites, tell = find_all_suites(self.suites), speaker(self.json)
        outcome = explain(
            suites, self.explaining, self.asking, tell, model=self.model, text=self.text
        )
        if self.json:
            print_json({str(path): values_of(result) for path, result in outcome.results.items()})
        else:
            print_explained(outcome.results)
        if outcome.ended:
            raise UserError(outcome.ended)
        if not self.json:
            say(f"Next: {command('report', *self.suites)}")
        return DONE


def values_of(result: "Result") -> dict[str, object]:
    """Plain data: the values of the sites, the latents, and what the numbers say."""
    return {"sites": result.values(), "latents": result.series, "findings": list(result.findings)}


def print_explained(results: "Mapping[Path, Result]") -> None:
    """A table for each suite, what the numbers say, and some of the explanations."""
    from saeworks.cli.tables import print_values
    from saeworks.measure.explaining.study import Explain

    for path, result in results.items():
        title = f"{path} on held-out documents, mean over latents"
        print_values(title, [result], {Explain.name: Explain.headline})
        for site, series in result.series.items():
            for latent in series[EXPLAINED][:SHOWN]:
                for explanation in latent["explanations"]:
                    say(f"  {site}, latent {latent['latent']}: {_scored(explanation)}")


def _scored(explanation: "Mapping[str, Any]") -> str:
    """The text, and the first of its scores."""
    first = explanation["scores"][0]
    value = "–" if first["value"] is None else f"{first['value']:.2f}"
    return f"{explanation['text']} ({first['metric']} {value})"
