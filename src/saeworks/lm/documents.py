"""Documents of any source: files, folders, Hugging Face datasets, the embedded grammar."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Self

from saeworks.config import TextConfig
from saeworks.errors import UserError, one_line
from saeworks.files.access import what_is
from saeworks.lm.content import (
    Document,
    check_columns,
    document_in,
    is_empty,
    wanted,
)
from saeworks.lm.loading import quiet
from saeworks.lm.text_files import (
    KINDS,
    Found,
    check_regular,
    files_of,
    read_files,
    reader_of,
)

EMBEDDED_DOCUMENTS = 40_000
"""Documents of the embedded grammar unless `max_documents` says otherwise."""
EMBEDDED_LABEL = "domain"


def documents(config: TextConfig, seed: int) -> Iterator[Document]:
    """The source's documents, in its order, at most `max_documents`.

    Empty documents and those of white space alone are left out (they count towards
    `max_documents`).

    Args:
        seed: of the embedded grammar; other sources do not depend on it.

    Raises:
        UserError: if the source does not exist or cannot be read, naming file and line or column,
            or a document has no label where there should be one.
    """
    check_label(config)
    limit = config.max_documents
    if config.source == "embedded":
        source = _embedded(config, seed)
        limit = EMBEDDED_DOCUMENTS if limit is None else limit
    else:
        source = open_source(config)
    yield from (document for document in islice(source, limit) if not is_empty(document.text))


def is_streamed(config: TextConfig) -> bool:
    """Whether the source is read as it comes, and never held."""
    return config.streaming and config.max_documents is None and config.source != "embedded"


def check_label(config: TextConfig) -> None:
    """Refuse a label that a source of this kind cannot have, before any of it is read.

    Raises:
        UserError: if so.
    """
    if config.label is None:
        return
    set_to = f"text.label = {config.label!r}"
    if config.source == "embedded" and config.label != EMBEDDED_LABEL:
        raise UserError(
            f"{set_to}: a document of the embedded text has one label, {EMBEDDED_LABEL!r}; give "
            "that"
        )
    if config.source.lower().endswith((".txt", ".txt.gz")):
        raise UserError(
            f"{set_to}: the documents of a .txt file ({config.source!r}) have no labels; give a "
            ".jsonl or .parquet file or a dataset with such a column"
        )
    if is_streamed(config):
        raise UserError(
            f"{set_to}: which labels there are is not known of a text that is read as it comes; "
            "leave out text.streaming or give text.max_documents"
        )


def _embedded(config: TextConfig, seed: int) -> Iterator[Document]:
    from saeworks import embedded

    for document in embedded.documents(seed):
        label = document.concepts[0][EMBEDDED_LABEL] if config.label else None
        yield Document(document.text, label)


def check_file(config: TextConfig) -> None:
    """Refuse a file that is missing or of a kind that is not read; a dataset is not looked for.

    Raises:
        UserError: if so.
    """
    if config.source == "embedded":
        return
    path, where = Path(config.source).expanduser(), f"text {config.source!r}"
    kind, known = what_is(path), reader_of(path) is not None
    if kind == "folder" or (kind == "none" and not known and not _is_path(config.source)):
        return
    if kind == "none" and not known:
        raise UserError(f"{where}: no such folder; check the path")
    check_regular(path, where)
    if not known:
        raise UserError(
            f"{where}: cannot read {path.suffix or 'such'} files; give a {KINDS} file, a dataset "
            "or 'embedded'"
        )


def _is_path(source: str) -> bool:
    return source.startswith(("/", ".", "~")) or source.count("/") > 1


class Source(ABC, Iterator[Document]):
    """Documents in the source's order, from any place on."""

    def __iter__(self) -> Self:
        return self

    @abstractmethod
    def position(self) -> Any:
        """Where the next document lies, JSON-able: `open_source` goes on there."""


def open_source(config: TextConfig, position: Any = None) -> Source:
    """The documents of a file, folder or dataset, from its beginning or a recorded position.

    Raises:
        UserError: if there is no such source, subset, split or column; while reading, if a
            document cannot be read.
    """
    check_file(config)
    path = Path(config.source).expanduser()
    if what_is(path) == "file":
        return _Files(read_files([path], config, position), position)
    files = files_of(path, config) if what_is(path) == "folder" else None
    if files is not None:
        return _Files(read_files(files, config, position), position)
    return _Rows(_open_dataset(config), config, position)


class _Files(Source):
    def __init__(self, found: Found, position: Any) -> None:
        self._found, self._position = found, position

    def __next__(self) -> Document:
        document, self._position = next(self._found)
        return document

    def position(self) -> Any:
        return self._position


class _Rows(Source):
    """Rows of a Hugging Face dataset.

    `state_dict` of an iterable dataset tells the place of the rows drawn from it, but nothing of a
    state that was loaded until a row has been drawn: until then that state is the position.
    """

    def __init__(self, dataset: Any, config: TextConfig, position: Any) -> None:
        self._dataset, self._config, self._position = dataset, config, position
        self._where = f"text {config.source!r}"
        if position is not None:
            dataset.load_state_dict(position)
        self._rows: Iterator[dict[str, Any]] | None = None

    def __next__(self) -> Document:
        try:
            self._rows = iter(self._dataset) if self._rows is None else self._rows
            row = next(self._rows, None)
        except Exception as error:  # as in _open_dataset
            raise UserError(f"{self._where} could not be read: {one_line(error)}") from error
        if row is None:
            raise StopIteration
        return document_in(row, self._config, self._where)

    def position(self) -> Any:
        return self._position if self._rows is None else self._dataset.state_dict()


def _open_dataset(config: TextConfig) -> Any:
    """The Hugging Face dataset of `config` with the wanted columns alone, so that no other one is
    decoded; a folder is read without a copy in a cache."""
    try:
        with quiet():
            dataset = _load_dataset(config)
            names = dataset.column_names  # None where the first rows would have to be read for it
            if names is not None:
                check_columns(names, config, f"text {config.source!r}")
                dataset = dataset.select_columns(list(dict.fromkeys(wanted(config).values())))
            return dataset
    except UserError:
        raise
    except Exception as error:  # outside data: whatever it makes the library raise is bad input
        raise UserError(
            f"text {config.source!r} (subset {config.subset}, split {config.split!r}) could not be "
            f"loaded: {one_line(error)}; give a dataset's id (with network access), a folder with "
            f"one, a {KINDS} file, or 'embedded'"
        ) from error


def _load_dataset(config: TextConfig) -> Any:
    import datasets

    folder = Path(config.source).expanduser()
    local = folder.is_dir()
    if local and (folder / "dataset_dict.json").is_file():  # written by save_to_disk, both of them
        return datasets.load_from_disk(str(folder))[config.split].to_iterable_dataset()
    if local and (folder / "state.json").is_file():
        return datasets.load_from_disk(str(folder)).to_iterable_dataset()
    return datasets.load_dataset(
        str(folder) if local else config.source,
        config.subset,
        split=config.split,
        streaming=local or config.streaming,
    )
