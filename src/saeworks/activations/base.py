"""The seam between activations and trainers: batches of rows, and the sources that yield them.

Shapes: B tokens in a batch, D model width (of one plane).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.activations.feed import PassageReader
from saeworks.errors import UserError


@dataclass(frozen=True)
class ActivationBatch:
    """The same B tokens at every plane.

    Attributes:
        x: rows by plane name, float32, in raw units.
        document: the document of each row.
        position: its position in its context.
        label: of its document, where someone gave labels (`labelled.Labelled`).
    """

    x: dict[str, Float[Tensor, "B _"]]
    document: Int[Tensor, " B"]
    position: Int[Tensor, " B"]
    label: Int[Tensor, " B"] | None = None


def no_tick(share: float) -> None:
    """Nobody watches."""


class ActivationSource(ABC):
    """An endless iterator of batches whose whole state is a few numbers.

    A *plane* is a stream of rows of one width: a site, or several mixed. All planes of a batch
    hold the same tokens.
    """

    planes: Mapping[str, int]
    """Plane name → D."""
    batch: int
    """Rows in a batch."""
    vetted: bool = False
    """Whether the source itself refuses NaN and Inf, so that no one need look at every batch."""
    tick: Callable[[float], None] = staticmethod(no_tick)
    """Called with the share that is done while the source is long at work (filling its ring); it
    may raise to break off, which leaves the state as it was."""

    def read_in(self, reading: PassageReader) -> None:  # noqa: B027
        """Read there from now on; a source that reads nothing has no use for it."""

    def __iter__(self) -> "ActivationSource":
        return self

    @abstractmethod
    def __next__(self) -> ActivationBatch:
        """The next batch."""

    @property
    def limits(self) -> Mapping[str, float]:
        """Plane → the norm above which rows are left out; empty where none are."""
        return {}

    @property
    def epoch(self) -> int | None:
        """Whole passes over the text that have been read; None where that means nothing."""
        return None

    @abstractmethod
    def head(self, plane: str, tokens: int) -> Float[Tensor, "N D"]:
        """The first rows of the run on one plane, float32, without consuming them.

        At most `tokens`, fewer where the source holds fewer at once; for normalisers and
        initialisation. Only before the first batch is drawn.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values from which `load_state_dict` restores the source exactly."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a recorded state; the next batch is the one that came next there."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a user wants to know: sizes and, measured, how well the rows are mixed."""


def moved(x: Tensor, device: torch.device) -> Tensor:
    """The same on a device, to which it is copied without waiting for what that is at."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def finite(x: Float[Tensor, "*any"]) -> Tensor:
    """Whether x has neither NaN nor Inf, as a tensor: no synchronisation, no copy of x."""
    low, high = torch.aminmax(x)  # NaN wins in both
    return low.isfinite() & high.isfinite()


def refuse_nonfinite(batch: ActivationBatch, number: int) -> None:
    """Raise a UserError that names the plane and the batch if a row holds NaN or Inf."""
    good = torch.stack([finite(x_BD) for x_BD in batch.x.values()]).tolist()
    for plane, is_good in zip(batch.x, good, strict=True):
        if not is_good:
            raise UserError(
                f"activations of {plane} hold NaN or Inf in batch {number}; nothing was trained "
                "on it: run the language model in float32, or leave that text out"
            )


def mixing(document: Int[Tensor, " N"], batch: int, batches: int = 16) -> dict[str, int]:
    """Documents among N rows, and distinct ones in a batch (mean of the first few)."""
    whole = document[: document.numel() // batch * batch].view(-1, batch)[:batches]
    per_batch = [len(set(row.tolist())) for row in whole]
    return {
        "documents": len(set(document.tolist())),
        "documents_per_batch": round(sum(per_batch) / len(per_batch)),
    }
