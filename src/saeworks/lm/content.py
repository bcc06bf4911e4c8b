"""What a document is: text, token ids or a chat, and how it is read from a row of a source."""

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from saeworks.config import TextConfig
from saeworks.errors import UserError

Ids = npt.NDArray[np.int64]
Chat = list[dict[str, Any]]
Content = str | Ids | Chat

LIMIT = 2**28
"""Characters (or bytes) of one document: what is longer is not a document but a file of them."""

_ROLES = {"human": "user", "gpt": "assistant"}


class Document(NamedTuple):
    """A document, and its label where the configuration names one.

    `text` is its text, the ids of its tokens where the source is tokenised already, or a chat: its
    messages, mappings of at least `role` and `content`.
    """

    text: Content
    label: str | None = None


def is_empty(text: Content) -> bool:
    """Whether there is nothing in it but white space."""
    return not text.strip() if isinstance(text, str) else len(text) == 0


def size(text: Content) -> int:
    """About how many characters it has."""
    if isinstance(text, list):
        return sum(len(str(value)) for message in text for value in message.values())
    return len(text)


def keys(texts: Sequence[Content]) -> npt.NDArray[np.uint64]:
    """The 64-bit BLAKE2b hash of each: of text without white space at its ends, of ids in 64 bits,
    of a chat's messages before any template."""
    digests = (blake2b(_bytes(text), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), np.dtype("<u8"))


def _bytes(text: Content) -> bytes:
    if isinstance(text, str):
        return text.strip().encode("utf-8", "replace")
    if isinstance(text, list):
        return json.dumps(text, sort_keys=True, default=str).encode()
    return text.astype("<i8").tobytes()


def wanted(config: TextConfig) -> dict[str, str]:
    """The columns that are read, by the option that names each."""
    named = {"text.column": config.column, "text.label": config.label}
    return {key: name for key, name in named.items() if name is not None}


def check_columns(names: Sequence[str], config: TextConfig, where: str) -> None:
    """Refuse a source without a column that is wanted.

    Raises:
        UserError: if so, with the columns that there are.
    """
    for key, name in wanted(config).items():
        if name not in names:
            listed = ", ".join(map(repr, names))
            raise UserError(
                f"{where}: no column {name!r}; there are {listed} (choose one with {key})"
            )


def document_in(row: dict[str, Any], config: TextConfig, where: str) -> Document:
    """The document in a row.

    Args:
        where: source and place, for messages.

    Raises:
        UserError: if the column is missing or holds something else, or the label is no label.
    """
    if config.column not in row:
        check_columns(list(row), config, where)
    text = _content(row[config.column], f"{where}: column {config.column!r}")
    if config.label is None or is_empty(text):
        return Document(text)
    check_columns(list(row), config, where)
    label = row[config.label]
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        value = "no value" if label in (None, "") else type(label).__name__
        raise UserError(
            f"{where}: the label {config.label!r} holds {value}, not text or a whole number; mend "
            "or leave out the document, or choose another with text.label"
        )
    return Document(text, str(label))


def _content(value: Any, where: str) -> Content:
    if value is None:
        return ""
    if isinstance(value, str):
        if len(value) > LIMIT:
            raise too_long(where)
        # JSON can escape half a surrogate pair
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict) and _columns_of_messages(value):
        value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if isinstance(value, list):
        if not value:
            return ""
        if all(type(item) is int for item in value):
            return _ids(value, where)
        if all(isinstance(item, dict) for item in value):
            return [_message(item, where) for item in value]
    raise UserError(
        f"{where} holds {_kind(value)}, not text, token ids or a chat; choose another with "
        "text.column"
    )


def too_long(where: str) -> UserError:
    """The error of a document (or line) above the limit."""
    return UserError(
        f"{where} holds a document of more than {LIMIT >> 20} MiB; cut it into several documents"
    )


def _kind(value: Any) -> str:
    if not isinstance(value, list):
        return type(value).__name__
    kinds = sorted({type(item).__name__ for item in value})
    return f"a list of {' and '.join(kinds)}"


def _ids(value: list[int], where: str) -> Ids:
    try:
        return np.array(value, np.int64)
    except OverflowError:
        bits = max(value, key=abs).bit_length()
        raise UserError(f"{where} holds a number of {bits} bits, which is no token's id") from None


def _columns_of_messages(value: dict[str, Any]) -> bool:
    """Whether it is a chat as some datasets store it: a list of roles and one of contents."""
    columns = list(value.values())
    named = {"role", "content"} <= set(value) or {"from", "value"} <= set(value)
    return named and all(isinstance(c, list) and len(c) == len(columns[0]) for c in columns)


def _message(message: dict[str, Any], where: str) -> dict[str, Any]:
    """The message with `role` and `content`, without the keys that a column of structs fills with
    None."""
    if "from" in message and "role" not in message:
        named = {"role": _ROLES.get(message["from"], message["from"])}
        message = named | {"content": message.get("value")}
    if not isinstance(message.get("role"), str):
        raise UserError(
            f"{where} holds a list of mappings without 'role' (or 'from'), which is no chat; "
            "choose another with text.column"
        )
    kept = {key: value for key, value in message.items() if value is not None}
    return {"content": "", **kept}
