"""One ring of token slots between whatever reads rows in the order of a text and the trainers.

The ring is filled whole, every slot is drawn exactly once in a random order, and it is filled
anew: so each batch draws on all documents in the ring, and no row is seen twice or lost. A slot
whose row was drawn is free, and the next fill's rows go there while the others are still drawn;
which slot a row lies in changes nothing of the order in which rows are drawn. What is recorded for
a resume is where the text stood when the fill began, not the ring: the rows are read again, which
costs seconds and keeps checkpoints small.

Shapes: N rows, D width of a site, B rows of a batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.activations.base import ActivationBatch, ActivationSource, mixing, moved, no_tick
from saeworks.activations.feed import Feed, PassageReader, RowStream, TextRows
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
_WAITING = 8  # rows that were read and have no slot yet: at most a slot in so many


@dataclass
class Fill:
    """One filling of slots.

    Attributes:
        index: fills before it.
        start: where the text stood when it began.
        slot_N: where each row goes, in the order of the text.
        place_N: the same on the device of the rows.
        done: rows that are there.
        epoch: whole passes over the text at the last of them.
        left_out: tokens left out among them.
    """

    index: int
    start: dict[str, Any]
    slot_N: Int[Tensor, " N"]
    place_N: Int[Tensor, " N"]
    done: int = 0
    epoch: int = 0
    left_out: int = 0

    @property
    def number(self) -> int:
        return len(self.slot_N)


@final
class Slots:
    """Rows of some sites in memory.

    Attributes:
        feed: where they come from.
        planes: site → its rows [N, D].
        document: of each row.
        position: of each row, in its context.
    """

    def __init__(self, rows: RowStream, number: int, dtype: DType) -> None:
        self.feed, self.number = Feed(rows, DTYPES[dtype]), number
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

    def fill(self, fill: Fill, tick: Callable[[float], None] = no_tick) -> None:
        """Read all rows of a fill.

        Raises:
            UserError: if a row is NaN or Inf, or no position is ever kept.
        """
        empty = 0
        while fill.done < fill.number:
            n = self._take(fill, fill.number)
            empty = 0 if n else empty + 1
            if empty > _EMPTY_READS:
                raise UserError(
                    "no position of the text is kept for training; lower text.exclude_first, raise "
                    "buffer.exclude_norm_above, or give other text"
                )
            tick(fill.done / fill.number)
        self.feed.check()

    def read_on(self, fill: Fill, free: int) -> None:
        """Put rows that were read in the first `free` slots of a fill, and have more read."""
        self._ask(fill)
        while fill.done < free and self.feed.ready:
            self._take(fill, free)

    def _ask(self, fill: Fill) -> None:
        self.feed.ask(fill.number - fill.done, max(1, self.number // _WAITING))

    def _take(self, fill: Fill, free: int) -> int:
        """Put some of the next rows in a fill's slots, at most up to `free`; → how many."""
        self._ask(fill)
        before = self.feed.left_out
        rows = self.feed.take(free - fill.done)
        fill.left_out += self.feed.left_out - before
        fill.epoch = self.feed.epoch
        slots = slice(fill.done, fill.done + len(rows))
        self._put(rows, fill.slot_N[slots], fill.place_N[slots])
        fill.done += len(rows)
        return len(rows)

    def _put(self, rows: TextRows, slot_n: Int[Tensor, " n"], place_n: Int[Tensor, " n"]) -> None:
        def put(site: str) -> None:
            self.planes[site].index_copy_(0, place_n, rows.planes[site])

        self.feed.reading.each(put, self.planes)
        self.document[slot_n], self.position[slot_n] = rows.document, rows.position

    def get(self, place_B: Int[Tensor, " B"]) -> dict[str, Float[Tensor, "B _"]]:
        """Rows in float32, by site."""
        x = dict.fromkeys(self.planes, place_B)  # the sites keep their order

        def get(site: str) -> None:
            x[site] = self.planes[site][place_B].float()

        self.feed.reading.each(get, self.planes)
        return x

    def set_limits(self, times: float, tick: Callable[[float], None] = no_tick) -> None:
        """Leave out tokens above so many times each site's median norm from now on.

        The medians are of the next rows, to whose beginning it goes back.
        """
        begin, number = self.feed.position(), min(self.number, _NORM_ROWS)
        try:
            self.fill(self.straight(number), tick)
        finally:
            self.feed.seek(begin)
        medians = {site: float(norms(x_ND[:number]).median()) for site, x_ND in self.planes.items()}
        self.feed.rows.limits = {site: times * median for site, median in medians.items()}

    def straight(
        self, number: int | None = None, index: int = 0, start: dict[str, Any] | None = None
    ) -> Fill:
        """A fill of the first slots in their order: by default of all, with the next rows."""
        slot_N = torch.arange(self.number if number is None else number)
        return Fill(
            index, start or self.feed.position(), slot_N, moved(slot_N, self.feed.rows.device)
        )


