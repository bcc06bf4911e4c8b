"""Layers that share SAEs, over the length of training, judged by criteria.md.

    python -m experiments.groups_lengths {embedded,real} [{all,train,collect,table,figures}]

Trains and evaluates SETTING.yaml, and one SAE per layer on fewer vectors, once for each length and
seed; each run resumes if it was interrupted. Writes results/SETTING.json, .md and .svg.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.groups_lengths.table import markdown
from experiments.lengths import LENGTHS, Trained, of_seeds, over
from experiments.runs import Found, Given, read, study

HERE = Path(__file__).parent
HELD_OUT = ("--tokens", "100000", "--splice-tokens", "30000", "--no-geometry")
K = {"embedded": 16, "real": 32}
FEWER = "fewer vectors"


def arms(setting: str) -> dict[str, str]:
    """Name → variant; but for the SAEs on fewer vectors, which are a run of their own."""
    base = f"topk-w256-k{K[setting]}"
    grouped = {f"{g} groups": f"{base}-g{g}-complete" for g in (4, 3, 2, 1)}
    every = {f"{g} groups, all layers": f"{base}-g{g}-complete-all" for g in (2, 1)}
    rest = {"2 even groups": f"{base}-g2-even", "smaller SAEs": f"topk-w102-k{K[setting]}"}
    return {"per layer": base} | grouped | rest | every


def runs(setting: str, seeds: Sequence[int]) -> Iterator[tuple[Trained, Trained]]:
    """Each run, and that of the baseline on two fifths of its vectors."""
    sae = f"saes=[{{arch: topk, width: 256, k: {K[setting]}}}]"
    for run in over(HERE / f"{setting}.yaml", seeds):
        fewer = replace(
            run, length=run.length * 2 // 5, part="fewer", overrides=(sae, "groups=[per-site]")
        )
        yield run, fewer


def train_all(given: Given) -> None:
    for both in runs(given.setting, given.seeds):
        for run in both:
            run.make(*HELD_OUT)


def collect(given: Given) -> Found:
    """Length → arm → metric → a value for each seed."""
    found: dict[str, Found] = {}
    for length in LENGTHS:
        of = [both for both in runs(given.setting, given.seeds) if both[0].length == length]
        of = [both for both in of if all(run.done for run in both)]
        if not of:
            continue
        suites = {
            name: [run.folder / variant for run, _ in of]
            for name, variant in arms(given.setting).items()
        } | {FEWER: [suite for _, fewer in of for suite in fewer.suites]}
        found[str(length)] = {
            name: of_seeds(paths, ("fvu", "delta_ce", "dead_share"))
            | {"tokens": read(paths[0] / "suite.json")["tokens"]}
            for name, paths in suites.items()
        }
    return {"setting": given.setting, "seeds": list(given.seeds), "lengths": found}


def draw(found: Found, base: Path) -> None:
    from experiments.groups_lengths.figure import figure

    figure(found, base.with_suffix(".svg"))


def main(arguments: Sequence[str] | None = None) -> None:
    study(
        *(str(__doc__), __file__, arguments),
        collect=collect,
        table=markdown,
        figures=draw,
        before={"train": train_all},
        seeds={"embedded": (0, 1, 2), "real": (0,)},
    )


if __name__ == "__main__":
    main()
