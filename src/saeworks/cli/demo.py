"""`saeworks demo`: the main job on the embedded model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from saeworks.cli.arguments import Json, SameAs
from saeworks.cli.printing import print_json, say, speaker
from saeworks.config import PRESETS, Device, EvalConfig, RunConfig, TrainConfig, from_mapping, merge
from saeworks.errors import DONE, INTERRUPTED
from saeworks.files.access import own_folder

EVALUATION: dict[str, Any] = {"tokens": 100_000, "splice_tokens": 30_000}


@dataclass(frozen=True)
class Demo:
    """Train, evaluate and report TopK SAEs on every layer of the embedded model: offline, minutes.

    Ends with a table per layer and the path of the report.
    """

    out: Path = Path("runs/demo")
    """Folder for the suite and its report; running again resumes or just shows it."""
    tokens: Annotated[int, SameAs(TrainConfig, "tokens")] = 500_000
    device: Device = "auto"
    json: Json = False

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cli.eval import print_results, values_of
        from saeworks.measure.run import evaluate
        from saeworks.report.build import write_report
        from saeworks.suite import find_suites
        from saeworks.train.job import train_run

        tell = speaker(self.json)
        data = merge(PRESETS["quick"], {"train": {"tokens": self.tokens}, "device": self.device})
        config = from_mapping(RunConfig, data, "demo")
        if not train_run(config, self.out, tell):
            return INTERRUPTED
        suites = find_suites(self.out)
        results = evaluate(suites, EvalConfig(device=self.device, **EVALUATION), say=tell)
        page = write_report(suites, own_folder(self.out, "report"))
        if self.json:
            values = values_of(results)
            shown = {"out": str(self.out), "report": str(page), "results": values}
            print_json(shown)
            return DONE
        print_results(results)
        say(f"Report: {page}")
        return DONE
