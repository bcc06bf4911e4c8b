"""Documents of any source of text, with labels: files, datasets, the embedded grammar."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from saeforge.config import TextConfig
from saeforge.errors import UserError
from saeforge.lm.loading import one_line, quiet

EMBEDDED_DOCUMENTS = 40_000
"""Documents of the embedded grammar unless `max_documents` says otherwise."""
EMBEDDED_LABEL = "domain"


class Document(NamedTuple):
    """A text, and its label where the configuration names one."""

    text: str
    label: str | None = None


def documents(config: TextConfig, seed: int) -> Iterator[Document]:
    """The source's documents, in its order, at most `max_documents`.

    Documents of white space alone are left out (they count towards `max_documents`).

    Args:
        seed: of the embedded grammar; other sources do not depend on it.

    Raises:
        UserError: if the source does not exist or cannot be read, naming file and line or column,
            or a document has no label where there should be one.
    """
    check_label(config)
    limit = config.max_documents
    if config.source == "embedded":
        found = _embedded(config, seed)
        limit = EMBEDDED_DOCUMENTS if limit is None else limit
    else:
        found = _outside(config)
    yield from (document for document in islice(found, limit) if document.text.strip())


def check_label(config: TextConfig) -> None:
    """Refuse a label that a source of this kind cannot have, before any of it is read.

    Raises:
        UserError: if so.
    """
    if config.label is None:
        return
    said = f"text.label = {config.label!r}"
    if config.source == "embedded" and config.label != EMBEDDED_LABEL:
        raise UserError(
            f"{said}: a document of the embedded text has one label, {EMBEDDED_LABEL!r}; give that"
        )
    if config.source.endswith(".txt"):
        raise UserError(
            f"{said}: the documents of a .txt file ({config.source!r}) have no labels; give a "
            ".jsonl or .parquet file or a dataset with such a column"
        )
    if config.streaming and config.max_documents is None and is_dataset(config):
        raise UserError(
            f"{said}: which labels there are is not known of a dataset that is read as it comes; "
            "leave out text.streaming or give text.max_documents"
        )


def _embedded(config: TextConfig, seed: int) -> Iterator[Document]:
    from saeforge.lm import embedded

    for document in embedded.documents(seed):
        label = document.concepts[0][EMBEDDED_LABEL] if config.label else None
        yield Document(document.text, label)


def is_dataset(config: TextConfig) -> bool:
    """Whether the source is a Hugging Face dataset (an id or a folder) rather than a file."""
    path = Path(config.source).expanduser()
    return config.source != "embedded" and path.suffix not in _READERS and not path.is_file()


def _outside(config: TextConfig) -> Iterator[Document]:
    path = Path(config.source).expanduser()
    if is_dataset(config) or path.is_dir():
        return documents_of(open_dataset(config), config)
    check_file(config)
    return _READERS[path.suffix](path, config)


def check_file(config: TextConfig) -> None:
    """Refuse a file that is missing or of a kind that is not read; a dataset is not looked for.

    Raises:
        UserError: if so.
    """
    if config.source == "embedded" or is_dataset(config):
        return
    path = Path(config.source).expanduser()
    if path.suffix not in _READERS:
        raise UserError(
            f"text {config.source!r}: cannot read {path.suffix or 'such'} files; "
            "give a .txt, .jsonl or .parquet file, a dataset or 'embedded'"
        )
    if not path.is_file():
        raise UserError(f"text {config.source!r}: no such file; check the path")


def _lines_text(path: Path, config: TextConfig) -> Iterator[Document]:
    """Documents of a .txt file: what stands between lines that hold the separator alone."""
    lines: list[str] = []
    for _, line in _numbered_lines(path):
        if line.strip() == config.separator:
            yield Document("".join(lines).strip())
            lines = []
        else:
            lines.append(line)
    yield Document("".join(lines).strip())


def _json_lines(path: Path, config: TextConfig) -> Iterator[Document]:
    for number, line in _numbered_lines(path):
        if not line.strip():
            continue
        where = f"text {config.source!r}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not valid JSON ({error}); mend or remove the line") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: {type(row).__name__}, not an object with a text")
        yield _document_in(row, config, where)


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from enumerate(file, start=1)
    except UnicodeDecodeError as error:
        raise UserError(f"text {str(path)!r} is not UTF-8 ({error}); convert it") from None
    except OSError as error:
        raise UserError(f"text {str(path)!r}: {error.strerror or error}") from error


def _parquet(path: Path, config: TextConfig) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = f"text {config.source!r}"
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = {"text.column": config.column, "text.label": config.label}
            columns = {key: name for key, name in wanted.items() if name is not None}
            for key, name in columns.items():
                if name not in names:
                    raise UserError(_no_column(where, name, names, key))
            for batch in file.iter_batches(columns=list(dict.fromkeys(columns.values()))):
                for row in batch.to_pylist():
                    yield _document_in(row, config, where)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{where} is not a readable parquet file: {one_line(error)}") from error


_READERS = {".txt": _lines_text, ".jsonl": _json_lines, ".parquet": _parquet}


def open_dataset(config: TextConfig) -> Any:
    """The Hugging Face dataset of `config`, iterable; a folder is read without a copy in a cache.

    Raises:
        UserError: if there is no such dataset, subset or split.
    """
    folder = Path(config.source).expanduser()
    local = folder.is_dir()
    if not local and (config.source.startswith(("/", ".", "~")) or config.source.count("/") > 1):
        raise UserError(f"text {config.source!r}: no such folder; check the path")
    import datasets

    try:
        with quiet():
            if local and (folder / "state.json").is_file():  # written by save_to_disk
                return datasets.load_from_disk(str(folder)).to_iterable_dataset()
            return datasets.load_dataset(
                str(folder) if local else config.source,
                config.subset,
                split=config.split,
                streaming=local or config.streaming,
            )
    except Exception as error:  # outside data: whatever it makes the library raise is bad input
        raise UserError(
            f"text {config.source!r} (subset {config.subset}, split {config.split!r}) could not be "
            f"loaded: {one_line(error)}; give a dataset's id (with network access), a folder with "
            "one, a .txt, .jsonl or .parquet file, or 'embedded'"
        ) from error


def documents_of(dataset: Iterable[dict[str, Any]], config: TextConfig) -> Iterator[Document]:
    """The documents in a Hugging Face dataset's rows.

    Raises:
        UserError: if a row cannot be read or has no such column.
    """
    where = f"text {config.source!r}"
    rows = iter(dataset)
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # as in open_dataset
            raise UserError(f"{where} could not be read: {one_line(error)}") from error
        if row is None:
            return
        yield _document_in(row, config, where)


def _document_in(row: dict[str, Any], config: TextConfig, where: str) -> Document:
    text = _text_in(row, config, where)
    if config.label is None or not text.strip():
        return Document(text)
    if config.label not in row:
        raise UserError(_no_column(where, config.label, list(row), "text.label"))
    label = row[config.label]
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        said = "no value" if label in (None, "") else type(label).__name__
        raise UserError(
            f"{where}: the label {config.label!r} holds {said}, not text or a whole number; mend "
            "or leave out the document, or choose another with text.label"
        )
    return Document(text, str(label))


def _text_in(row: dict[str, Any], config: TextConfig, where: str) -> str:
    if config.column not in row:
        raise UserError(_no_column(where, config.column, list(row)))
    text = row[config.column]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UserError(
            f"{where}: column {config.column!r} holds {type(text).__name__}, not text; "
            "choose another with text.column"
        )
    return text.encode("utf-8", "replace").decode()  # JSON can escape half a surrogate pair


def _no_column(where: str, column: str, names: list[str], key: str = "text.column") -> str:
    listed = ", ".join(map(repr, names))
    return f"{where}: no column {column!r}; there are {listed} (choose one with {key})"
