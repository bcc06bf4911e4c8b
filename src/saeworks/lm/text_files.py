"""Documents of .txt, .jsonl and .parquet files and of folders of them, from any place on.

A reader is a generator of (document, where the next one lies); that place, plain JSON, is all it
needs to go on there. It reads only what it must: a line, or some rows of the wanted columns.
"""

import gzip
import json
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saeworks.config import TextConfig
from saeworks.errors import UserError, one_line
from saeworks.files.access import what_is
from saeworks.lm.content import (
    LIMIT,
    Document,
    check_columns,
    document_in,
    too_long,
    wanted,
)

Found = Iterator[tuple[Document, Any]]
Reader = Callable[[Path, TextConfig, Any], Found]

KINDS = ".txt, .jsonl (both also as .gz) or .parquet"
_SPLITS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "dev", "val"},
    "test": {"test", "testing", "eval", "evaluation"},
}
"""Words in the names of files and folders that the `datasets` library takes for a split's."""
_ROWS, _BYTES = 256, 2**23  # of a parquet file at once


def reader_of(path: Path) -> Reader | None:
    """What reads a file of this name, or None; capitals are no other names."""
    name = Path(path.name.lower())
    if name.suffix == ".gz" and name.stem.endswith((".txt", ".jsonl")):
        name = name.with_suffix("")
    return _READERS.get(name.suffix)


def read_files(files: list[Path], config: TextConfig, position: Any) -> Found:
    """The documents of several files, one file after the other."""
    first, inner = position or (0, None)
    for number, path in enumerate(files[first:], start=first):
        reader = reader_of(path)
        assert reader is not None
        for document, after in reader(path, config, inner if number == first else None):
            yield document, [number, after]


def files_of(folder: Path, config: TextConfig) -> list[Path] | None:
    """The files of the split `config` names, in order; None where the folder is for `datasets`: one
    with a subset or with files of other kinds than ours and without a .txt file.

    Hidden files, files without an ending and .md files are not looked at.

    Raises:
        UserError: if .txt files lie among files that are not read, a file is no regular one, or
            the split is not there or not that of every file.
    """
    if config.subset is not None or _is_described(folder):
        return None
    files = sorted(
        p for p in folder.rglob("*") if _is_data(p.relative_to(folder)) and not p.is_dir()
    )
    others = [path for path in files if reader_of(path) is None]
    texts = [path for path in files if reader_of(path) is _lines_text]
    if not files or (others and not texts):
        return None
    where = f"text {config.source!r}"
    if others:
        raise UserError(
            f"{where}: {str(others[0].relative_to(folder))!r} lies among .txt files and is not "
            f"read: of a folder every {KINDS} file is; leave it out of the folder"
        )
    for path in files:
        check_regular(path, where)
    return _split_of(files, folder, config, where)


def _is_described(folder: Path) -> bool:
    """Whether a dataset card says which files are what."""
    card = folder / "README.md"
    if what_is(card) != "file":
        return False
    with card.open(encoding="utf-8", errors="replace") as file:
        head = file.read(2**16)
    return head.startswith("---") and re.search(r"^configs:", head, re.MULTILINE) is not None


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return not hidden and path.suffix.lower() not in ("", ".md")


def _split_of(files: list[Path], folder: Path, config: TextConfig, where: str) -> list[Path]:
    split = {path: _split_named(path.relative_to(folder)) for path in files}
    if not any(split.values()):
        split = dict.fromkeys(files, "train")
    unnamed = [path for path in files if split[path] is None]
    if unnamed:
        named = next(path for path in files if split[path])
        raise UserError(
            f"{where}: {str(named.relative_to(folder))!r} is named as of the split "
            f"{split[named]!r} and {str(unnamed[0].relative_to(folder))!r} as of none; rename one "
            "or move it out of the folder"
        )
    chosen = [path for path in files if split[path] == config.split]
    if not chosen:
        listed = ", ".join(repr(s) for s in _SPLITS if s in split.values())
        raise UserError(
            f"{where}, split {config.split!r} could not be loaded: by their names its files are of "
            f"{listed} (choose one with text.split)"
        )
    return chosen


def _split_named(path: Path) -> str | None:
    for part in (*path.parts[:-1], path.name):
        words = set(re.split(r"[-._ 0-9]+", part))
        for split, names in _SPLITS.items():
            if words & names:
                return split
    return None


