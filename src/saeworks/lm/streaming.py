"""Text too large to hold: read, shuffled and packed as it comes."""

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from saeworks.config import TextConfig
from saeworks.errors import UserError
from saeworks.lm.content import (
    Content,
    Document,
    is_empty,
    keys,
    size,
)
from saeworks.lm.documents import open_source
from saeworks.lm.packing import (
    Packing,
    TokenBatch,
    TokenStream,
    check_identity,
)

Array = npt.NDArray[Any]

BLOCK, CHARACTERS = 4096, 2**24
"""Documents, or about so many characters of them, that are read, shuffled and packed together."""


def blocks(source: Iterator[Document], documents: int, characters: int) -> Iterator[list[Document]]:
    """Documents put together until there are so many, or so many characters of them."""
    block: list[Document] = []
    total = 0
    for document in source:
        block.append(document)
        total += size(document.text)
        if len(block) >= documents or total >= characters:
            yield block
            block, total = [], 0
    if block:
        yield block


class BlockStream(TokenStream):
    """Batches of a file, folder or dataset, a block of documents at a time.

    Only the block's documents on this stream's side of the split are tokenised. With a seed they
    are shuffled by (seed, epoch, block): the order of the whole text is its own, as the whole is
    never in memory. The state is where the source stood before the current block, a hash of the
    block, how many of its tokens are used, and the few tokens left over from the blocks before it.

    Args:
        config: the text.
        tokeniser: documents → one array of ids each; has the packing.
        side: which of some documents, by their hashes, belong to this stream.
        sequences: B.
        seed: of the shuffling, None for none.
        epochs: None for endless.
        identity: says in the state what text and options it belongs to.
        block: documents per block.
    """

    def __init__(
        self,
        config: TextConfig,
        tokeniser: Callable[[Sequence[Content]], list[Array]],
        packing: Packing,
        side: Callable[[npt.NDArray[np.uint64]], npt.NDArray[np.bool_]],
        sequences: int,
        *,
        seed: int | None,
        epochs: int | None,
        identity: str,
        block: int = BLOCK,
    ) -> None:
        self._config = config
        self._tokeniser = tokeniser
        self._packing = packing
        self._side = side
        self._sequences = sequences
        self._seed = seed
        self._epochs = epochs
        self._identity = identity
        self._block_size = block
        self._epoch = self._block = self._number = self._used = 0
        self._any = False
        self._ids: Array = np.zeros(0, np.int64)
        self._numbers: Array = np.zeros(0, np.int64)
        self._carry: tuple[list[int], list[int]] = ([], [])
        self._digest: str | None = None
        self._open(None)
        self._before = self._position()

    @property
    def epoch(self) -> int:
        return self._epoch

    def __next__(self) -> TokenBatch:
        wanted = self._sequences * self._packing.step
        while len(self._ids) - self._used < wanted and not self._finished():
            self._read_block()
        chosen = slice(self._used, self._used + wanted)
        if len(self._ids) == self._used:
            raise StopIteration
        batch = self._packing.batch(self._ids[chosen], self._numbers[chosen])
        self._used = min(self._used + wanted, len(self._ids))
        return batch

    def _open(self, position: Any) -> None:
        self._source = open_source(self._config, position)

    def _finished(self) -> bool:
        return self._epochs is not None and self._epoch >= self._epochs

    def _position(self) -> dict[str, Any]:
        return {
            "source": self._source.position(),
            "epoch": self._epoch,
            "block": self._block,
            "number": self._number,
            "any": self._any,
        }

    def _read_block(self) -> None:
        """Put the next block's tokens behind those left over, or start the next epoch.

        Raises:
            UserError: if a whole epoch had nothing for this side of the split.
        """
        self._before = self._position()
        self._ids, self._numbers = self._ids[self._used :], self._numbers[self._used :]
        self._used = 0
        self._carry = (self._ids.tolist(), self._numbers.tolist())
        block = next(blocks(self._source, self._block_size, CHARACTERS), [])
        texts = [document.text for document in block]
        key = keys(texts)
        self._digest = blake2b(key.tobytes(), digest_size=8).hexdigest()
        if not texts:
            self._start_next_epoch()
            return
        filled = np.array([not is_empty(text) for text in texts])
        chosen = np.flatnonzero(self._side(key) & filled)
        rows = self._tokeniser([texts[i] for i in chosen]) if len(chosen) else []
        order = np.arange(len(rows))
        if self._seed is not None:
            drawn = np.random.default_rng([self._seed, self._epoch, self._block])
            order = drawn.permutation(order)
        owners = [np.full(len(rows[i]), self._number + chosen[i]) for i in order]
        self._ids = np.concatenate([self._ids, *(rows[i].astype(np.int64) for i in order)])
        self._numbers = np.concatenate([self._numbers, *owners])
        self._number += len(texts)
        self._block += 1
        self._any = self._any or any(len(row) for row in rows)

    def _start_next_epoch(self) -> None:
        if not self._any:
            raise UserError(
                f"text {self._config.source!r}: a whole pass over the streamed text found no "
                "document for this side of the split; give more text, set text.max_documents, or "
                "another text.held_out"
            )
        self._epoch, self._block, self._number, self._any = self._epoch + 1, 0, 0, False
        self._open(None)

    def state_dict(self) -> dict[str, Any]:
        return {
            "identity": self._identity,
            "before": self._before,
            "carry": [list(part) for part in self._carry],
            "used": self._used,
            "digest": self._digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_identity(state, self._identity)
        before, digest = state["before"], state["digest"]
        self._open(before["source"])
        self._epoch, self._block = int(before["epoch"]), int(before["block"])
        self._number, self._any = int(before["number"]), bool(before["any"])
        ids, numbers = state["carry"]
        self._ids, self._numbers = np.array(ids, np.int64), np.array(numbers, np.int64)
        self._used = 0
        self._before, self._digest = before, None
        if digest is not None:
            self._read_block()
            if self._digest != digest:
                raise UserError(
                    f"text {self._config.source!r} is not what it was at the checkpoint: other "
                    "documents stand where the run was; restore the text, or train anew with "
                    "another --out"
                )
        self._used = int(state["used"])
