"""One ring of token slots between whatever reads rows in the order of a text and the trainers.

The ring is filled whole, every slot is drawn exactly once in a random order, and it is filled
anew: so each batch draws on all documents in the ring, and no row is seen twice or lost. What is
recorded for a resume is where the text stood when the fill began, not the ring: the rows are read
again, which costs seconds and keeps checkpoints small.

Shapes: N rows, D width of a site.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.activations.base import ActivationBatch, ActivationSource, mixing, no_tick
from saeworks.activations.outliers import norms
from saeworks.activations.seeds import generator
from saeworks.config import BufferConfig, DType, parse_bytes
from saeworks.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INDEX_BYTES = 8 + 4
"""Bytes of a row's document and position."""
_SLOT_OVERHEAD = INDEX_BYTES + 8  # and its place in the order of drawing
_NORM_ROWS = 16_384  # that a site's median norm is taken of
_EMPTY_READS = 1000  # so many in a row without one kept position: there will never be one


class RowStream(ABC):
    """The rows of some sites in the order of a text, read from a position that can be kept.

    Attributes:
        planes: site → D.
        device: where the rows are made.
        limits: site → norm; a token above one of them is left out at all sites.
        left_out: tokens left out so far.
    """

    planes: Mapping[str, int]
    device: torch.device
    limits: dict[str, float]
    left_out: int = 0
    name: str
    """What kind of rows they are, for `describe`."""

    @property
    @abstractmethod
    def epoch(self) -> int:
        """Whole passes over the text so far."""

    @abstractmethod
    def position(self) -> dict[str, Any]:
        """Plain JSON values from which `seek` goes on."""

    @abstractmethod
    def seek(self, position: Mapping[str, Any]) -> None:
        """Go to a position; the next row is the one that came next there."""

    @abstractmethod
    def read(
        self,
        planes: Mapping[str, Float[Tensor, "N _"]],
        document: Int[Tensor, " N"],
        position: Int[Tensor, " N"],
    ) -> int:
        """Fill the planes from their beginning with some of the next rows; → how many.

        The rows that do not fit stay for the next call. May be 0 (no position kept).
        """

    @abstractmethod
    def check(self) -> None:
        """Refuse what was read since the last check if some of it is NaN or Inf.

        Raises:
            UserError: naming the site and the batch.
        """


@final
class Slots:
    """Rows of some sites in memory.

    Attributes:
        planes: site → its rows [N, D].
        document: of each row.
        position: of each row, in its context.
    """

    def __init__(self, rows: RowStream, number: int, dtype: DType) -> None:
        self._rows, self.number = rows, number
        self.planes = {
            site: torch.empty(number, d, dtype=DTYPES[dtype], device=rows.device)
            for site, d in rows.planes.items()
        }
        self.document = torch.empty(number, dtype=torch.int64)
        self.position = torch.empty(number, dtype=torch.int32)

    @property
    def bytes(self) -> int:
        widths = sum(plane.element_size() * plane.shape[1] for plane in self.planes.values())
        return self.number * (widths + _SLOT_OVERHEAD)

    def fill(self, number: int | None = None, tick: Callable[[float], None] = no_tick) -> None:
        """The next rows, in the first slots; in all of them by default.

        Raises:
            UserError: if a row is NaN or Inf, or no position is ever kept.
        """
        number = self.number if number is None else number
        filled, empty = 0, 0
        while filled < number:
            free = slice(filled, number)
            planes = {site: plane[free] for site, plane in self.planes.items()}
            n = self._rows.read(planes, self.document[free], self.position[free])
            empty = 0 if n else empty + 1
            if empty > _EMPTY_READS:
                raise UserError(
                    "no position of the text is kept for training; lower text.exclude_first, raise "
                    "buffer.exclude_norm_above, or give other text"
                )
            filled += n
            tick(filled / number)
        self._rows.check()

    def set_limits(self, times: float, tick: Callable[[float], None] = no_tick) -> None:
        """Leave out tokens above so many times each site's median norm from now on.

        The medians are of the next rows, to whose beginning it goes back.
        """
        begin, number = self._rows.position(), min(self.number, _NORM_ROWS)
        self.fill(number, tick)
        medians = {site: float(norms(x_ND[:number]).median()) for site, x_ND in self.planes.items()}
        self._rows.limits = {site: times * median for site, median in medians.items()}
        self._rows.seek(begin)


