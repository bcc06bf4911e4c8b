"""The rows of a text in their order, read before they are asked for where there is a place for it.

A *passage* is what is read at once, such as one forward pass of a language model. Passages are
begun in the order of the text and read side by side; their rows are handed on in that order, so
the rows do not depend on where or when they were read.

Shapes: n rows, D width of a site.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeworks.errors import UserError

Task = TypeVar("Task")


@dataclass(frozen=True)
class TextRows:
    """Consecutive rows of a text.

    Attributes:
        planes: site → its rows.
        document: of each row.
        position: of each row, in its context.
        left_out: tokens of the passage that were left out for their norm.
        finite: of each site, whether no value of the passage is NaN or Inf; None where all are.
    """

    planes: Mapping[str, Float[Tensor, "n _"]]
    document: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    left_out: int = 0
    finite: Bool[Tensor, " sites"] | None = None

    def __len__(self) -> int:
        return len(self.document)

    def part(self, first: int, last: int) -> "TextRows":
        """The rows from `first` up to `last`, as views."""
        here = slice(first, last)
        planes = {site: x_nD[here] for site, x_nD in self.planes.items()}
        return TextRows(planes, self.document[here], self.position[here])


@dataclass(frozen=True)
class Passage:
    """A stretch of a text that is read at once.

    Attributes:
        position: from which `RowStream.seek` comes back to its beginning.
        epoch: whole passes over the text when it has been read.
        number: the batch of the text that it is, for messages.
        size: rows that it has at most.
        read: its rows; may be called in any thread.
    """

    position: dict[str, Any]
    epoch: int
    number: int
    size: int
    read: Callable[[], TextRows]


class RowStream(ABC):
    """The rows of some sites in the order of a text, from a position that can be kept.

    Attributes:
        planes: site → D.
        device: where the rows are made.
        limits: site → norm; a token above one of them is left out at all sites.
        concurrent: whether passages may be read in several threads at once.
    """

    planes: Mapping[str, int]
    device: torch.device
    limits: dict[str, float]
    concurrent: bool = True
    name: str
    """What kind of rows they are, for `describe`."""

    @abstractmethod
    def next(self, dtype: torch.dtype) -> Passage:
        """The next passage, not read yet; its rows will be of `dtype`.

        Raises:
            UserError: if the text has ended.
        """

    @abstractmethod
    def position(self) -> dict[str, Any]:
        """Of the next passage: plain JSON values."""

    @abstractmethod
    def seek(self, position: Mapping[str, Any]) -> None:
        """Go to the passage of a position."""


@runtime_checkable
class Pending(Protocol):
    """Rows that are being read."""

    def done(self) -> bool:
        """Whether `result` returns without waiting."""
        ...

    def result(self) -> TextRows:
        """The rows, or the exception that reading them raised."""
        ...


@runtime_checkable
class PassageReader(Protocol):
    """A place where passages are read."""

    @property
    def at_once(self) -> int:
        """Passages that may be under way or waiting to be taken."""
        ...

    @property
    def ahead(self) -> bool:
        """Whether to read the rows of the next fill while those of this one are drawn."""
        ...

    def submit(self, read: Callable[[], TextRows]) -> Pending:
        """Begin to read."""
        ...

    def each(self, work: Callable[[str], None], sites: Iterable[str]) -> None:
        """Do something at once that is the same for every site, where it stops no reading."""
        ...


def in_turn(work: Callable[[Task], None], jobs: Iterable[Task]) -> None:
    """Do one job after the other, in the caller's thread."""
    for job in jobs:
        work(job)


@final
class InTurn:
    """Reads when it is asked to, in the caller's thread."""

    at_once, ahead = 1, False
    each = staticmethod(in_turn)

    def submit(self, read: Callable[[], TextRows]) -> Pending:
        rows: Future[TextRows] = Future()
        rows.set_result(read())
        return rows


