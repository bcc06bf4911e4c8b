"""Text → tokenised documents, split by a hash of their text → streams of packed tokens."""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from saeworks.config import TextConfig
from saeworks.errors import UserError
from saeworks.lm.content import keys
from saeworks.lm.documents import check_label, documents, is_streamed
from saeworks.lm.packing import (
    Documents,
    PackedStream,
    Packing,
    TokenBatch,
    TokenStream,
)
from saeworks.lm.streaming import BlockStream, blocks
from saeworks.lm.tokenise import Tokeniser

__all__ = ["Corpus", "TokenBatch", "TokenStream", "held_out_mask"]

Split = Literal["train", "held_out"]
Array = npt.NDArray[Any]

_DOCUMENTS, _CHARACTERS = 1000, 2**20  # read and tokenised together


class Corpus:
    """The documents of a `TextConfig`, tokenised and split.

    A document is held out if the BLAKE2b hash of its text, as a fraction of 2⁶⁴, is below
    `held_out`; so duplicates fall on the same side, a document stays on its side whatever else is
    in the source, and the splits are disjoint (asserted). Where the hash leaves a side without
    any document, the distinct text with the lowest (or highest) hash goes there: with two distinct
    documents or more, neither side is ever empty.

    Everything is tokenised at once and kept in memory, 2 or 4 bytes per token and 24 per document,
    unless the text is one with `streaming` and without `max_documents`, which is read as it comes
    (`saeworks.lm.streaming`). Either way only a part of the text itself is in memory at a time, and
    never less than one document.

    Args:
        config: the text and its packing.
        lm_tokenizer: the model's Hugging Face tokenizer.
        bos_id: its BOS token, or None.
        max_context: the longest sequence the model takes.
        seed: of the reshuffling of the training documents, and of the embedded grammar.

    Raises:
        UserError: if an option is out of range, the text cannot be read, has fewer than two
            distinct documents, or its training part is shorter than one context.
    """

    def __init__(
        self,
        config: TextConfig,
        lm_tokenizer: Any,
        *,
        bos_id: int | None,
        max_context: int,
        seed: int,
    ) -> None:
        self.config = config
        self.seed = seed
        self.packing = _packing(config, lm_tokenizer, bos_id, max_context)
        self._tokeniser = Tokeniser(lm_tokenizer, self.packing, f"text {config.source!r}")
        self.streaming = is_streamed(config)
        self._splits: dict[Split, Documents] = {}
        self._digest = "streaming"
        self.labels: CorpusLabels | None = None
        """The labels of all documents; None unless the configuration asks for them."""
        check_label(config)
        if not self.streaming:
            self._read()

    def stream(self, split: Split, sequences: int, *, epochs: int | None = None) -> TokenStream:
        """A stream of batches of `sequences` packed sequences.

        `train` is endless unless `epochs` is given, and reshuffles its documents every epoch by
        (seed, epoch). `held_out` goes through its documents once unless `epochs` is given, always
        in the same order, that of their hash, so that any first part of it is a fair sample.
        """
        if sequences < 1:
            raise UserError(f"{sequences} sequences per batch; at least 1 is needed")
        if split == "train" and self.config.held_out == 1:
            raise UserError("text.held_out = 1 leaves nothing to train on; lower it, as to 0.05")
        if split == "held_out" and epochs is None:
            epochs = 1
        seed = self.seed if split == "train" else None
        identity = self._identity(split)
        if self.streaming:
            return BlockStream(
                self.config,
                self._tokeniser,
                self.packing,
                lambda key: _side(key, self.config.held_out, split),
                sequences,
                seed=seed,
                epochs=epochs,
                identity=identity,
            )
        return PackedStream(
            self._splits[split],
            self.packing,
            sequences,
            seed=seed,
            epochs=epochs,
            identity=identity,
        )

    def describe(self) -> dict[str, Any]:
        """Documents and tokens (BOS included) of each split (None where streaming); packing."""
        splits: tuple[Split, ...] = ("train", "held_out")
        known = {split: self._splits.get(split) for split in splits}
        return {
            "source": self.config.source,
            "documents": {s: None if d is None else len(d) for s, d in known.items()},
            "tokens": {s: None if d is None else d.total for s, d in known.items()},
            "context": self.packing.context,
            "bos": self.packing.bos,
        }

    def _identity(self, split: Split) -> str:
        parts: tuple[object, ...] = (self._digest, split, self.seed, self.config, self.packing)
        parts += () if self.labels is None else (self.labels.names, self.labels.number.tobytes())
        return blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def _read(self) -> None:
        tokens = array("H" if self._tokeniser.dtype.itemsize == 2 else "I")
        lengths, key = array("q"), array("Q")
        labels: list[str] = []
        source = documents(self.config, self.seed)
        for block in blocks(source, _DOCUMENTS, _CHARACTERS):
            texts = [document.text for document in block]
            for document, number, row in zip(
                block, keys(texts), self._tokeniser(texts), strict=True
            ):
                if len(row):
                    tokens.frombytes(row.tobytes())
                    lengths.append(len(row))
                    key.append(int(number))
                    labels += () if document.label is None else (document.label,)
        if not lengths:
            raise UserError(f"text {self.config.source!r} holds no documents: it is empty")
        self.labels = CorpusLabels.of(labels) if self.config.label else None
        self._split(
            np.frombuffer(tokens, self._tokeniser.dtype),
            np.frombuffer(lengths, np.int64),
            np.frombuffer(key, np.uint64),
        )
        if self.config.held_out < 1:
            self._check_length()

    def _split(self, tokens: Array, lengths: Array, key: npt.NDArray[np.uint64]) -> None:
        held_out = held_out_mask(key, self.config)
        _assert_disjoint(key, held_out)
        self._digest = blake2b(key.tobytes(), digest_size=8).hexdigest()
        start = np.cumsum(lengths) - lengths
        order = np.argsort(key, kind="stable")
        chosen: dict[Split, Array] = {
            "train": np.flatnonzero(~held_out),
            "held_out": order[held_out[order]],
        }
        self._splits = {
            split: Documents(tokens, start[number], lengths[number], number)
            for split, number in chosen.items()
        }

    def _check_length(self) -> None:
        tokens = self._splits["train"].total
        if tokens < self.packing.step:
            raise UserError(
                f"text {self.config.source!r} has only {tokens} tokens to train on, shorter than "
                f"one context of {self.packing.context}; give more text or a shorter text.context"
            )


