"""Documents → token ids, with one BOS where the packing wants it, whatever a text begins with."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from saeworks.errors import UserError, one_line
from saeworks.lm.content import Chat, Content, Ids
from saeworks.lm.loading import quiet
from saeworks.lm.packing import Packing

Array = npt.NDArray[Any]

PIECE = 2**18
"""Characters of a document that are tokenised at a time."""
OVERLAP = 2**12
"""Characters that two pieces of a document have in common."""
_TOGETHER = 2**20  # characters of all documents that are


class Tokeniser:
    """Texts, chats and ids → token ids, without the special tokens that a tokenizer adds by itself.

    BOS goes before each document where the packing says so; a document that begins with its own (as
    text made with a chat template does), alone or among other special tokens, gets no second one.
    A BOS at the end, as EOS and separators are in some vocabularies, is left out, since the next
    document brings its own; several in a row become one. `bos: context` takes it from the
    document's beginning, too. `bos: none` leaves a document as it is.

    A long text is tokenised in pieces that overlap, and joined in the middle of what both pieces
    tokenise alike: so it has the tokens that it has as a whole. Where that is less than half of the
    overlap (thousands of times one letter, say) the text is cut where the first piece ends.

    Args:
        lm_tokenizer: the model's Hugging Face tokenizer.
        where: what the text is, for messages.
    """

    def __init__(self, lm_tokenizer: Any, packing: Packing, where: str) -> None:
        self.packing = packing
        self._tokenizer, self._where = lm_tokenizer, where
        self._size = len(lm_tokenizer)
        self.dtype = np.dtype(np.uint16 if self._size <= 2**16 else np.uint32)
        self._fast: Any = getattr(lm_tokenizer, "backend_tokenizer", None)
        if self._fast is not None:  # a tokenizer.json may ask for either
            self._fast.no_truncation()
            self._fast.no_padding()
        self._special = _special_ids(lm_tokenizer)
        self._blank: dict[int, bool] = {}

    def __call__(self, texts: Sequence[Content]) -> list[Array]:
        """One array of ids per document.

        Raises:
            UserError: if an id is not of the vocabulary, there is no chat template or it refuses a
                chat, or a text cannot be tokenised.
        """
        rows: list[Array] = [np.zeros(0, self.dtype)] * len(texts)
        short: list[tuple[int, str]] = []
        for place, content in enumerate(texts):
            text = self._render(content) if isinstance(content, list) else content
            if not isinstance(text, str):
                rows[place] = self._checked(text).astype(self.dtype)
            elif len(text) > PIECE:
                rows[place] = self._long(text)
            else:
                short.append((place, text))
        for batch in _batches(short):
            encoded = self._encode([text for _, text in batch])
            for (place, _), row in zip(batch, encoded, strict=True):
                rows[place] = np.array(row, self.dtype)
        return [self._with_bos(row) for row in rows]

    def _render(self, chat: Chat) -> str:
        if not getattr(self._tokenizer, "chat_template", None):
            raise UserError(
                f"{self._where} holds chats, and the model's tokenizer has no chat template to "
                "write them with; choose a model that has one, or write them as text and name that "
                "column with text.column"
            )
        try:
            return str(self._tokenizer.apply_chat_template(chat, tokenize=False))
        except Exception as error:  # a template is a program from outside
            roles = ", ".join(str(message["role"]) for message in chat[:4])
            raise UserError(
                f"{self._where}: the tokenizer's chat template does not take a chat of {roles}…: "
                f"{one_line(error)}; mend or leave out such chats"
            ) from None

    def _checked(self, ids: Ids) -> Ids:
        """Ids of the vocabulary, without padding at either end."""
        wrong = ids[(ids < 0) | (ids >= self._size)]
        if len(wrong):
            raise UserError(
                f"{self._where} holds the token id {wrong[0]}, and the model's tokenizer has ids 0 "
                f"to {self._size - 1}; give text that was tokenised for this model"
            )
        pad = getattr(self._tokenizer, "pad_token_id", None)
        ends = (self.packing.bos_id, getattr(self._tokenizer, "eos_token_id", None))
        filled = np.flatnonzero(ids != pad) if pad is not None else np.arange(len(ids))
        if not len(filled):
            return ids[:0]
        first, last = int(filled[0]), int(filled[-1]) + 1
        if pad in ends:  # padding with a token that also means something: one of them does
            first, last = max(0, first - 1), min(len(ids), last + 1)
        return ids[first:last]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        try:
            if self._fast is not None:
                encodings = self._fast.encode_batch_fast(texts, add_special_tokens=False)
                return [encoding.ids for encoding in encodings]
            with quiet():  # it warns of texts longer than the model's context: they are packed
                ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False).input_ids
            return ids
        except Exception as error:  # a tokenizer is data from outside
            raise UserError(
                f"{self._where} cannot be tokenised by the model's tokenizer: {one_line(error)}"
            ) from None

    def _long(self, text: str) -> Array:
        """The ids of a long text, piece by piece."""
        ids, done, end = self._piece(text, 0, PIECE), 0, PIECE
        parts = []
        while end < len(text):
            begin, after_end = end - OVERLAP, end - OVERLAP + PIECE
            after = self._piece(text, begin, after_end)
            border = _meeting(ids, after, len(self._piece(text, begin, end)))
            if border is None:
                border, after = (len(ids), 0), self._piece(text, end, after_end)
            parts.append(ids[done : border[0]])
            ids, done, end = after, border[1], after_end
        return np.concatenate([*parts, ids[done:]])

    def _piece(self, text: str, begin: int, end: int) -> Array:
        return np.array(self._encode([text[begin:end]])[0], self.dtype)

    def _with_bos(self, row: Array) -> Array:
        """BOS put in where the packing wants it and taken out where it does not."""
        bos, where = self.packing.bos_id, self.packing.bos
        if where == "none" or bos is None or not len(row):
            return row
        is_bos = row == bos
        if is_bos.any():
            last = 1 + max(np.flatnonzero(is_bos[: self._lead(row)]), default=-1)
            lead = [t for t in row[:last].tolist() if t == bos or t in self._special]
            rest = row[last:]
            again = np.zeros(len(rest), bool)
            again[1:] = (rest[1:] == bos) & (rest[:-1] == bos)
            rest = rest[~again]
            rest = rest[:-1] if len(rest) and rest[-1] == bos else rest
            if not len(rest):
                return rest
            if last:
                place = lead.index(bos)
                others = [t for t in lead if t != bos]
                start = [bos] if where == "document" else []
                lead = [*others[:place], *start, *others[place:]]
                return np.concatenate([np.array(lead, row.dtype), rest])
            row = rest
        start = [bos] if where == "document" else []
        return np.concatenate([np.array(start, row.dtype), row])

    def _lead(self, row: Array) -> int:
        """How many special and white-space tokens the row begins with."""
        for place, token in enumerate(row.tolist()):
            if token not in self._special and not self._is_blank(token):
                return place
        return len(row)

    def _is_blank(self, token: int) -> bool:
        if token not in self._blank:
            self._blank[token] = not self._tokenizer.decode([token]).strip()
        return self._blank[token]


def _special_ids(lm_tokenizer: Any) -> frozenset[int]:
    """Tokens that stand for no text; not the one for what is unknown, nor padding."""
    special = set(getattr(lm_tokenizer, "all_special_ids", ()))
    added = getattr(lm_tokenizer, "added_tokens_decoder", {})
    special |= {token for token, about in added.items() if about.special}
    keep = {getattr(lm_tokenizer, name, None) for name in ("bos_token_id", "eos_token_id")}
    drop = {getattr(lm_tokenizer, name, None) for name in ("unk_token_id", "pad_token_id")}
    return frozenset(special - (drop - keep))


def _batches(texts: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    characters = 0
    for place, text in texts:
        batch.append((place, text))
        characters += len(text)
        if characters >= _TOGETHER:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _meeting(ids: Array, after: Array, common: int) -> tuple[int, int] | None:
    """Where to leave the tokens of one piece and go on in those of the next: the middle of the
    longest stretch that is the same in both.

    The stretch that two pieces share, tokenised alone, begins as the second and ends as the first:
    so its number of tokens says which token of one is which of the other. The places in the text
    that tokenizers give with their tokens would say it, too, but several drift.

    Args:
        common: tokens of the stretch alone.

    Returns:
        The first token of the first piece that is left out, and that of the second that follows;
        None if not even half of the stretch is the same.
    """
    if not 0 < common <= min(len(ids), len(after)):
        return None
    same = np.concatenate([[False], ids[-common:] == after[:common], [False]])
    ends = np.flatnonzero(same[1:] != same[:-1])
    if not len(ends):
        return None
    longest = int((ends[1::2] - ends[::2]).argmax())
    start, stop = int(ends[2 * longest]), int(ends[2 * longest + 1])
    middle = (start + stop) // 2
    return None if 2 * (stop - start) < common else (len(ids) - common + middle, middle)
