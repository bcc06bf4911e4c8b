"""Activations written once to disk and read back shuffled: identical rows for many trainers.

A cache is a folder: `index.json`, one raw file per site ([N, D] of float32 or bfloat16, row by
row), `document.int64` and `position.int32`. Raw files can be mapped into memory, and any other
program can read them.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.activations.base import finite, no_tick
from saeworks.activations.live import (
    _DTYPES,
    Reader,
    RowReader,
    Stream,
)
from saeworks.activations.tensor import TensorSource
from saeworks.config import DType
from saeworks.errors import UserError
from saeworks.files.access import read_json, sha256, write_json

SCHEMA = 1
_STAGE = 8192  # rows on their way from the language model to the files


def write_cache(
    path: Path,
    lm: Reader,
    stream: Stream,
    sites: Sequence[str],
    tokens: int,
    dtype: DType = "float32",
    tick: Callable[[float], None] = no_tick,
) -> None:
    """Write the first `tokens` kept rows of the stream at every site to the new folder `path`.

    The folder appears whole or not at all.

    Raises:
        UserError: if `path` exists, the disk is full, the text ends, or a row is NaN or Inf.
    """
    if path.exists():
        raise UserError(f"{path} exists; choose another folder for the cache or delete it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            files = _write_rows(
                folder, RowReader(lm, stream, sites), sites, lm, tokens, dtype, tick
            )
            planes = {site: lm.width(site) for site in sites}
            index = {
                "schema": SCHEMA,
                "tokens": tokens,
                "dtype": dtype,
                "sites": planes,
            }
            write_json(folder / "index.json", {**index, "files": files})
            folder.chmod(0o755)
            folder.rename(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"could not write the cache {path}: {error.strerror or error}; free some space, "
            "or ask for fewer tokens or bfloat16"
        ) from error


def _write_rows(
    folder: Path,
    reader: RowReader,
    sites: Sequence[str],
    lm: Reader,
    tokens: int,
    dtype: DType,
    tick: Callable[[float], None],
) -> dict[str, dict[str, str]]:
    stage = min(_STAGE, tokens)
    planes = {s: torch.empty(stage, lm.width(s), dtype=_DTYPES[dtype]) for s in sites}
    document = torch.empty(stage, dtype=torch.int64)
    position = torch.empty(stage, dtype=torch.int32)
    columns: dict[str, Tensor] = {**planes, "document": document, "position": position}
    names = {site: f"site-{i}.{dtype}" for i, site in enumerate(sites)}
    names |= {"document": "document.int64", "position": "position.int32"}
    hashes = {key: hashlib.sha256() for key in columns}
    open_files: dict[str, BinaryIO] = {}
    try:
        for key, name in names.items():
            open_files[key] = (folder / name).open("wb")
        done = 0
        while done < tokens:
            room, number = min(stage, tokens - done), reader.batches
            n = reader.read(
                {s: p[:room] for s, p in planes.items()}, document[:room], position[:room]
            )
            if n:
                flags = torch.stack([finite(p[:n]) for p in planes.values()])
                reader.refuse_nonfinite({number: flags})
            for key, column in columns.items():
                data = column[:n].view(torch.uint8).numpy().data if n else b""
                hashes[key].update(data)
                open_files[key].write(data)
            done += n
            tick(done / tokens)
    finally:
        for file in open_files.values():
            file.close()
    return {key: {"file": names[key], "sha256": hashes[key].hexdigest()} for key in columns}


class CachedSource(TensorSource):
    """Rows of a cache, memory-mapped, in a new random order every epoch (`TensorSource`).

    Args:
        path: folder that `write_cache` wrote.
        batch: rows in a batch.
        seed: fixes the order of every epoch.
        sites: planes to read; all by default.

    Raises:
        UserError: if it is not a cache, its bytes are not those that were written, it lacks a
            site, or it holds fewer rows than one batch.
    """

    def __init__(
        self, path: Path, batch: int, seed: int, sites: Sequence[str] | None = None
    ) -> None:
        index = read_json(path / "index.json", "activation cache")
        rows, widths = _check_index(path, index)
        for site in sites or ():
            if site not in widths:
                raise UserError(f"cache {path} has no site {site!r}; it has {', '.join(widths)}")
        dtype, files = _DTYPES[index["dtype"]], index["files"]
        planes = {
            site: _mapped(path, files[site], rows * d, dtype).view(rows, d)
            for site, d in widths.items()
            if sites is None or site in sites
        }
        document = _mapped(path, files["document"], rows, torch.int64)
        position = _mapped(path, files["position"], rows, torch.int32)
        super().__init__(planes, document, position, batch, seed, f"cache {path}")

    def rows(self, plane: str) -> Float[Tensor, "N D"]:
        """All rows of a plane in the order of the text, memory-mapped; not to be written to."""
        return self._planes[plane]


def _check_index(path: Path, index: Any) -> tuple[int, dict[str, int]]:
    """Rows and widths of an index that may come from anywhere."""
    try:
        known = index["schema"] == SCHEMA and index["dtype"] in _DTYPES
        rows, widths = (
            int(index["tokens"]),
            {str(s): int(d) for s, d in index["sites"].items()},
        )
        entries = [index["files"][key] for key in (*widths, "document", "position")]
        inside = all(Path(entry["file"]).name == entry["file"] for entry in entries)
        hashed = all(isinstance(entry["sha256"], str) for entry in entries)
        positive = rows > 0 and all(d > 0 for d in widths.values())
    except (KeyError, TypeError, ValueError, AttributeError):
        known = inside = hashed = positive = False
        rows, widths = 0, {}
    if not (known and inside and hashed and positive):
        raise UserError(
            f"{path / 'index.json'} is not an index of activations; write the cache anew"
        )
    return rows, widths


def _mapped(path: Path, entry: Mapping[str, str], count: int, dtype: torch.dtype) -> Tensor:
    file = path / entry["file"]
    whole = file.is_file() and file.stat().st_size == count * dtype.itemsize
    if not whole or sha256(file) != entry["sha256"]:
        raise UserError(f"{file} is missing or corrupt (its SHA-256 differs); write the cache anew")
    return torch.from_file(str(file), shared=False, size=count, dtype=dtype)
