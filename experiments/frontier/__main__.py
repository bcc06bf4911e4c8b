"""FVU–L0 and ΔCE–L0 frontiers of every architecture, on the same tokens of one pass.

    python -m experiments.frontier {embedded,real} [{all,train,evaluate,collect,table,figures}]
        [--seeds 0 1 2] [--set key=value ...]

Trains <setting>.yaml once per seed into runs/frontier_<setting>/seed-<i>, evaluates every suite,
and writes results/<setting>.{json,md,svg} and, for the architectures whose sparsity is steered to a
target, results/<setting>_controller.svg. What is done already is not done again, and an interrupted
run goes on where it stopped.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments import runs
from experiments.frontier.table import markdown
from experiments.runs import Found, Given, study
from saeworks.suite import find_suites

HERE = Path(__file__).parent
SEEDS = {"embedded": (0, 1, 2), "real": (0,)}
SPLICE_TOKENS = {"embedded": 30_000, "real": 20_000}


def folder(given: Given, seed: int) -> Path:
    return Path(given.runs / f"frontier_{given.setting}" / f"seed-{seed}")


def train(given: Given) -> None:
    """One run per seed."""
    for seed in given.seeds:
        runs.train(HERE / f"{given.setting}.yaml", seed, folder(given, seed), given.set)


def evaluate(given: Given) -> None:
    """The suites of a seed together, on the same passes of the language model."""
    tokens = ("--tokens", "100000", "--splice-tokens", str(SPLICE_TOKENS[given.setting]))
    for seed in given.seeds:
        runs.evaluate(find_suites(folder(given, seed)), *tokens)


def collect(given: Given) -> Found:
    from experiments.frontier.measured import measured

    return measured({seed: folder(given, seed) for seed in given.seeds})


def draw(found: Found, base: Path) -> None:
    from experiments.frontier.figures import controller_figure, frontier_figure

    frontier_figure(found, base.with_suffix(".svg"))
    controller_figure(found, base.with_name(f"{base.name}_controller.svg"))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], help="as of `saeworks train`")
    parser.add_argument("--runs", type=Path, default=runs.RUNS)


def main(arguments: Sequence[str] | None = None) -> None:
    study(
        *(__doc__, __file__, arguments),
        collect=collect,
        table=markdown,
        figures=draw,
        before={"train": train, "evaluate": evaluate},
        seeds=SEEDS,
        options=options,
    )


if __name__ == "__main__":
    main()
