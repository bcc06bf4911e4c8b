"""Records as JSON: written plainly, read strictly, whoever wrote the file.

A record is a frozen pydantic dataclass. What is wrong with a file is told in one line that names
the file, the key and the way out.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import RootModel, TypeAdapter, ValidationError

from saeworks.errors import UserError
from saeworks.files.seals import read_sealed

SCHEMA: Literal[1] = 1
"""Schema of results, audits, comparisons and plans."""

T = TypeVar("T")
_adapter: Callable[[Any], Any] = cache(TypeAdapter)


def plain(value: Any) -> Any:
    """A record as mappings and lists; the lists of numbers in it are not copied."""
    if isinstance(value, RootModel):
        value = value.root
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, list | tuple) and value and is_dataclass(value[0]):
        return [plain(item) for item in value]
    return value


def four_digits(value: float) -> float:
    """A number of a long series, for a small file."""
    return float(f"{value:.4g}")


def read_record(cls: type[T], path: Path, what: str, again: str) -> T:
    """Read a sealed file as a record.

    Args:
        what: it is, for messages.
        again: what to run for a new one.

    Raises:
        UserError: if it is missing, not JSON, of another schema, not what was written, of another
            suite, or not what `cls` says.
    """
    return parse_file(cls, read_sealed(path, what, again), path, what, again)


def parse_file(cls: type[T], data: Any, path: Path, what: str, again: str) -> T:
    """Read a file's content as a record.

    Raises:
        UserError: if it is of another schema, or not what `cls` says.
    """
    way_out = f"run `{again}` again"
    if not isinstance(data, Mapping):
        raise UserError(f"{what} {path} must hold a JSON object, not {_kind(data)}; {way_out}")
    if data.get("schema") != SCHEMA:
        raise UserError(
            f"{what} {path} has schema {data.get('schema')!r}, this version reads {SCHEMA}; "
            f"{way_out}, or use the version that wrote it"
        )
    return parse(cls, data, f"{what} {path}", way_out)


def parse(cls: type[T], data: Any, where: str, way_out: str, *place: str) -> T:
    """Plain data as a record.

    Args:
        where: the data is from, for messages.
        place: the keys that lead to it there.

    Raises:
        UserError: if it is not what `cls` says.
    """
    return parse_text(cls, to_text(data, where, way_out), where, way_out, *place)


def to_text(data: Any, where: str, way_out: str) -> str:
    """Plain data as JSON.

    Raises:
        UserError: if it holds NaN or infinity, or is nested too deeply.
    """
    try:
        return json.dumps(data, allow_nan=False)
    except (ValueError, RecursionError):
        raise UserError(
            f"{where}: it holds what is not a finite number, or is nested too deeply; {way_out}"
        ) from None


def parse_text(cls: type[T], text: str | bytes, where: str, way_out: str, *place: str) -> T:
    """JSON as a record; see `parse`."""
    try:
        record: T = _adapter(cls).validate_json(text)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, place)}; {way_out}") from None
    except UserError as error:  # of a __post_init__, which knows the value but not its place
        raise UserError(f"{where}: {error}") from None
    return record


def check_described(values: Iterable[Iterable[str]], metrics: Mapping[str, Any]) -> None:
    """Refuse values of undescribed metrics; for a record's `__post_init__`.

    Raises:
        ValueError: naming the first.
    """
    for unknown in (name for names in values for name in names if name not in metrics):
        raise ValueError(f"has {unknown!r}, which its metrics do not describe")


def check_lengths(*lists: Any) -> None:
    """Refuse lists that are not of one length; for a record's `__post_init__`.

    Raises:
        ValueError: if so.
    """
    if len({len(values) for values in lists}) > 1:
        raise ValueError("its lists are not of one length")


def _explain(error: ValidationError, place: tuple[str, ...]) -> str:
    """The first error, in words."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, (*place, *first["loc"])))
    if first["type"] == "json_invalid":
        return "values within values, too deep to be read"
    if first["type"] in ("missing", "missing_argument"):
        return f"{key!r} is missing"
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown key {key!r}"
    value, message = first["input"], first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(value, str) and len(value) > 80 else f" = {value!r}"
    simple = value is None or isinstance(value, str | int | float)
    return f"{key!r}{shown if simple else ''}: {message[:1].lower()}{message[1:]}"


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
