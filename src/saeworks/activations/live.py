"""Activations from a language model as it reads, through one ring of token slots.

The ring is filled whole, every slot is drawn exactly once in a random order, and it is filled
anew: so each batch draws on all documents in the ring, and no row is seen twice or lost. What is
recorded for a resume is where the text stood when the fill began, not the ring: the language
model reads those tokens again, which costs seconds and keeps checkpoints small.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeworks.activations.base import (
    ActivationBatch,
    ActivationSource,
    finite,
    mixing,
)
from saeworks.activations.outliers import beyond, norms
from saeworks.activations.seeds import generator
from saeworks.config import BufferConfig, parse_bytes
from saeworks.errors import UserError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SLOT_OVERHEAD = 8 + 4 + 8  # document, position, and the slot's place in the order of drawing
_NORM_ROWS = 16_384  # that a site's median norm is taken of
_EMPTY_BATCHES = 1000  # so many in a row without one kept position: there will never be one

Hook = Callable[[Tensor], Tensor | None]


@runtime_checkable
class Reader(Protocol):
    """What a source needs of a language model (`saeworks.lm.model.LanguageModel`)."""

    device: torch.device

    def width(self, site: str) -> int: ...

    def run(self, tokens_BT: Tensor, hooks: Mapping[str, Hook]) -> Any: ...


@runtime_checkable
class Tokens(Protocol):
    """A batch of packed sequences (`saeworks.lm.text.TokenBatch`)."""

    @property
    def tokens(self) -> Tensor: ...

    @property
    def document(self) -> Tensor: ...

    @property
    def position(self) -> Tensor: ...

    @property
    def keep(self) -> Tensor: ...


@runtime_checkable
class Stream(Protocol):
    """An iterator of packed sequences with a state (`saeworks.lm.text.TokenStream`)."""

    @property
    def epoch(self) -> int: ...

    def __next__(self) -> Tokens: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class RowReader:
    """Reads tokens, runs the language model, and hands every kept row to the caller's tensors.

    Its position is the stream's state before the batch at hand, and how many of that batch's kept
    rows are used up: no row is lost where a fill ends in the middle of a batch.

    Args:
        limits: site → norm; a token above one of them is left out at all sites.
    """

    def __init__(
        self,
        lm: Reader,
        stream: Stream,
        sites: Sequence[str],
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self.limits = dict(limits or {})
        self.left_out = 0
        self._lm, self._stream, self._sites = lm, stream, tuple(sites)
        self._pending: Tokens | None = None
        self._before: dict[str, Any] = stream.state_dict()
        self._skip = 0
        self.batches = 0

    @property
    def epoch(self) -> int:
        return self._stream.epoch

    def position(self) -> dict[str, Any]:
        before = self._before if self._pending is not None else self._stream.state_dict()
        return {"stream": before, "skip": self._skip, "batches": self.batches}

    def seek(self, position: Mapping[str, Any]) -> None:
        self._stream.load_state_dict(dict(position["stream"]))
        self._pending, self._skip = None, int(position["skip"])
        self.batches = int(position["batches"])

    def read(
        self,
        planes: Mapping[str, Float[Tensor, "N _"]],
        document: Int[Tensor, " N"],
        position: Int[Tensor, " N"],
    ) -> int:
        """Fill the planes from their beginning with the rows of one forward pass; → how many.

        The rows that do not fit stay for the next call. May be 0 (no position kept).
        """
        if self._pending is None:
            self._before = self._stream.state_dict()
            self._pending = self._next_tokens()
        keep_BT = self._pending.keep
        rows = keep_BT.flatten().nonzero().squeeze(1)
        taken = rows[self._skip : self._skip + document.numel()]
        if taken.numel():
            self._forward(self._pending, taken, planes)
            document[: taken.numel()] = self._pending.document.flatten()[taken].to(document.device)
            position[: taken.numel()] = self._pending.position.flatten()[taken].to(position)
        count = self._without_outliers(planes, document, position, taken.numel())
        self._skip += taken.numel()
        if self._skip == rows.numel():
            self._pending, self._skip = None, 0
            self.batches += 1
        return count

    def _without_outliers(
        self, planes: Mapping[str, Tensor], document: Tensor, position: Tensor, count: int
    ) -> int:
        """Close up the first `count` rows over those beyond a limit; → how many are left."""
        if not self.limits or not count:
            return count
        far = [beyond(planes[site][:count], limit).cpu() for site, limit in self.limits.items()]
        kept = (~torch.stack(far).any(0)).nonzero().squeeze(1)
        left = kept.numel()
        if left < count:
            for rows in (*planes.values(), document, position):
                rows[:left] = rows[kept.to(rows.device)]
            self.left_out += count - left
        return left

    def _next_tokens(self) -> Tokens:
        try:
            return next(self._stream)
        except StopIteration:
            raise UserError(
                f"the text ended after {self.batches} batches, before the run had its tokens; "
                "give more text, allow more epochs, or ask for fewer tokens"
            ) from None

    def _forward(
        self, batch: Tokens, rows: Int[Tensor, " n"], planes: Mapping[str, Tensor]
    ) -> None:
        """Run the sequences that hold `rows` (indices into the flat batch), and no others."""
        context = batch.tokens.shape[1]
        first, last = int(rows[0]) // context, int(rows[-1]) // context
        device = self._lm.device
        local = (rows - first * context).to(device)
        hooks = {site: _into(planes[site][: rows.numel()], local) for site in self._sites}
        with torch.no_grad():
            self._lm.run(batch.tokens[first : last + 1].to(device), hooks)

    def refuse_nonfinite(self, good: Mapping[int, Bool[Tensor, " sites"]]) -> None:
        """Raise a UserError if a flag of a batch, by its number, is false."""
        for number, flags in zip(good, torch.stack(list(good.values())).tolist(), strict=True):
            for site, is_good in zip(self._sites, flags, strict=True):
                if not is_good:
                    raise UserError(
                        f"activations of {site} hold NaN or Inf in batch {number} of the text; "
                        "nothing was trained on it: run the language model in float32 "
                        "(model.dtype), or leave that text out"
                    )


def _into(plane_ND: Tensor, rows: Int[Tensor, " N"]) -> Hook:
    """A hook that copies `rows` of a site's output to a plane, with nothing in between."""

    def hook(x_BTD: Tensor) -> None:
        x_RD = x_BTD.flatten(0, 1)
        if x_RD.dtype == plane_ND.dtype and x_RD.device == plane_ND.device:
            torch.index_select(x_RD, 0, rows, out=plane_ND)
        else:
            plane_ND.copy_(x_RD[rows])

    return hook


