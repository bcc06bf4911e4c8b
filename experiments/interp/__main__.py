"""Circuits, concepts and program explanations of SAEs per layer, in groups, with experts, at random
and on the error, judged by criteria.md.

    python -m experiments.interp {embedded,real} [{all,train,measure,collect,table}]

Trains embedded.yaml or real.yaml once per seed, then SAEs on the linear and on the nonlinear part
of the per-layer SAEs' error; each run resumes if it was interrupted. Writes results/SETTING.json
and results/SETTING.md.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.interp.arms import ERRORS, folder, suites
from experiments.interp.measured import measured
from experiments.interp.table import markdown
from experiments.runs import Given, saeworks, study, train

HERE = Path(__file__).parent
PROMPTS, TOKENS, LATENTS = "128", "60000", "64"
TASKS: dict[str, tuple[str, ...]] = {"embedded": (), "real": ("--task", "agreement")}
"""Options of the tasks that the model can do; all of them unless some are named."""


def train_all(given: Given) -> None:
    """Every SAE of every seed."""
    config = HERE / f"{given.setting}.yaml"
    for seed in given.seeds:
        train(config, seed, folder(given.setting, seed))
        per_layer = suites(given.setting, seed)["per layer"]
        for part in ERRORS:
            train(config, seed, folder(given.setting, seed, part), on_error(per_layer, part))


def on_error(base: Path, part: str) -> list[str]:
    """Overrides: one SAE of the same size per layer, on a part of the error of those of `base`."""
    saes = f"saes=[{{arch: topk, width: 512, k: {base.name.rpartition('k')[2]}}}]"
    return [f"error.suite={base}", f"error.component={part}", saes, "groups=[per-site]"]


def measure_all(given: Given) -> None:
    """Circuits and concepts of what can stand in for a site; explanations of all."""
    for seed in given.seeds:
        every = suites(given.setting, seed)
        on_activations = [path for name, path in every.items() if name not in ERRORS.values()]
        tasks = TASKS[given.setting]
        saeworks("circuits", *on_activations, *tasks, "--prompts", PROMPTS, "--json")
        saeworks("concepts", *on_activations, "--tokens", TOKENS, "--json")
        saeworks("explain", *every.values(), "--tokens", TOKENS, "--latents", LATENTS, "--json")


def main(arguments: Sequence[str] | None = None) -> None:
    study(
        str(__doc__),
        __file__,
        arguments,
        collect=lambda given: measured(given.setting, given.seeds),
        table=markdown,
        before={"train": train_all, "measure": measure_all},
        seeds={"embedded": (0, 1, 2), "real": (0,)},
    )


if __name__ == "__main__":
    main()
