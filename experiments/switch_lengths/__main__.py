"""Switch SAEs beside TopK at equal FLOPs and at fixed width over the length of training, judged by
criteria.md.

    python -m experiments.switch_lengths {embedded,real,parts} [{all,train,collect,table,figures}]

Trains and evaluates SETTING.yaml once for each length and seed; each run resumes if it was
interrupted. Writes results/SETTING.json, results/SETTING.md and, but for parts, its figure.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.runs import Found, Given, study
from experiments.switch_lengths.arms import collected, runs
from experiments.switch_lengths.table import markdown

HELD_OUT = ("--tokens", "100000", "--splice-tokens", "30000", "--no-experts")


def train_all(given: Given) -> None:
    for run in runs(given.setting, given.seeds):
        run.make(*HELD_OUT)


def draw(found: Found, base: Path) -> None:
    from experiments.switch_lengths.figure import figure

    if found["setting"] != "parts":
        figure(found, base.with_suffix(".svg"))


def main(arguments: Sequence[str] | None = None) -> None:
    study(
        str(__doc__),
        __file__,
        arguments,
        collect=lambda given: collected(given.setting, given.seeds),
        table=markdown,
        figures=draw,
        before={"train": train_all},
        seeds={"embedded": (0, 1, 2), "real": (0,), "parts": (0, 1, 2)},
    )


if __name__ == "__main__":
    main()
