"""A Hugging Face dataset too large to hold: read, shuffled and packed as it comes."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from saeforge.config import TextConfig
from saeforge.errors import UserError
from saeforge.lm.documents import documents_of, open_dataset
from saeforge.lm.packing import Packing, TokenBatch, TokenStream, check_identity

Array = npt.NDArray[Any]

BLOCK = 4096
"""Documents read, shuffled and packed together."""


class DatasetStream(TokenStream):
    """Batches of a streaming dataset, a block of documents at a time.

    Only the block's documents on this stream's side of the split are tokenised. With a seed they
    are shuffled by (seed, epoch, block): the order of the whole dataset is its own, as the whole is
    never in memory. The state is where the dataset stood before the current block, how many of
    the block's tokens are used, and the few tokens left over from the blocks before it.

    Args:
        config: the text.
        tokeniser: texts → one array of ids each; has the packing.
        side: which of some texts belong to this stream.
        sequences: B.
        seed: of the shuffling, None for none.
        epochs: None for endless.
        identity: says in the state what text and options it belongs to.
        block: documents per block.
    """

    def __init__(
        self,
        config: TextConfig,
        tokeniser: Callable[[Sequence[str]], list[Array]],
        packing: Packing,
        side: Callable[[Sequence[str]], npt.NDArray[np.bool_]],
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
        self._used: int
        self._rewind()

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

    def _rewind(self) -> None:
        self._epoch = 0
        self._block = 0
        self._number = 0
        self._any = False
        self._used = 0
        self._ids: Array = np.zeros(0, np.int64)
        self._numbers: Array = np.zeros(0, np.int64)
        self._carry: tuple[list[int], list[int]] = ([], [])
        self._open(None)
        self._before = self._position()

    def _open(self, position: Any) -> None:
        self._dataset = open_dataset(self._config)
        if position is not None:
            self._dataset.load_state_dict(position)
        found = documents_of(self._dataset, self._config)
        self._texts: Iterator[str] = (document.text for document in found)

    def _finished(self) -> bool:
        return self._epochs is not None and self._epoch >= self._epochs

    def _position(self) -> dict[str, Any]:
        return {
            "dataset": self._dataset.state_dict(),
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
        texts = list(islice(self._texts, self._block_size))
        if not texts:
            self._start_next_epoch()
            return
        filled = np.array([bool(text.strip()) for text in texts])
        chosen = np.flatnonzero(self._side(texts) & filled)
        rows = self._tokeniser([texts[i] for i in chosen]) if len(chosen) else []
        order = np.arange(len(rows))
        if self._seed is not None:
            key = [self._seed, self._epoch, self._block]
            order = np.random.default_rng(key).permutation(order)
        owners = [np.full(len(rows[i]), self._number + chosen[i]) for i in order]
        self._ids = np.concatenate([self._ids, *(rows[i].astype(np.int64) for i in order)])
        self._numbers = np.concatenate([self._numbers, *owners])
        self._number += len(texts)
        self._block += 1
        self._any = self._any or bool(rows)

    def _start_next_epoch(self) -> None:
        if not self._any:
            raise UserError(
                f"text {self._config.source!r}: a whole pass over the streaming dataset found no "
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
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_identity(state, self._identity)
        before = state["before"]
        self._open(before["dataset"])
        self._epoch, self._block = int(before["epoch"]), int(before["block"])
        self._number, self._any = int(before["number"]), bool(before["any"])
        ids, numbers = state["carry"]
        self._ids, self._numbers = np.array(ids, np.int64), np.array(numbers, np.int64)
        self._used = 0
        if not self._finished():
            self._read_block()
        self._used = int(state["used"])
