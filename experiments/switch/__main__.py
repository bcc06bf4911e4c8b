"""Switch SAEs beside TopK: fixed width, equal FLOPs, widths, balance, routers, batches, sites.

    python -m experiments.switch [{all,train,evaluate,geometry,time,collect,table,figures}]
        [--parts seeds ...]

Trains <part>.yaml into runs/switch/<part>/seed-<i> (`seeds` and `rates` with three seeds; `batch`
once per batch size), evaluates every suite on the same held-out tokens, measures loads and
duplicates, times steps of every arm in turn, and writes results/switch.{json,md} and figures. What
counts as reproduced stands in criteria.md. What is done already is not done again.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments import runs
from experiments.runs import Found, Given, finished, read, study, write
from experiments.switch.parts import ALL, Run
from experiments.switch.table import markdown
from saeworks.suite import find_suites

HERE = Path(__file__).parent
REGIME = HERE.parent / "tokens_per_latent/results/tokens_per_latent.json"
"""The same comparison where each latent has thousands of tokens."""
EVALUATION = ("--tokens", "100000", "--splice-tokens", "20000")
"""Held-out tokens of reconstruction and of splice."""


def chosen(given: Given) -> list[Run]:
    """The runs of the parts that are asked for."""
    return [run for run in ALL if given.parts is None or run.part in given.parts]


def trained(given: Given) -> Iterator[Run]:
    return (run for run in chosen(given) if finished(run.folder))


def train(given: Given) -> None:
    """Every run of the chosen parts."""
    for run in chosen(given):
        overrides = [f"train.batch={run.batch}"] if run.batch else []
        runs.train(run.config, run.seed, run.folder, overrides)


def evaluate(given: Given) -> None:
    """The suites of a finished run together, on the same passes of the language model."""
    for run in trained(given):
        runs.evaluate(find_suites(run.folder), *EVALUATION)


def geometry(given: Given) -> None:
    """Loads of experts and near-equal latents of every evaluated suite."""
    from experiments.switch.geometry import measure

    for run in trained(given):
        suites = [s for s in find_suites(run.folder) if not (s / "switch.json").exists()]
        for suite, values in measure(suites):
            write(suite / "switch.json", values)


def timed(given: Given) -> None:
    """Seconds of a step of every arm, all in turn, one thread each."""
    from experiments.switch.time import measure

    path = given.results / "time.json"
    if not path.exists():
        write(path, measure([Run(part).config for part in ("seeds", "sweeps")]))


def collect(given: Given) -> Found:
    from experiments.switch.measured import measured

    return measured(list(trained(given)), given.results)


def draw(found: Found, base: Path) -> None:
    from experiments.switch.figures import figures

    figures(found, base.parent)


def options(parser: argparse.ArgumentParser) -> None:
    parts = sorted({run.part for run in ALL})
    parser.add_argument("--parts", nargs="+", default=None, choices=parts)


def main(arguments: Sequence[str] | None = None) -> None:
    study(
        *(__doc__, __file__, arguments),
        collect=collect,
        table=lambda found, _: markdown(found, read(REGIME)["runs"]),
        figures=draw,
        before={"train": train, "evaluate": evaluate, "geometry": geometry, "time": timed},
        options=options,
    )


if __name__ == "__main__":
    main()
