"""`saeworks concepts`: do latents match concepts that are known to be there?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes

from saeworks.cli.arguments import Json, OtherModel, OtherText, Suites
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.errors import DONE
from saeworks.files.seals import RESULTS
from saeworks.measure.concepts.config import ConceptsConfig
from saeworks.results.names import CONCEPTS

if TYPE_CHECKING:
    from saeworks.results.result import Result


@dataclass(frozen=True)
class Concepts:
    """Compare latents with known concepts: the best latent of each, sparse probes, absorption.

    Beside them MLP neurons, PCA directions, random directions and a dense probe, on the same
    tokens. Latents are chosen on half of the documents and scored on the other. Leaves
    results/concepts.json in each suite.
    """

    suites: Suites
    model: OtherModel = None
    text: OtherText = None
    json: Json = False
    concepts: Annotated[ConceptsConfig, OmitArgPrefixes] = field(default_factory=ConceptsConfig)

    def __call__(self) -> int:
        """Run it."""
        from saeworks.measure.asked import placed
        from saeworks.measure.concepts.study import concepts
        from saeworks.suite import find_all_suites

        suites = find_all_suites(self.suites)
        results = concepts(
            suites, self.concepts, speaker(self.json), model=self.model, text=self.text
        )
        if self.json:
            print_json({str(path): values_of(result) for path, result in results.items()})
            return DONE
        print_concepts(results)
        folders = {placed(result.config, self.model, self.text) for result in results.values()}
        if folders <= {Path(RESULTS)}:
            say(f"Next: {command('report', *self.suites)}")
        else:
            say(f"Results: {', '.join(f'{folder}/' for folder in sorted(folders))} in each suite")
        return DONE


def values_of(result: "Result") -> dict[str, Any]:
    """Plain data: the metrics by site, each concept by site, the findings."""
    from saeworks.results.series import KNOWN_CONCEPTS

    return {
        "metrics": result.values(),
        CONCEPTS: {site: lists[KNOWN_CONCEPTS] for site, lists in result.series.items()},
        "left_out": result.config["left_out"],
        "findings": list(result.findings),
    }


def print_concepts(results: "Mapping[Path, Result]") -> None:
    """A table per suite, a row per site; what the numbers say."""
    from saeworks.cli.tables import print_table
    from saeworks.measure.concepts.study import Concepts as Study

    for path, result in results.items():
        columns = [key for key in Study.headline if key in result.metrics]
        say(
            f"{path}: concepts of {result.config['source']!r} on {result.tokens:,} tokens: value ± "
            "half of the 95% interval"
        )
        print_table(
            ["site", *(result.metrics[key].title for key in columns)],
            [[site, *(of.get(key) for key in columns)] for site, of in result.sites.items()],
        )
        for finding in result.findings:
            say(f"- {finding}")
        if left_out := result.config["left_out"]:
            more = f" and {len(left_out) - 8} more" if len(left_out) > 8 else ""
            say(f"Left out, with too few tokens: {', '.join(left_out[:8])}{more}")
