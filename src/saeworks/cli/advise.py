"""`saeworks advise`: what to train for a budget."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from saeworks.cli.arguments import Json, RunOptions, SameAs
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.config import DEFAULT_SAE, RunConfig
from saeworks.errors import DONE, INTERRUPTED

if TYPE_CHECKING:
    from saeworks.advice.advice import Advice as Advised


@dataclass(frozen=True)
class Advise(RunOptions):
    """Say what to train for a budget: groups, experts, width and tokens, with what to expect.

    Trains short pilots on the model first, which take at most a tenth of the budget, and fits a law
    to them. Leaves run.yaml for `train`. Run the same command again to resume it; asking again with
    another budget or target uses the pilots that are there. Takes a run as `train` does, but for
    its SAEs, groups, tokens and batch, which are advised.
    """

    budget: tuple[str, ...] = ()
    """A time (`2h`, `1h30min`), operations (`1e17flops`) or memory (`10GiB`); or one of each kind,
    which all hold. The pilots are part of it."""
    target: str | None = None
    """`fvu=0.1` or `delta_ce=0.02` (nats), the mean over the sites: ask for the cheapest run that
    reaches it; by default for the lowest FVU."""
    k: tuple[int, ...] = (DEFAULT_SAE["k"],)
    """Latents active per token that are allowed. More of them lower the FVU, and are harder to
    read, so that this is for you to say."""
    out: Path | None = None
    """Folder of the pilots, advice.json and run.yaml: runs/advise-<name of the model> by
    default."""
    seed: Annotated[int | None, SameAs(RunConfig, "seed")] = None
    json: Json = False

    def __call__(self) -> int:
        """Run it."""
        from saeworks.advice.budget import Budget, Goal
        from saeworks.advice.run import advise_run

        budget = Budget.parse(self.budget)
        target = None if self.target is None else Goal.parse(self.target)
        config = self.config(seed=self.seed)
        out = self.out or Path("runs") / f"advise-{self.name(config)}"
        advice = advise_run(config, budget, target, self.k, out, speaker(self.json))
        if advice is None:
            return INTERRUPTED
        if self.json:
            print_json(advice.to_json())
            return DONE
        print_advice(advice)
        run = Path(advice.best.yaml)
        say(f"Next: {command('train', run, '--out', run.with_suffix(''))}")
        return DONE


def print_advice(advice: "Advised") -> None:
    """What to do and why, and a row per site."""
    from saeworks.cli.tables import print_table
    from saeworks.results.headlines import DELTA_CE, FVU

    pilots = advice.pilots
    say(f"After {pilots['seconds']:.0f} s of pilots, for a budget of {advice.budget}:")
    for line in advice.sentences():
        say(f"- {line}")
    other = advice.runner_up
    heads = ["site", "FVU", "ΔCE (nats)", *(["runner-up: FVU", "ΔCE (nats)"] if other else [])]
    rows = []
    for site, values in advice.best.sites.items():
        both = [values, *([other.sites[site]] if other else [])]
        rows.append([site, *(str(each[key]) for each in both for key in (FVU, DELTA_CE))])
    print_table(heads, rows)
    for line in advice.caveats:
        say(f"Note: {line}.")
    say(f"Written: {advice.best.yaml}{f', {other.yaml}' if other else ''}")
