"""`saeworks bench`: measurements of this machine, one JSON line each."""

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from typing_extensions import Doc
from tyro.conf import OmitSubcommandPrefixes, subcommand

from saeworks.cli.arguments import Model, SameAs
from saeworks.cli.fields import Command
from saeworks.cli.printing import print_json
from saeworks.config import DEFAULT_SAE, Device, PrecisionChoice, TextConfig, TrainConfig
from saeworks.errors import DONE

Threads = Annotated[int | None, Doc("CPU threads: by default as many as torch chooses.")]


@dataclass(frozen=True)
class Step:
    """Time the trainer's own step on random data; one JSON line on stdout, split by stage."""

    arch: str = DEFAULT_SAE["arch"]
    """An architecture's name."""
    d: int = 768
    """Width of the activations."""
    width: int = 24576
    """Latents, M."""
    k: int | None = None
    """Active latents per token: 32 by default, where the architecture has k."""
    batch: int = 8192
    """Tokens per step."""
    experts: int | None = None
    """Experts, where the architecture has them."""
    threads: Threads = None
    dtype: Literal["float32"] = "float32"
    """Precision of the parameters."""
    precision: Annotated[PrecisionChoice, SameAs(TrainConfig, "precision")] = "float32"
    device: Device = "auto"
    rounds: int = 5
    """Timed steps, after one that is not counted."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cost.bench_step import bench_step

        print_json(bench_step(**asdict(self)))
        return DONE


@dataclass(frozen=True)
class LM:
    """Time the language model's forward, whole and stopped at one block; prints a JSON line."""

    model: Model = "embedded"
    site: str = "0@resid"
    """The site whose capture is timed beside the whole forward."""
    batch: int = 8192
    """Tokens per forward."""
    context: Annotated[int, SameAs(TextConfig, "context")] = 128
    threads: Threads = None
    device: Device = "auto"
    rounds: int = 5
    """Timed forwards, after one that is not counted."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cost.bench_lm import bench_lm

        print_json(bench_lm(**asdict(self)))
        return DONE


@dataclass(frozen=True)
class Bench:
    """Benchmarks: one JSON line per measurement on stdout."""

    what: OmitSubcommandPrefixes[
        Annotated[Step, subcommand("step")] | Annotated[LM, subcommand("lm")]
    ]

    def __call__(self) -> int:
        """Run it."""
        return self.what()


BENCHES: dict[str, Command] = {"step": Step, "lm": LM}
