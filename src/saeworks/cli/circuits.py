"""`saeworks circuits`: how much of a task runs through how few latents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes

from saeworks.cli.arguments import Json, OtherModel, Suites
from saeworks.cli.eval import values_of
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.errors import DONE
from saeworks.files.seals import RESULTS
from saeworks.measure.circuits.config import CircuitsConfig

if TYPE_CHECKING:
    from saeworks.results.result import Result


@dataclass(frozen=True)
class CircuitsCommand:
    """Find the latents that a task runs through, and measure how much of it they keep.

    Beside each suite stand random latents, an SAE with random directions and one without latents;
    suites of one model are measured together on the same prompts. Leaves
    results/circuits_TASK.json in each suite.
    """

    suites: Suites
    model: OtherModel = None
    baseline: Path | None = None
    """A suite beside which the others stand, such as that with an SAE per layer beside one with
    groups: it is measured, too, and the differences are told with intervals of their own."""
    json: Json = False
    circuits: Annotated[CircuitsConfig, OmitArgPrefixes] = field(default_factory=CircuitsConfig)

    def __call__(self) -> int:
        """Run it."""
        from saeworks.measure.asked import placed
        from saeworks.measure.circuits.run import circuits
        from saeworks.suite import find_all_suites

        suites = find_all_suites(self.suites)
        results = circuits(
            suites,
            self.circuits,
            speaker(self.json),
            model=self.model,
            baseline=self.baseline,
        )
        if self.json:
            print_json(values_of(results))
            return DONE
        print_circuits(results)
        folders = {
            placed(result.config, self.model, None)
            for of_suite in results.values()
            for result in of_suite
        }
        if folders <= {Path(RESULTS)}:
            say(f"Next: {command('report', *self.suites)}")
        else:
            say(f"Results: {', '.join(f'{folder}/' for folder in sorted(folders))} in each suite")
        return DONE


def print_circuits(results: "Mapping[Path, Sequence[Result]]") -> None:
    """A table per suite and task, with what it finds."""
    from saeworks.cli.tables import print_values
    from saeworks.measure.circuits.study import Circuits

    for path, of_suite in results.items():
        for result in of_suite:
            title = f"{path}, {result.title}, {result.documents} pairs of prompts"
            print_values(title, [result], {result.evaluation: Circuits.headline})
