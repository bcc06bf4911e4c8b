"""`saeworks steer`: latents pushed up and down."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes

from saeworks.cli.arguments import Json, OtherModel, OtherText, Suites
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.errors import DONE
from saeworks.files.seals import RESULTS
from saeworks.measure.steering.config import SteeringConfig


@dataclass(frozen=True)
class Steer:
    """Push concepts up and down by their latents: what is written then, and what it costs.

    Beside a difference of means, random latents and random directions, at the same cost in the loss
    of held-out text. Leaves results/steer.json in each suite.
    """

    suites: Suites
    model: OtherModel = None
    text: OtherText = None
    json: Json = False
    steering: Annotated[SteeringConfig, OmitArgPrefixes] = field(default_factory=SteeringConfig)

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cli.tables import print_values
        from saeworks.measure.asked import placed
        from saeworks.measure.steering.run import steer
        from saeworks.measure.steering.study import SteeringStudy
        from saeworks.suite import find_all_suites

        suites = find_all_suites(self.suites)
        results = steer(suites, self.steering, speaker(self.json), model=self.model, text=self.text)
        if self.json:
            print_json(
                {
                    str(path): {"steer": result.values(), "findings": list(result.findings)}
                    for path, result in results.items()
                }
            )
            return DONE
        for path, result in results.items():
            print_values(f"{path}, steered", [result], {SteeringStudy.name: SteeringStudy.headline})
        folders = {p: placed(r.config, self.model, self.text) for p, r in results.items()}
        for path, folder in folders.items():
            say(f"Curves and texts: {path / folder / SteeringStudy.name}.json")
        if set(folders.values()) == {Path(RESULTS)}:  # what a report shows
            say(f"Next: {command('report', *self.suites)}")
        return DONE
