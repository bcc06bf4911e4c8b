"""Token streams: documents packed end to end into sequences, resumable at any batch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saeworks.errors import UserError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TokenBatch:
    """B packed sequences of T tokens.

    Attributes:
        tokens: token ids.
        document: number of each token's document (in the source's order, those without any token
            not counted); −1 for padding.
        position: place in the sequence, 0 … T−1.
        keep: positions to train and evaluate on (BOS, padding and the first n left out).
    """

    tokens: Int[Tensor, "B T"]
    document: Int[Tensor, "B T"]
    position: Int[Tensor, "B T"]
    keep: Bool[Tensor, "B T"]


@dataclass(frozen=True)
class Packing:
    """How tokens become sequences.

    Documents follow one another without a gap and may cross the borders of sequences; with BOS at
    the start of each context a sequence holds that and `context` − 1 tokens of text.

    Attributes:
        context: T, tokens per sequence.
        bos: where BOS goes.
        bos_id: its id, None if the tokenizer has none.
        pad_id: fills the one sequence at the end of a finite stream.
        exclude_bos: leave BOS out of `keep`.
        exclude_first: leave the first n positions of each sequence out of `keep`.
    """

    context: int
    bos: str
    bos_id: int | None
    pad_id: int
    exclude_bos: bool
    exclude_first: int

    @property
    def step(self) -> int:
        """Tokens of text (BOS of documents among them) in one sequence."""
        return self.context - 1 if self.bos == "context" else self.context

    def batch(self, tokens: Array, document: Array) -> TokenBatch:
        """Sequences from consecutive tokens; the last one is padded."""
        rows = -(-len(tokens) // self.step)
        fill = rows * self.step - len(tokens)
        tokens_BT = np.pad(tokens.astype(np.int64), (0, fill), constant_values=self.pad_id)
        document_BT = np.pad(document.astype(np.int64), (0, fill), constant_values=-1)
        tokens_BT, document_BT = tokens_BT.reshape(rows, -1), document_BT.reshape(rows, -1)
        if self.bos == "context":
            tokens_BT = np.pad(tokens_BT, ((0, 0), (1, 0)), constant_values=self.bos_id or 0)
            document_BT = np.pad(document_BT, ((0, 0), (1, 0)), mode="edge")
        position_BT = np.broadcast_to(np.arange(self.context), tokens_BT.shape)
        keep_BT = (document_BT >= 0) & (position_BT >= self.exclude_first)
        if self.exclude_bos and self.bos_id is not None:
            keep_BT &= tokens_BT != self.bos_id
        return TokenBatch(
            torch.from_numpy(tokens_BT),
            torch.from_numpy(document_BT),
            torch.from_numpy(position_BT.copy()),
            torch.from_numpy(keep_BT),
        )


@dataclass(frozen=True)
class Documents:
    """Some of the tokenised documents that lie one behind the other in one array.

    Attributes:
        tokens: of all documents, also those that are not among these; 16 or 32 bits each, BOS of
            each document included where it has one.
        start: where each document starts in `tokens`.
        length: its tokens.
        number: each document's number (see `TokenBatch`).
    """

    tokens: Array
    start: Array
    length: Array
    number: Array

    def __len__(self) -> int:
        return len(self.number)

    @cached_property
    def total(self) -> int:
        """Tokens of these documents."""
        return int(self.length.sum())

    def take(self, order: Array, ends: Array, first: int, count: int) -> tuple[Array, Array]:
        """`count` tokens from `first` on, and their documents' numbers, in a given order.

        Args:
            order: documents in the order in which they follow one another.
            ends: cumulative sum of their lengths in that order.
        """
        place = np.arange(first, first + count)
        rank = np.searchsorted(ends, place, side="right")
        chosen = order[rank]
        inside = place - ends[rank] + self.length[chosen]
        return self.tokens[self.start[chosen] + inside], self.number[chosen]


class TokenStream(ABC, Iterator[TokenBatch]):
    """An iterator of batches whose exact position can be saved and taken up again."""

    def __iter__(self) -> Self:
        return self

    @property
    @abstractmethod
    def epoch(self) -> int:
        """How many times the documents have been gone through."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The position, JSON-able: a fresh stream that loads it continues with the same batches."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            UserError: if it belongs to a stream of other text or options.
        """


class PackedStream(TokenStream):
    """Batches of documents in memory.

    The epochs lie end to end on one line of tokens, the last partial sequence of one running into
    the next, so a batch is a function of the number of sequences before it: that number is the
    whole state. In epoch e the documents follow the permutation drawn from (seed, e); without a
    seed they follow their own order. A stream of finite epochs ends with a padded sequence, and
    perhaps a smaller batch.

    Args:
        documents: at least one.
        packing: how tokens become sequences.
        sequences: B.
        seed: of the reshuffling, None for none.
        epochs: None for endless.
        identity: says in the state what text and options it belongs to.
    """

    def __init__(
        self,
        documents: Documents,
        packing: Packing,
        sequences: int,
        *,
        seed: int | None,
        epochs: int | None,
        identity: str,
    ) -> None:
        self._documents = documents
        self._packing = packing
        self._sequences = sequences
        self._seed = seed
        self._epochs = epochs
        self._identity = identity
        self._done = 0
        self._arranged: tuple[int, Array, Array] | None = None

    @property
    def epoch(self) -> int:
        return self._done * self._packing.step // self._documents.total

    def __next__(self) -> TokenBatch:
        per_epoch = self._documents.total
        place = self._done * self._packing.step
        wanted = self._sequences * self._packing.step
        if self._epochs is not None:
            wanted = min(wanted, self._epochs * per_epoch - place)
        if wanted <= 0:
            raise StopIteration
        parts = []
        while wanted:
            epoch, first = divmod(place, per_epoch)
            count = min(wanted, per_epoch - first)
            order, ends = self._arrange(epoch)
            parts.append(self._documents.take(order, ends, first, count))
            place, wanted = place + count, wanted - count
        tokens, document = (np.concatenate(column) for column in zip(*parts, strict=True))
        batch = self._packing.batch(tokens, document)
        self._done += len(batch.tokens)
        return batch

    def _arrange(self, epoch: int) -> tuple[Array, Array]:
        if self._arranged is None or self._arranged[0] != epoch:
            order = np.arange(len(self._documents))
            if self._seed is not None:
                order = np.random.default_rng([self._seed, epoch]).permutation(order)
            ends = self._documents.length[order].cumsum()
            self._arranged = epoch, order, ends
        return self._arranged[1:]

    def state_dict(self) -> dict[str, Any]:
        return {"identity": self._identity, "sequences": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_identity(state, self._identity)
        self._done = int(state["sequences"])


def check_identity(state: dict[str, Any], identity: str) -> None:
    """Refuse a state that another text, split, seed or packing wrote.

    Raises:
        UserError: if it did.
    """
    if state.get("identity") != identity:
        raise UserError(
            "the saved position in the text belongs to another text, seed or context; "
            "use the same text options as before, or another --out"
        )
