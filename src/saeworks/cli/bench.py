"""`saeworks bench`: measurements of this machine, as a table or as one JSON line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from typing_extensions import Doc
from tyro.conf import OmitSubcommandPrefixes, subcommand

from saeworks.cli.arguments import Json, Model, SameAs
from saeworks.cli.fields import Command
from saeworks.cli.printing import print_json, say
from saeworks.config import DEFAULT_SAE, Device, PrecisionChoice, TextConfig, TrainConfig
from saeworks.errors import DONE

Threads = Annotated[int | None, Doc("CPU threads: by default as many as torch chooses.")]


@dataclass(frozen=True)
class StepOptions:
    """A training step on random data."""

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
    device: Device = "auto"


@dataclass(frozen=True)
class Step(StepOptions):
    """Time the trainer's own step on random data; one JSON line on stdout, split by stage."""

    dtype: Literal["float32"] = "float32"
    """Precision of the parameters."""
    precision: Annotated[PrecisionChoice, SameAs(TrainConfig, "precision")] = "float32"
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
class Floor(StepOptions):
    """Time a training step beside what this machine allows: its matmul and its memory, measured."""

    precision: Annotated[PrecisionChoice, SameAs(TrainConfig, "precision")] = "auto"
    rounds: int = 3
    """Timed steps, after one that is not counted."""
    json: Json = False

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cost.bench_floor import beside_floor
        from saeworks.cost.bench_step import bench_step

        options = {name: value for name, value in asdict(self).items() if name != "json"}
        measured = beside_floor(bench_step(**options))
        if self.json:
            print_json(measured)
        else:
            print_floor(measured)
        return DONE


def print_floor(measured: Mapping[str, Any]) -> None:
    """A row per stage: its seconds, its share of the step, what the machine would need for it."""
    from saeworks.cli.tables import number, print_table

    machine, bounds = measured["machine"], measured["bounds"]
    total = sum(measured["stages"].values())
    rows = [
        [name, number(seconds), f"{seconds / total:.0%}", number(bounds.get(name))]
        for name, seconds in measured["stages"].items()
    ]
    step, floor = measured["seconds_per_step"]["median"], measured["floor_seconds"]
    rows += [[], ["step", number(step), "", f"{floor:.4g} (floor)"]]
    say(
        f"{measured['arch']}, d {measured['d']}, {measured['width']:,} latents, "
        f"{measured['batch']:,} tokens per step, {measured['precision']}, on {measured['device']} "
        f"({measured['processor']}, {measured['threads']} threads): "
        f"{measured['tokens_per_second']:,.0f} tokens/s"
    )
    print_table(["stage", "seconds", "share", "at the machine's speed"], rows)
    rates = {name: machine[f"matmul_{name}_flops_per_second"] / 1e9 for name in ("float32", "bf16")}
    say(
        f"This machine multiplies {rates['float32']:,.0f} GFLOP/s in float32 and "
        f"{rates['bf16']:,.0f} in bf16, and copies {machine['bytes_per_second'] / 1e9:,.0f} GB/s."
    )
    say(
        f"The step takes {measured['times_floor']:.2f} times its floor, which is the encoder's "
        f"matmul ({measured['floor_matmul_seconds']:.3g} s) and one pass of Adam over memory "
        f"({measured['floor_memory_seconds']:.3g} s)."
    )
    if not measured["quiet"]:
        say(f"Not a quiet machine: {measured['quiet_reason']}; run it again for a number to keep.")


@dataclass(frozen=True)
class Bench:
    """Benchmarks: without a name `floor`, a table; the others print one JSON line each."""

    what: OmitSubcommandPrefixes[
        Annotated[Floor, subcommand("floor")]
        | Annotated[Step, subcommand("step")]
        | Annotated[LM, subcommand("lm")]
    ]

    def __call__(self) -> int:
        """Run it."""
        return self.what()


BENCHES: dict[str, Command] = {"floor": Floor, "step": Step, "lm": LM}
