"""`saeworks cache`: the activations of a run's sites, on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from saeworks.cli.arguments import Json, RunOptions, SameAs
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.config import RunConfig
from saeworks.errors import DONE, INTERRUPTED


@dataclass(frozen=True)
class CacheActivations(RunOptions):
    """Write the activations of a run's sites to disk, to train on them again and again.

    Takes the run as `train` does; of its keys model, text, sites, seed, buffer, train.tokens,
    train.batch and train.eval_tokens count. Run the same command again to go on with an interrupted
    one.
    """

    out: Path | None = None
    """Folder of the cache: caches/<name of the YAML file, or of preset and model> by default."""
    seed: Annotated[int | None, SameAs(RunConfig, "seed")] = None
    json: Json = False

    def __call__(self) -> int:
        """Run it."""
        from saeworks.train.caching import write_cache

        config = self.config(seed=self.seed)
        out = self.out or Path("caches") / self.name(config)
        finished = write_cache(config, out, speaker(self.json))
        if self.json:
            print_json({"out": str(out), "finished": finished})
        elif finished:
            say(f"Next: {command('train', '--set', f'source.cache={out}')}")
        return DONE if finished else INTERRUPTED