@dataclass(frozen=True)
class CorpusLabels:
    """The documents' labels.

    Attributes:
        names: each once, in order (of number where all are whole numbers).
        number: by document, as `TokenBatch` numbers them: the place of its label in `names`.
    """

    names: tuple[str, ...]
    number: npt.NDArray[np.int64]

    @classmethod
    def of(cls, labels: Sequence[str]) -> "CorpusLabels":
        """From a label per document."""
        whole = all(re.fullmatch(r"-?\d+", label) for label in labels)
        names = sorted(set(labels), key=int if whole else None)
        place = {name: at for at, name in enumerate(names)}
        return cls(tuple(names), np.array([place[label] for label in labels], np.int64))


def held_out_mask(key: npt.NDArray[np.uint64], config: TextConfig) -> npt.NDArray[np.bool_]:
    """Which documents are held out; with two distinct texts or more, some and not all.

    Raises:
        UserError: if there is only one distinct text.
    """
    if config.held_out == 1:
        return np.ones(len(key), np.bool_)
    if key.min() == key.max():
        raise UserError(
            f"text {config.source!r} is a single document (or copies of one), which cannot be "
            f"split into train and held out; documents of a .txt file are separated by lines that "
            f"hold {config.separator!r} alone (choose another with text.separator; '' for blank "
            "lines)"
        )
    mask = _side(key, config.held_out, "held_out")
    if not mask.any():
        mask = key == key.min()
    if mask.all():
        mask = key != key.max()
    return mask


def _side(key: npt.NDArray[np.uint64], share: float, split: Split) -> npt.NDArray[np.bool_]:
    held_out = key <= np.uint64(max(0, int(share * 2**64) - 1))
    return held_out if split == "held_out" else ~held_out


def _assert_disjoint(key: npt.NDArray[np.uint64], held_out: npt.NDArray[np.bool_]) -> None:
    common = np.intersect1d(key[held_out], key[~held_out])
    if len(common):
        raise AssertionError(f"{len(common)} texts are both in train and held out")


def _packing(
    config: TextConfig, lm_tokenizer: Any, bos_id: int | None, max_context: int
) -> Packing:
    if config.context > max_context:
        raise UserError(
            f"text.context = {config.context}: the model takes sequences of at most {max_context} "
            "tokens"
        )
    bos = config.bos
    if bos == "auto":
        bos = "none" if bos_id is None else "document"
    elif bos != "none" and bos_id is None:
        raise UserError(f"text.bos = {bos!r}: the model's tokenizer has no BOS token; use 'none'")
    pad_id = getattr(lm_tokenizer, "pad_token_id", None)
    return Packing(
        context=config.context,
        bos=bos,
        bos_id=bos_id,
        pad_id=pad_id if pad_id is not None else bos_id or 0,
        exclude_bos=config.exclude_bos,
        exclude_first=config.exclude_first,
    )
