"""The training runs of the study of dark matter, and where they are."""

import json
from dataclasses import dataclass
from pathlib import Path

from experiments.runs import RUNS
from saeworks.config import read_yaml

HERE = Path(__file__).parent
RUN_FILES = ("layers", "layer")
COMPONENTS = ("e", "l", "u")
ERROR_WIDTH = 2048


@dataclass(frozen=True)
class Run:
    """One training run: where it is, what it is of, and the overrides of its file."""

    setting: str
    where: str
    """`seed-<i>`, or `random` weights of the model."""
    file: str
    """Of `RUN_FILES`."""
    component: str | None = None
    """Of the error of the TopK SAE of the same place, that it is trained on."""

    @property
    def config(self) -> Path:
        return HERE / f"{self.setting}_{self.file}.yaml"

    @property
    def folder(self) -> Path:
        name = self.file if self.component is None else f"error-{self.component}"
        return RUNS / f"darkmatter_{self.setting}" / self.where / name

    @property
    def seed(self) -> int:
        return 0 if self.where == "random" else int(self.where.removeprefix("seed-"))

    def overrides(self) -> list[str]:
        """TopK alone, one SAE per site, where it is a control; one SAE on errors."""
        sae, overrides = read_yaml(self.config)["saes"][0], []
        if self.where == "random":
            overrides += ["model.random_weights=0", "groups=[per-site]"]
        if self.component is not None:
            sae = {"arch": "topk", "width": ERROR_WIDTH, "k": sae["k"]}
            overrides += [f"error.suite={self.of()}", f"error.component={self.component}"]
        return [*overrides, f"saes=[{json.dumps(sae)}]"] if overrides else []

    def of(self) -> Path:
        """The suite whose error it is trained on: TopK as wide as the other architectures."""
        run = Run(self.setting, self.where, "layer")
        topk, other, *_ = read_yaml(run.config)["saes"]
        return run.folder / f"topk-w{other['width']}-k{topk['k']}"


def errors_of(run: Run) -> list[Run]:
    """The runs on the errors of one of its suites."""
    return [Run(run.setting, run.where, run.file, component) for component in COMPONENTS]
