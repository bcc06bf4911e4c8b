"""`saeworks train`: every variant on every site, in one pass of the language model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from saeworks.cli.arguments import Json, RunOptions, SameAs
from saeworks.cli.keys import print_keys
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.config import RunConfig
from saeworks.errors import DONE, INTERRUPTED


@dataclass(frozen=True)
class Train(RunOptions):
    """Train SAEs on every chosen site of a language model, in one pass of it.

    Options are read in this order, later ones winning: defaults, --preset, RUN.yaml, the options
    below, --set. Run the same command again to resume an interrupted run.
    """

    keys: bool = False
    """List every key of RUN.yaml and --set, and every architecture's options, and stop."""
    plan: Path | None = None
    """A plan.json of `saeworks plan`: train on its sites, with its groups."""
    out: Path | None = None
    """Folder of the run: runs/<name of the YAML file, or of preset and model> by default."""
    seed: Annotated[int | None, SameAs(RunConfig, "seed")] = None
    cost: bool = False
    """First measure how fast this machine is, and say how long the run will take; at its end, how
    long it took (`cost.json` in the run's folder)."""
    json: Json = False

    def __call__(self) -> int:
        """Run it."""
        if self.keys:
            print_keys()
            return DONE
        from saeworks.results.plan import Plan
        from saeworks.suite import find_suites
        from saeworks.train.job import train_run

        plan = {}
        if self.plan is not None:
            sites = list(Plan.read(self.plan).sites)
            plan = {"sites": sites, "groups": [{"plan": str(self.plan)}]}
        config = self.config(seed=self.seed, **plan)
        out = self.out or Path("runs") / self.name(config)
        finished = train_run(config, out, speaker(self.json), predict=self.cost)
        suites = [str(path) for path in find_suites(out)] if finished else []
        if self.json:
            print_json({"out": str(out), "finished": finished, "suites": suites})
        elif finished and config.error is not None:  # stands for no site: nothing to evaluate
            say(f"Next: {command('audit', config.error.suite, '--error-saes', out)}")
        elif finished:
            say(f"Next: {command('eval', out)} && {command('report', out)}")
        return DONE if finished else INTERRUPTED
