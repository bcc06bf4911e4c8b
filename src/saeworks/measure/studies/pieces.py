"""A token's text as a reader expects it: with its space, whatever the kind of tokenizer."""

from collections.abc import Sequence
from typing import Any

_BROKEN = "�"
_PART = "◌"
"""Stands for a token that holds only some bytes of a character; the character is shown at the
token that completes it."""
_LONGEST_CHARACTER = 4
"""Bytes of a UTF-8 character, so tokens it may be cut into."""


class Pieces:
    """Strings of single tokens, kept once computed.

    Decoding a token alone loses its space with SentencePiece and word-level tokenizers, so it is
    decoded behind an ordinary token whose text is then taken off. Text is raw: not escaped.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[int, str] = {}
        self._anchor: list[int] = self._find_anchor()
        self._anchor_text = self._decode(self._anchor) if self._anchor else ""

    def _find_anchor(self) -> list[int]:
        for text in ("a", "the", "."):
            ids = list(self.tokenizer.encode(text, add_special_tokens=False))
            if ids and self._decode(ids[-1:]).strip():
                return ids[-1:]
        return []

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def piece(self, token: int) -> str:
        """The text of one token."""
        if token not in self._known:
            text = self._decode([*self._anchor, token])
            if text.startswith(self._anchor_text):
                text = text[len(self._anchor_text) :]
            else:
                text = self._decode([token])
            self._known[token] = text or self._decode([token])
        return self._known[token]

    def window(self, tokens: Sequence[int]) -> list[str]:
        """The texts of consecutive tokens; characters cut into several are put together."""
        pieces = [self.piece(token) for token in tokens]
        start = 0
        while start < len(pieces):
            if _BROKEN not in pieces[start]:
                start += 1
                continue
            for stop in range(start + 2, min(start + _LONGEST_CHARACTER, len(pieces)) + 1):
                whole = self._decode(tokens[start:stop])
                if _BROKEN not in whole:
                    pieces[start:stop] = [_PART] * (stop - start - 1) + [whole]
                    start = stop - 1
                    break
            else:
                pieces[start] = pieces[start].replace(_BROKEN, _PART)
            start += 1
        return pieces
