"""Text → tokenised documents, split by a hash of their text → streams of packed tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from saeforge.config import TextConfig
from saeforge.errors import UserError
from saeforge.lm.documents import check_label, documents, is_dataset
from saeforge.lm.loading import quiet
from saeforge.lm.packing import Documents, PackedStream, Packing, TokenBatch, TokenStream
from saeforge.lm.streaming import DatasetStream

__all__ = ["Corpus", "TokenBatch", "TokenStream", "Tokeniser", "held_out_mask", "text_keys"]

Split = Literal["train", "held_out"]
Array = npt.NDArray[Any]

_AT_ONCE = 1000
"""Documents tokenised together."""


class Corpus:
    """The documents of a `TextConfig`, tokenised and split.

    A document is held out if the BLAKE2b hash of its text, as a fraction of 2⁶⁴, is below
    `held_out`; so duplicates fall on the same side, a document stays on its side whatever else is
    in the source, and the splits are disjoint (asserted). Where the hash leaves a side without
    any document, the distinct text with the lowest (or highest) hash goes there: with two distinct
    documents or more, neither side is ever empty.

    Everything is tokenised at once and kept in memory, 2 or 4 bytes per token, unless the text is
    a Hugging Face dataset with `streaming` and without `max_documents`, which is read as it comes
    (`saeforge.lm.streaming`).

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
        self._tokeniser = Tokeniser(lm_tokenizer, self.packing)
        self.streaming = config.streaming and config.max_documents is None and is_dataset(config)
        self._splits: dict[Split, Documents] = {}
        self._digest = "streaming"
        self.labels: Labels | None = None
        """Of all documents, where the configuration asks for labels."""
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
            return DatasetStream(
                self.config,
                self._tokeniser,
                self.packing,
                lambda texts: _side(text_keys(texts), self.config.held_out, split),
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
            "tokens": {s: None if d is None else len(d.tokens) for s, d in known.items()},
            "context": self.packing.context,
            "bos": self.packing.bos,
        }

    def _identity(self, split: Split) -> str:
        parts: tuple[object, ...] = (self._digest, split, self.seed, self.config, self.packing)
        parts += () if self.labels is None else (self.labels.names, self.labels.number.tobytes())
        return blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def _read(self) -> None:
        found = documents(self.config, self.seed)
        ids: list[Array] = []
        keys: list[Array] = []
        labels: list[str] = []
        while chunk := list(islice(found, _AT_ONCE)):
            texts = [document.text for document in chunk]
            rows = self._tokeniser(texts)
            filled = np.array([len(row) > 0 for row in rows])
            ids.extend(row for row in rows if len(row))
            keys.append(text_keys(texts)[filled])
            known = [document.label for document, row in zip(chunk, rows, strict=True) if len(row)]
            labels.extend(label for label in known if label is not None)
        key = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
        if len(key) == 0:
            raise UserError(f"text {self.config.source!r} holds no documents: it is empty")
        self.labels = Labels.of(labels) if self.config.label else None
        held_out = held_out_mask(key, self.config)
        _assert_disjoint(key, held_out)
        order = np.argsort(key, kind="stable")
        self._digest = blake2b(key.tobytes(), digest_size=8).hexdigest()
        self._splits = {
            "train": _join(ids, np.flatnonzero(~held_out)),
            "held_out": _join(ids, order[held_out[order]]),
        }
        if self.config.held_out < 1:
            self._check_length()

    def _check_length(self) -> None:
        tokens = len(self._splits["train"].tokens)
        if tokens < self.packing.step:
            raise UserError(
                f"text {self.config.source!r} has only {tokens} tokens to train on, shorter than "
                f"one context of {self.packing.context}; give more text or a shorter text.context"
            )


@dataclass(frozen=True)
class Labels:
    """The documents' labels.

    Attributes:
        names: each once, in order (of number where all are whole numbers).
        number: by document, as `TokenBatch` numbers them: the place of its label in `names`.
    """

    names: tuple[str, ...]
    number: npt.NDArray[np.int64]

    @classmethod
    def of(cls, labels: Sequence[str]) -> "Labels":
        """From a label per document."""
        whole = all(re.fullmatch(r"-?\d+", label) for label in labels)
        names = sorted(set(labels), key=int if whole else None)
        place = {name: at for at, name in enumerate(names)}
        return cls(tuple(names), np.array([place[label] for label in labels], np.int64))


class Tokeniser:
    """Texts → token ids, without the special tokens that a tokenizer adds by itself.

    BOS goes before each document where the packing says so, and nowhere else.
    """

    def __init__(self, lm_tokenizer: Any, packing: Packing) -> None:
        self.packing = packing
        self._tokenizer = lm_tokenizer
        self._dtype = np.uint16 if len(lm_tokenizer) <= 2**16 else np.uint32
        self._fast = getattr(lm_tokenizer, "backend_tokenizer", None)
        if self._fast is not None:  # a tokenizer.json may ask for either
            self._fast.no_truncation()
            self._fast.no_padding()

    def __call__(self, texts: Sequence[str]) -> list[Array]:
        """One array of ids per text."""
        if self._fast is not None:
            encoded = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
            rows = [encoding.ids for encoding in encoded]
        else:
            with quiet():  # it warns of texts longer than the model's context: they are packed
                rows = self._tokenizer(list(texts), add_special_tokens=False).input_ids
        start = [self.packing.bos_id] if self.packing.bos == "document" else []
        return [np.array(start + row if row else [], self._dtype) for row in rows]


def text_keys(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """The 64-bit BLAKE2b hash of each text, without white space at its ends."""
    digests = (blake2b(text.strip().encode("utf-8", "replace"), digest_size=8) for text in texts)
    return np.frombuffer(b"".join(digest.digest() for digest in digests), np.dtype("<u8"))


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
            f"split into train and held out; documents of a .txt file are separated by lines "
            f"{config.separator!r} (choose another with text.separator; '' for blank lines)"
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


def _join(ids: list[Array], chosen: Array) -> Documents:
    rows = [ids[number] for number in chosen]
    start = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=start[1:])
    tokens = np.concatenate(rows) if rows else np.zeros(0, np.uint32)
    return Documents(tokens, start, chosen.astype(np.int64))


def _packing(
    config: TextConfig, lm_tokenizer: Any, bos_id: int | None, max_context: int
) -> Packing:
    if not 2 <= config.context <= max_context:
        raise UserError(
            f"text.context = {config.context}: the model takes sequences of 2 to {max_context} "
            "tokens"
        )
    if not 0 <= config.exclude_first < config.context:
        raise UserError(
            f"text.exclude_first = {config.exclude_first}: at least 0 and less than text.context "
            f"({config.context}), or no position is left"
        )
    if not 0 < config.held_out <= 1:
        raise UserError(
            f"text.held_out = {config.held_out}: a share above 0, at most 1 (all of it)"
        )
    if config.max_documents is not None and config.max_documents < 2:
        raise UserError(f"text.max_documents = {config.max_documents}: at least 2 are needed")
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