class LiveSource(ActivationSource):
    """Rows of any number of sites from one forward pass each, mixed in one ring.

    Args:
        lm: the language model.
        stream: packed text, endless.
        sites: canonical site names; the planes.
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
        lm: Reader,
        stream: Stream,
        sites: Sequence[str],
        buffer: BufferConfig,
        batch: int,
        seed: int,
        tokens: int | None = None,
    ) -> None:
        self.planes = {site: lm.width(site) for site in sites}
        self.batch = batch
        self._seed = seed
        self._reader = RowReader(lm, stream, sites)
        self._exclude = buffer.exclude_norm_above
        self.slots = ring_slots(buffer, self.planes, batch, tokens)
        dtype = _DTYPES[buffer.dtype]
        self._planes = {
            site: torch.empty(self.slots, d, dtype=dtype, device=lm.device)
            for site, d in self.planes.items()
        }
        self._document = torch.empty(self.slots, dtype=torch.int64)
        self._position = torch.empty(self.slots, dtype=torch.int32)
        self._order = torch.empty(0, dtype=torch.int64)
        self._start = self._reader.position()
        self._fill_number, self._drawn, self._epoch = 0, 0, 0
        self._filled, self._astray = False, False
        self._mixing: dict[str, int] | None = None
        self._left_out = 0  # of the fill at hand

    def __next__(self) -> ActivationBatch:
        self._fill()
        rows = self._order[self._drawn : self._drawn + self.batch]
        self._drawn += self.batch
        there = {device: rows.to(device) for device in {p.device for p in self._planes.values()}}
        x = {site: plane[there[plane.device]].float() for site, plane in self._planes.items()}
        batch = ActivationBatch(x, self._document[rows], self._position[rows])
        if self._drawn == self.slots:
            self._start = self._reader.position()
            self._fill_number += 1
            self._drawn, self._filled = 0, False
        return batch

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def limits(self) -> Mapping[str, float]:
        """`exclude_norm_above` times each site's median norm; known once a row has been read."""
        return self._reader.limits

    def head(self, plane: str, tokens: int) -> Float[Tensor, "N D"]:
        self._fill()
        rows_ND = self._planes[plane]
        return rows_ND[self._order[:tokens].to(rows_ND.device)].float()

    def state_dict(self) -> dict[str, Any]:
        return {
            "start": self._start,
            "fill": self._fill_number,
            "drawn": self._drawn,
            "epoch": self._epoch,
            **({"limits": dict(self.limits)} if self._exclude is not None else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._reader.limits = dict(state.get("limits", {}))
        self._start = dict(state["start"])
        self._fill_number, self._drawn = int(state["fill"]), int(state["drawn"])
        self._epoch = int(state["epoch"])  # the stream is sought only when a batch is asked for
        self._filled, self._astray = False, True

    def describe(self) -> dict[str, Any]:
        """Slots, bytes, epoch of the text, documents in the ring and in a batch (measured)."""
        self._fill()
        self._mixing = self._mixing or mixing(self._document[self._order], self.batch)
        widths = sum(p.element_size() * p.shape[1] for p in self._planes.values())
        return {
            "source": "live",
            "slots": self.slots,
            "bytes": self.slots * (widths + _SLOT_OVERHEAD),
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
            self._reader.seek(self._start)
        self._astray = True  # until this fill is whole
        if self._exclude is not None and not self.limits:
            self._measure(self._exclude)
        self._reader.left_out = 0
        self._read(self.slots)
        order = torch.randperm(
            self.slots, generator=generator(self._seed, "ring", self._fill_number)
        )
        self._order, self._epoch = order, self._reader.epoch
        self._left_out = self._reader.left_out
        self._filled, self._astray = True, False

    def _measure(self, times: float) -> None:
        """Each site's limit, of the next rows; then back to where they begin."""
        begin, rows = self._reader.position(), min(self.slots, _NORM_ROWS)
        self._read(rows)
        medians = {site: float(norms(x_ND[:rows]).median()) for site, x_ND in self._planes.items()}
        self._reader.limits = {site: times * median for site, median in medians.items()}
        self._reader.seek(begin)

    def _read(self, rows: int) -> None:
        """The next rows into the ring's first slots."""
        filled, empty = 0, 0
        good: dict[int, Tensor] = {}
        while filled < rows:
            here = slice(filled, rows)
            planes = {site: plane[here] for site, plane in self._planes.items()}
            number = self._reader.batches
            n = self._reader.read(planes, self._document[here], self._position[here])
            if n:
                good[number] = torch.stack([finite(x_ND[:n]) for x_ND in planes.values()])
            empty = 0 if n else empty + 1
            if empty > _EMPTY_BATCHES:
                raise UserError(
                    "no position of the text is kept for training; lower text.exclude_first, raise "
                    "buffer.exclude_norm_above, or give other text"
                )
            filled += n
            self.tick(filled / rows)
        self._reader.refuse_nonfinite(good)


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
    slot = sum(planes.values()) * _DTYPES[buffer.dtype].itemsize + _SLOT_OVERHEAD
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