def check_regular(path: Path, where: str) -> None:
    """Refuse what is not there, and pipes and devices, which could be waited for without end.

    Raises:
        UserError: if so.
    """
    kind = what_is(path)
    if kind == "none":
        raise UserError(f"{where}: no such file; check the path")
    if kind != "file":
        raise UserError(
            f"{where}: {str(path)!r} is not a regular file but a folder, a pipe or a device; write "
            "the text to a file first"
        )


def _lines_text(path: Path, config: TextConfig, position: Any) -> Found:
    """Documents of a .txt file: what stands between lines that hold the separator alone; the whole
    file where no line does."""
    mark = config.separator.encode()
    place, number = position or (_begin(path), 1)
    first, held = number, bytearray()
    for line in _lines(path, place):
        for part in line.splitlines(keepends=True):  # a lone \r ends a line, too
            place, number = place + len(part), number + part.endswith(b"\n")
            if mark in part and part.decode("utf-8", "replace").strip() == config.separator:
                yield Document(_decoded(held, path, first)), [place, number]
                first, held = number, bytearray()
            else:
                held += part
        if len(held) > LIMIT:
            raise too_long(f"text {str(path)!r}, from line {first}")
    if held:
        yield Document(_decoded(held, path, first)), [place, number]


def _decoded(data: bytearray, path: Path, line: int) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise _not_utf8(path, line, error) from None
    data.clear()  # of a large document one copy less
    return (text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text).strip()


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> UserError:
    return UserError(
        f"text {str(path)!r}, line {line}: not UTF-8 ({error.reason}); convert the file"
    )


def _json_lines(path: Path, config: TextConfig, position: Any) -> Found:
    place, number = position or (_begin(path), 1)
    for line in _lines(path, place):
        where = f"text {str(path)!r}, line {number}"
        place, number = place + len(line), number + 1
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise _not_utf8(path, number - 1, error) from None
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}: not valid JSON ({one_line(error)}); mend or remove the line"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: {type(row).__name__}, not an object with a text")
        yield document_in(row, config, where), [place, number]


def _begin(path: Path) -> int:
    """The first byte after the byte-order mark, where there is one."""
    with _opened(path) as file:
        return len(BOM_UTF8) if file.read(len(BOM_UTF8)) == BOM_UTF8 else 0


def _lines(path: Path, place: int) -> Iterator[bytes]:
    """Lines from a byte on."""
    with _opened(path) as file:
        file.seek(place)
        while line := file.readline(LIMIT + 1):
            if len(line) > LIMIT:
                raise too_long(f"text {str(path)!r}")
            yield line


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"text {str(path)!r} could not be read: {reason}") from error


def _parquet(path: Path, config: TextConfig, position: Any) -> Found:
    import pyarrow as pa
    import pyarrow.parquet as pq

    where, row = f"text {str(path)!r}", int(position or 0)
    try:
        with pq.ParquetFile(path, buffer_size=2**20) as file:
            check_columns(file.schema_arrow.names, config, where)
            for batch in _batches(file, list(dict.fromkeys(wanted(config).values())), row):
                for values in batch.to_pylist():
                    row += 1
                    yield document_in(values, config, f"{where}, row {row}"), row
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}, from row {row + 1}: not UTF-8 ({error.reason}); mend or remove the row"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{where} is not a readable parquet file: {one_line(error)}") from error


def _batches(file: Any, columns: list[str], first: int) -> Iterator[Any]:
    """Record batches from a row on: row groups before it are passed over unread."""
    about, group, rows = file.metadata, 0, _ROWS
    while group < about.num_row_groups and first >= about.row_group(group).num_rows:
        first, group = first - about.row_group(group).num_rows, group + 1
    groups = range(group, about.num_row_groups)
    for number in groups:
        mean = about.row_group(number).total_byte_size / max(1, about.row_group(number).num_rows)
        rows = max(1, min(rows, int(_BYTES / max(mean, 1))))
    for batch in file.iter_batches(rows, row_groups=list(groups), columns=columns):
        if first < batch.num_rows:
            yield batch.slice(first)
        first = max(0, first - batch.num_rows)


_READERS: dict[str, Reader] = {".txt": _lines_text, ".jsonl": _json_lines, ".parquet": _parquet}
