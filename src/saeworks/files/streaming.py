"""JSON with long lists in it, read without holding them."""

import json
import re
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from saeworks.errors import UserError
from saeworks.files.access import (
    LARGEST_JSON,
    open_regular,
    refuse_surrogates,
    whole,
)

_PART = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder(parse_int=whole)

Place = tuple[str, ...]
"""The keys that lead to a value."""


def read_long(
    path: Path,
    what: str,
    is_long: Callable[[Place], bool],
    take: Callable[[Place, Any], None],
    advance: Callable[[int], None] = lambda read: None,
) -> Any:
    """Read JSON whose long lists are taken item by item.

    Args:
        is_long: whether a list at a place, inside objects alone, is one of them.
        take: called with that place and every item in turn.
        advance: called with the number of characters that were just read of the file.

    Returns:
        The rest, with empty lists in their places.

    Raises:
        UserError: as `files.read_json`; the limit of length is for what is held.
    """

    def walk(text: "_Text", place: Place) -> Any:
        if is_long(place) and text.peek() == "[":
            for _ in text.members("[", "]"):
                take(place, text.value())
            return []
        if len(place) < 3 and text.peek() == "{":
            members = {}
            for _ in text.members("{", "}"):
                key = text.key()
                members[key] = walk(text, (*place, key))
            return members
        return text.value()

    try:
        with open_regular(path) as file:
            text = _Text(TextIOWrapper(file, encoding="utf-8"), advance)
            value = walk(text, ())
            if text.peek():
                raise ValueError("there is more behind its end")
            return value
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{what} {path} is not valid JSON ({error}); restore it or write it anew"
        ) from error


class _Text:
    """A file's text, in memory only as much of it as one value needs."""

    def __init__(self, file: TextIOWrapper, advance: Callable[[int], None]) -> None:
        self.file, self.advance = file, advance
        self.held, self.at, self.ended = "", 0, False

    def more(self) -> None:
        """Read more of the file: twice as much each time that one value needs more."""
        if len(self.held) - self.at > LARGEST_JSON:
            raise ValueError(f"a value is longer than {LARGEST_JSON:,} characters")
        part = self.file.read(max(_PART, len(self.held) - self.at))
        self.advance(len(part))
        self.held, self.at, self.ended = self.held[self.at :] + part, 0, not part

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            space = _SPACE.match(self.held, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.held) or self.ended:
                return self.held[self.at : self.at + 1]
            self.more()

    def take(self, allowed: str) -> str:
        """Read the next character, which must be one of those allowed."""
        character = self.peek()
        if not character or character not in allowed:
            raise ValueError(f"{character or 'its end'!r} where {' or '.join(allowed)} should be")
        self.at += 1
        return character

    def members(self, opening: str, closing: str) -> Iterator[None]:
        """Stop before every member of a list or an object."""
        self.take(opening)
        if self.peek() == closing:
            self.take(closing)
            return
        while True:
            yield
            if self.take("," + closing) == closing:
                return

    def key(self) -> str:
        """The key of a member, and the colon behind it."""
        key = self.value()
        if not isinstance(key, str):
            raise ValueError(f"{key!r} where a key should be")
        self.take(":")
        return key

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.held, self.at)
            except json.JSONDecodeError:
                if self.ended:
                    raise
            else:  # a number may go on behind what is held
                if self.ended or self.held[end : end + 1] in tuple(",:]} \t\n\r"):
                    refuse_surrogates(value, self.held[self.at : end])
                    self.at = end
                    return value
            self.more()