@final
class RingSource(ActivationSource):
    """Rows of any number of sites, mixed in one ring.

    Args:
        rows: where they come from; endless.
        buffer: memory budget of the ring and precision of its planes. Rows that were read ahead
            and wait for a slot take up to an eighth of it more, or one passage.
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
        self._fills = None if tokens is None else -(-(-(-tokens // batch) * batch) // self.slots)
        self._ring = Slots(rows, self.slots, buffer.dtype)
        self._now = self._ring.straight()
        self._next: Fill | None = None
        """Known when the fill at hand is whole; its slots are those in the order of drawing."""
        self._drawn, self._epoch = 0, 0
        self._in_place = True  # whether the feed is where the fill at hand goes on
        self._mixing: dict[str, int] | None = None

    def read_in(self, reading: PassageReader) -> None:
        if self._rows.concurrent:
            self._ring.feed.reading = reading

    def __next__(self) -> ActivationBatch:
        after = self._whole()
        drawn = slice(self._drawn, self._drawn + self.batch)
        self._drawn += self.batch
        slot_B, place_B = after.slot_N[drawn], after.place_N[drawn]
        x = self._ring.get(place_B)
        batch = ActivationBatch(x, self._ring.document[slot_B], self._ring.position[slot_B])
        if self._drawn == self.slots:
            self._now, self._next, self._drawn = after, None, 0
        elif self._ring.feed.reading.ahead and after.index != self._fills:
            self._ring.read_on(after, self._drawn)
        return batch

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def limits(self) -> Mapping[str, float]:
        """`exclude_norm_above` times each site's median norm; known once a row has been read."""
        return self._rows.limits

    def head(self, plane: str, tokens: int) -> Float[Tensor, "N D"]:
        return self._ring.planes[plane][self._whole().place_N[:tokens]].float()

    def state_dict(self) -> dict[str, Any]:
        return {
            "start": self._now.start,
            "fill": self._now.index,
            "drawn": self._drawn,
            "epoch": self._epoch,
            **({"limits": dict(self.limits)} if self._exclude is not None else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rows.limits = dict(state.get("limits", {}))
        self._now = self._ring.straight(index=int(state["fill"]), start=dict(state["start"]))
        self._next, self._drawn = None, int(state["drawn"])
        self._epoch = int(state["epoch"])  # the text is sought only when a batch is asked for
        self._in_place = False

    def describe(self) -> dict[str, Any]:
        """Slots, bytes, epoch of the text, documents in the ring and in a batch (measured)."""
        document_N = self._ring.document[self._whole().slot_N]
        self._mixing = self._mixing or mixing(document_N, self.batch)
        return {
            "source": self._rows.name,
            "slots": self.slots,
            "bytes": self._ring.bytes,
            "batch": self.batch,
            "epoch": self.epoch,
            **self._mixing,
            **({"outliers_left_out": self._now.left_out} if self._exclude is not None else {}),
        }

    def _whole(self) -> Fill:
        """Fill the ring unless it is whole; → the next fill. Broken off, its state is good."""
        if self._next is not None:
            return self._next
        now, feed = self._now, self._ring.feed
        if not self._in_place:
            feed.seek(now.start)
            now.done = now.left_out = 0
        self._in_place = False  # until this fill is whole
        if self._exclude is not None and not self.limits:
            self._ring.set_limits(self._exclude, self.tick)
        self._ring.fill(now, self.tick)
        order_N = torch.randperm(self.slots, generator=generator(self._seed, "ring", now.index))
        slot_N, place_N = now.slot_N[order_N], now.place_N[moved(order_N, self._rows.device)]
        self._next = Fill(now.index + 1, feed.position(), slot_N, place_N)
        self._epoch, self._in_place = now.epoch, True
        return self._next


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
