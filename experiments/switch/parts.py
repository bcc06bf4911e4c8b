"""The training runs of the study of Switch SAEs, and where they are."""

from dataclasses import dataclass
from pathlib import Path

from experiments import runs

HERE = Path(__file__).parent
RUNS = runs.RUNS / "switch"


@dataclass(frozen=True)
class Run:
    """One training run: its part, seed, and batch size where it is not the part's own."""

    part: str
    seed: int = 0
    batch: int | None = None

    @property
    def folder(self) -> Path:
        return RUNS / self.part / (f"batch-{self.batch}" if self.batch else f"seed-{self.seed}")

    @property
    def config(self) -> Path:
        return HERE / f"{self.part}.yaml"


ALL = (
    Run("seeds", 0),
    Run("sweeps"),
    Run("seeds", 1),
    Run("seeds", 2),
    Run("others"),
    Run("sites"),
    Run("group"),
    *(Run("batch", 0, batch) for batch in (8192, 2048, 1024)),
    *(Run("rates", seed) for seed in (0, 1, 2)),
    Run("long"),
)
"""In the order in which they are trained."""
