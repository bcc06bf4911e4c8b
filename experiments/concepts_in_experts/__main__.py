"""Is a known concept coded by different latents in different experts of a Switch SAE?

    python -m experiments.concepts_in_experts [{all,train,collect,table}] [--seeds 0 1 2]
        [--set key=value ...]

Trains concepts_in_experts.yaml once per seed into runs/concepts_in_experts/seed-<i>, asks every SAE
about the concepts of the embedded grammar on held-out documents, and writes
results/concepts_in_experts.{json,md}. What is counted, the controls and what the verdicts rest on:
criteria.md, written before the runs. What is trained already is not trained again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments import runs
from experiments.concepts_in_experts.table import markdown
from experiments.runs import Found, Given, study

HERE = Path(__file__).parent
NAME = HERE.name


def folder(given: Given, seed: int) -> Path:
    return Path(given.runs / NAME / f"seed-{seed}")


def train(given: Given) -> None:
    """One run per seed."""
    for seed in given.seeds:
        runs.train(HERE / f"{NAME}.yaml", seed, folder(given, seed), given.set)


def collect(given: Given) -> Found:
    """Ask every SAE."""
    from experiments.concepts_in_experts.measured import measured

    return measured({seed: folder(given, seed) for seed in given.seeds}, given.tokens)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], help="as of `saeworks train`")
    parser.add_argument("--tokens", type=int, default=100_000, help="held-out tokens")
    parser.add_argument("--runs", type=Path, default=runs.RUNS)


def main(arguments: Sequence[str] | None = None) -> None:
    study(
        *(__doc__, __file__, arguments),
        collect=collect,
        table=lambda found, _: markdown(found),
        before={"train": train},
        seeds=(0, 1, 2),
        options=options,
    )


if __name__ == "__main__":
    main()