@final
class SideStream:
    """Reads on a CUDA stream of its own, beside the caller's kernels; the host waits for neither.

    Rows that are taken make the caller's stream wait for them, not the host.
    """

    at_once, ahead = 2, True
    each = staticmethod(in_turn)

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def submit(self, read: Callable[[], TextRows]) -> Pending:
        with torch.cuda.stream(self._stream):
            rows = read()
        return _OnStream(rows, self._stream.record_event())


@final
@dataclass(frozen=True)
class _OnStream:
    rows: TextRows
    event: torch.cuda.Event

    def done(self) -> bool:
        return bool(self.event.query())

    def result(self) -> TextRows:
        finite = [] if self.rows.finite is None else [self.rows.finite]
        for tensor in (*self.rows.planes.values(), *finite):
            here = torch.cuda.current_stream(tensor.device)
            here.wait_event(self.event)
            tensor.record_stream(here)  # its memory is not given to the next pass before it is read
        return self.rows


@final
class Feed:
    """Takes rows from a stream, and has them read ahead.

    Attributes:
        reading: where passages are read.
        epoch: whole passes over the text that were taken from, at the last passage.
        left_out: tokens left out so far.
    """

    def __init__(self, rows: RowStream, dtype: torch.dtype) -> None:
        self.rows = rows
        self.reading: PassageReader = InTurn()
        self.epoch, self.left_out = 0, 0
        self._dtype = dtype
        self._coming: deque[tuple[Passage, Pending]] = deque()
        self._used = 0  # rows of the first of them that were taken
        self._ended: UserError | None = None
        self._unchecked: list[tuple[int, Tensor]] = []

    def position(self) -> dict[str, Any]:
        """Of the next row that is taken: plain JSON values."""
        place = self._coming[0][0].position if self._coming else self.rows.position()
        return {**place, "used": self._used}

    def seek(self, position: Mapping[str, Any]) -> None:
        """Go to a position; the next row is the one that came next there."""
        place = dict(position)
        self._used = int(place.pop("used"))
        self._coming.clear()
        self._unchecked.clear()
        self._ended = None
        self.rows.seek(place)

    @property
    def ready(self) -> bool:
        """Whether rows can be taken without waiting."""
        return bool(self._coming) and self._coming[0][1].done()

    def ask(self, wanted: int, most: int) -> None:
        """Begin to read until `wanted` rows are on their way, at most about `most` at a time."""
        waiting = sum(passage.size for passage, _ in self._coming) - self._used
        while (
            waiting < min(wanted, most)
            and len(self._coming) < self.reading.at_once
            and self._ended is None
        ):
            try:
                passage = self.rows.next(self._dtype)
            except UserError as error:  # raised when these rows are needed
                self._ended = error
            else:
                self._coming.append((passage, self.reading.submit(passage.read)))
                waiting += passage.size

    def take(self, most: int) -> TextRows:
        """The next rows of a passage, at most so many; waits for them. May be none.

        Raises:
            UserError: if the text has ended.
        """
        self.ask(1, 1)
        if not self._coming:
            assert self._ended is not None
            raise self._ended
        passage, pending = self._coming[0]
        whole = pending.result()
        if not self._used:
            self.left_out += whole.left_out
        if whole.finite is not None:
            self._unchecked.append((passage.number, whole.finite))
        rows = whole.part(self._used, self._used + most)
        self.epoch = passage.epoch
        self._used += len(rows)
        if self._used == len(whole):
            self._coming.popleft()
            self._used = 0
        return rows

    def check(self) -> None:
        """Refuse what was taken since the last check if a passage of it holds NaN or Inf.

        Raises:
            UserError: naming the site and the batch.
        """
        seen, self._unchecked = self._unchecked, []
        every = torch.stack([flags for _, flags in seen]).tolist() if seen else []
        for (number, _), flags in zip(seen, every, strict=True):
            for site, is_finite in zip(self.rows.planes, flags, strict=True):
                if not is_finite:
                    raise UserError(
                        f"activations of {site} hold NaN or Inf in batch {number} of the text; "
                        "nothing was trained on it: run the language model in float32 "
                        "(model.dtype), or leave that text out"
                    )