@final
class RingSource(ActivationSource):
    """Rows of any number of sites, mixed in one ring.

    Args:
        rows: where they come from; endless.
        buffer: memory budget of the ring and precision of its planes.
        batch: rows in a batch.
        seed: fixes the order in which slots are drawn.
        tokens: rows the run will draw in all; the ring is made no larger than that.

    Raises:
        UserError: if the budget holds fewer slots than one batch; while reading, if an activation
            is NaN or Inf (naming site and batch), or the text ends or keeps no position.
    """

    vetted = True

    def __init__(
        self,
        rows: RowStream,
        buffer: BufferConfig,
        batch: int,
        seed: int,
        tokens: int | None = None,
    ) -> None:
        self.planes, self.batch, self._seed = rows.planes, batch, seed
        self._rows, self._exclude = rows, buffer.exclude_norm_above
        self.slots = ring_slots(buffer, self.planes, batch, tokens)
        self._ring = Slots(rows, self.slots, buffer.dtype)
        self._order = torch.empty(0, dtype=torch.int64)
        self._start = rows.position()
        self._fill_number, self._drawn, self._epoch = 0, 0, 0
        self._filled, self._astray = False, False
        self._mixing: dict[str, int] | None = None
        self._left_out = 0  # of the fill at hand

    def __next__(self) -> ActivationBatch:
        self._fill()
        slot_B = self._order[self._drawn : self._drawn + self.batch]
        self._drawn += self.batch
        on_device = slot_B.to(self._rows.device)
        x = {site: plane[on_device].float() for site, plane in self._ring.planes.items()}
        batch = ActivationBatch(x, self._ring.document[slot_B], self._ring.position[slot_B])
        if self._drawn == self.slots:
            self._start = self._rows.position()
            self._fill_number += 1
            self._drawn, self._filled = 0, False
        return batch

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def limits(self) -> Mapping[str, float]:
        """`exclude_norm_above` times each site's median norm; known once a row has been read."""
        return self._rows.limits

    def head(self, plane: str, tokens: int) -> Float[Tensor, "N D"]:
        self._fill()
        return self._ring.planes[plane][self._order[:tokens].to(self._rows.device)].float()

    def state_dict(self) -> dict[str, Any]:
        return {
            "start": self._start,
            "fill": self._fill_number,
            "drawn": self._drawn,
            "epoch": self._epoch,
            **({"limits": dict(self.limits)} if self._exclude is not None else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rows.limits = dict(state.get("limits", {}))
        self._start = dict(state["start"])
        self._fill_number, self._drawn = int(state["fill"]), int(state["drawn"])
        self._epoch = int(state["epoch"])  # the text is sought only when a batch is asked for
        self._filled, self._astray = False, True

    def describe(self) -> dict[str, Any]:
        """Slots, bytes, epoch of the text, documents in the ring and in a batch (measured)."""
        self._fill()
        self._mixing = self._mixing or mixing(self._ring.document[self._order], self.batch)
        return {
            "source": self._rows.name,
            "slots": self.slots,
            "bytes": self._ring.bytes,
            "batch": self.batch,
            "epoch": self.epoch,
            **self._mixing,
            **({"outliers_left_out": self._left_out} if self._exclude is not None else {}),
        }

    def _fill(self) -> None:
        """Fill the ring from `_start`, unless it is full. Breaking off leaves the state good."""
        if self._filled:
            return
        if self._astray:
            self._rows.seek(self._start)
        self._astray = True  # until this fill is whole
        if self._exclude is not None and not self.limits:
            self._ring.set_limits(self._exclude, self.tick)
        self._rows.left_out = 0
        self._ring.fill(tick=self.tick)
        self._order = torch.randperm(
            self.slots, generator=generator(self._seed, "ring", self._fill_number)
        )
        self._epoch, self._left_out = self._rows.epoch, self._rows.left_out
        self._filled, self._astray = True, False


def ring_slots(
    buffer: BufferConfig,
    planes: Mapping[str, int],
    batch: int,
    tokens: int | None = None,
) -> int:
    """Slots of the ring: what the budget holds (or the run needs), in whole batches.

    Raises:
        UserError: if that is not even one batch.
    """
    slot = sum(planes.values()) * DTYPES[buffer.dtype].itemsize + _SLOT_OVERHEAD
    slots = parse_bytes(buffer.memory) // slot
    if slots < batch:
        need = -(-batch * slot // 2**20)
        raise UserError(
            f"buffer.memory = {buffer.memory!r} holds {slots} tokens at {len(planes)} sites, "
            f"fewer than one batch of {batch}; give at least '{need}MiB', lower train.batch, or "
            "set buffer.dtype to bfloat16"
        )
    if tokens is not None:
        slots = min(slots, -(-tokens // batch) * batch)
    return slots // batch * batch
