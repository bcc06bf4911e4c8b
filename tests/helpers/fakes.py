"""A language model of a few random matrices, a stream of random tokens, and a small run on them.

Importable from every test as `fakes`; imports nothing heavier than torch, because the kill test
starts it many times.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saeworks.activations.base import ActivationBatch, ActivationSource
from saeworks.activations.feed import PassageReader
from saeworks.activations.live import RowReader
from saeworks.activations.ring import RingSource
from saeworks.activations.seeds import generator
from saeworks.config import BufferConfig, TrainConfig
from saeworks.groups.grouping import Grouping
from saeworks.suite import write_suite
from saeworks.train.trainer import FinishedVariant, Trainer
from saeworks.train.variants import (
    RunSAE,
    build_members,
    expand_variants,
    suite_dirs,
)

VOCABULARY, CONTEXT = 97, 16


class FakeLM:
    """Sites `layers.0` (D = 16), `layers.1` (D = 12), `layers.2` (D = 16)."""

    name, revision, fingerprint, layers = "fake", None, "fake-1", 3
    concurrent = True

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        then: Callable[["FakeLM"], None] = lambda lm: None,
    ) -> None:
        """What is done after every pass is `then`."""
        random = generator("fake language model")
        self.device = torch.device("cpu")
        self.widths = {"layers.0": 16, "layers.1": 12, "layers.2": 16}
        self.tables = {
            site: torch.randn(VOCABULARY, d, generator=random).to(dtype)
            for site, d in self.widths.items()
        }
        self.sequences_run, self.then = 0, then

    def width(self, site: str) -> int:
        return self.widths[site]

    def run(self, tokens_BT: Tensor, hooks: Mapping[str, Callable[[Tensor], Any]]) -> None:
        self.sequences_run += tokens_BT.shape[0]
        for site, hook in hooks.items():
            x_BTD = self.tables[site][tokens_BT]
            hook(x_BTD + 0.5 * x_BTD.cumsum(1) / (1 + torch.arange(CONTEXT)[:, None]))
        self.then(self)


@dataclass(frozen=True)
class FakeTokens:
    tokens: Tensor
    document: Tensor
    position: Tensor
    keep: Tensor


class FakeStream:
    """Sequences of random tokens, the first position of each left out; a document each."""

    def __init__(self, seed: int = 0, sequences: int = 10, end: int | None = None) -> None:
        self.seed, self.sequences, self.end = seed, sequences, end
        self.number, self.epoch = 0, 0

    def __iter__(self) -> "FakeStream":
        return self

    def __next__(self) -> FakeTokens:
        if self.number == self.end:
            raise StopIteration
        shape = (self.sequences, CONTEXT)
        random = generator(self.seed, "text", self.number)
        tokens_BT = torch.randint(VOCABULARY, shape, generator=random)
        document = torch.arange(self.sequences) + self.number * self.sequences
        position = torch.arange(CONTEXT).expand(shape)
        self.number += 1
        self.epoch = self.number // 20
        return FakeTokens(tokens_BT, document[:, None].expand(shape), position, position > 0)

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]
        self.epoch = self.number // 20


def fake_source(
    seed: int = 0, batch: int = 64, memory: str = "60KiB", **options: Any
) -> RingSource:
    """Two sites; the ring holds a few hundred slots."""
    lm, stream = options.pop("lm", None) or FakeLM(), options.pop("stream", None)
    sites = options.pop("sites", ("layers.0", "layers.1"))
    buffer = BufferConfig(memory=memory, **options)
    rows = RowReader(lm, stream or FakeStream(seed), sites)
    return RingSource(rows, buffer, batch, seed)


class Relay(ActivationSource):
    """Another source, with something done to its batches."""

    def __init__(self, inner: ActivationSource) -> None:
        self.inner, self.planes, self.batch = inner, inner.planes, inner.batch
        self.drawn = 0

    def read_in(self, reading: PassageReader) -> None:
        self.inner.read_in(reading)

    def __next__(self) -> ActivationBatch:
        self.drawn += 1
        return self.change(next(self.inner))

    def change(self, batch: ActivationBatch) -> ActivationBatch:
        return batch

    def head(self, plane: str, tokens: int) -> torch.Tensor:
        return self.inner.head(plane, tokens)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state)

    def describe(self) -> dict[str, Any]:
        return self.inner.describe()


class StopAt(Relay):
    """Sends this process a signal while a given batch is drawn."""

    def __init__(self, inner: ActivationSource, batch: int, number: int) -> None:
        super().__init__(inner)
        self.at, self.number = batch, number

    def change(self, batch: ActivationBatch) -> ActivationBatch:
        if self.drawn == self.at:
            os.kill(os.getpid(), self.number)
        return batch


CONFIG = TrainConfig(
    tokens=64 * 40,
    batch=64,
    lr=3e-3,
    log_every=5,
    eval_every=10,
    checkpoint_every=7,
    dead_tokens=300,
)


def fake_trainer(
    out: Path,
    config: TrainConfig = CONFIG,
    seed: int = 0,
    source: ActivationSource | None = None,
    saes: tuple[dict[str, Any], ...] = ({"arch": "topk", "expansion": 2, "k": [2, 4]},),
    groupings: list[Grouping] | None = None,
    **options: Any,
) -> Trainer:
    """Two variants on two sites; writes suites when it is finished."""
    source = source or fake_source(seed, config.batch)
    variants = expand_variants(saes, source.planes, groupings=groupings)
    whole = {"train": asdict(config), "saes": list(saes), "seed": seed}

    def finish(trained: FinishedVariant) -> None:
        write_suite(
            **trained.facts(),
            model={"name": "fake", "revision": None, "fingerprint": "fake-1", "layers": 3},
            text={},
            config=whole,
            seed=seed,
        )

    defaults: dict[str, Any] = {
        "seed": seed,
        "run_dir": out,
        "suite_dirs": suite_dirs(variants, out),
        "identity": whole,
        "buffer": BufferConfig(normaliser_tokens=200),
        "finish": finish,
        "say": lambda line: None,
    }
    members: list[RunSAE] = build_members(variants, source.planes)
    return Trainer(members, source, config, **{**defaults, **options})


def weights(out: Path) -> dict[str, bytes]:
    """Every weight file of a run's suites, by its path in the run."""
    files = sorted(out.rglob("groups/*/weights.safetensors"))
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def shorter(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The configuration with some values changed."""
    return replace(config, **changes)
