"""Activations on disk: written once by `saeworks cache`, read by any number of runs.

A cache is a folder of `cache.json` and safetensors files. A shard holds `rows` tokens in the order
of the text: `x/<site>` [rows, D], and `document` and `position` [rows]. `held_out.safetensors` is
of the same form. `cache.json` is sealed, has the SHA-256 of every file and is written after each
shard, so that a writer that was killed goes on behind the last one.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from pydantic.dataclasses import dataclass
from torch import Tensor

from saeworks.activations.base import moved
from saeworks.activations.feed import Passage, RowStream, TextRows
from saeworks.activations.ring import DTYPES, INDEX_BYTES
from saeworks.config import STRICT, DType, from_mapping
from saeworks.errors import UserError
from saeworks.files.access import inside, is_file, read_tensors, sha256, write_tensors
from saeworks.files.seals import read_sealed, write_sealed

CACHE_SCHEMA = 1
INDEX = "cache.json"
COMMAND = "saeworks cache"
PASSAGE = 4096
"""Rows that are read at once."""


@dataclass(frozen=True, config=STRICT)
class CacheFile:
    """One file of a cache.

    Attributes:
        epoch: whole passes over the text when its last row had been read.
        end: the place in the text behind it.
    """

    file: str
    rows: int
    sha256: str
    epoch: int = 0
    end: dict[str, Any] | None = None


@dataclass(frozen=True, config=STRICT)
class CacheIndex:
    """`cache.json`.

    Attributes:
        model: name, revision, fingerprint, layers.
        config: the parts of the run's configuration on which the rows and their order depend.
        text_digest: of a text that is one file.
        sites: site → D, in the model's order.
        tokens: rows of the whole cache.
        shard: rows of a shard; the ring of the run that wrote it.
        limits: site → the norm above which tokens were left out.
    """

    schema: int
    finished: bool
    model: dict[str, Any]
    config: dict[str, Any]
    text_digest: str | None
    sites: dict[str, int]
    dtype: DType
    tokens: int
    shard: int
    limits: dict[str, float]
    shards: tuple[CacheFile, ...] = ()
    held_out: CacheFile | None = None

    @property
    def written(self) -> int:
        """Rows in the shards so far."""
        return sum(shard.rows for shard in self.shards)

    @property
    def row_bytes(self) -> int:
        return sum(self.sites.values()) * DTYPES[self.dtype].itemsize + INDEX_BYTES


def read_index(path: Path) -> CacheIndex:
    """The index of a cache, finished or not.

    Raises:
        UserError: if there is none, it was changed, or is of another version.
    """
    data = read_sealed(path / INDEX, "activation cache", COMMAND)
    if not isinstance(data, dict) or data.get("schema") != CACHE_SCHEMA:
        raise UserError(f"{path / INDEX} is no index of activations that this version reads")
    index = from_mapping(CacheIndex, data, str(path / INDEX))
    sizes = [index.tokens, index.shard, *index.sites.values(), *(s.rows for s in index.shards)]
    if min(sizes) < 1:
        raise UserError(f"{path / INDEX} has sizes below 1; write the cache anew")
    return index


def is_intact(path: Path, file: CacheFile) -> bool:
    """Whether a file of a cache has the bytes that were written."""
    place = inside(path, file.file)
    return is_file(place) and sha256(place) == file.sha256


class CacheWriter:
    """Writes shards, each followed by an index that knows it.

    Args:
        path: the cache's folder.
        index: what it is to be, with the shards that are there already.
    """

    def __init__(self, path: Path, index: CacheIndex) -> None:
        self.path, self.index = path, index

    def add(
        self,
        planes: Mapping[str, Float[Tensor, "rows _"]],
        document: Int[Tensor, " rows"],
        position: Int[Tensor, " rows"],
        epoch: int,
        end: Mapping[str, Any],
    ) -> None:
        """The next shard: the same tokens at every site, in the order of the text.

        Args:
            epoch: whole passes over the text.
            end: the place in the text from which to go on after a kill.

        Raises:
            UserError: if it cannot be written.
        """
        shards = self.index.shards
        written = self._written(f"shard-{len(shards):05d}", planes, document, position)
        shard = replace(written, epoch=epoch, end=dict(end))
        self._keep(shards=(*shards, shard))

    def hold_out(
        self,
        planes: Mapping[str, Float[Tensor, "rows _"]],
        document: Int[Tensor, " rows"],
        position: Int[Tensor, " rows"],
    ) -> None:
        """Rows that nothing is trained on, for checks on the way."""
        self._keep(held_out=self._written("held_out", planes, document, position))

    def finish(self) -> None:
        """Nothing more is to come."""
        self._keep(finished=True)

    def _written(
        self, name: str, planes: Mapping[str, Tensor], document: Tensor, position: Tensor
    ) -> CacheFile:
        file = f"{name}.safetensors"
        tensors = {f"x/{site}": plane for site, plane in planes.items()}
        tensors |= {"document": document, "position": position}
        return CacheFile(file, len(document), write_tensors(self.path / file, tensors))

    def _keep(self, **changes: Any) -> None:
        self.index = replace(self.index, **changes)
        write_sealed(self.path / INDEX, asdict(self.index))


class Cache:
    """A finished cache.

    Raises:
        UserError: if it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.index = path, read_index(path)
        if not self.index.finished:
            raise UserError(
                f"{path} is not finished: {self.index.written:,} of {self.index.tokens:,} tokens "
                f"are written; run its `{COMMAND}` again"
            )

    def tensors(self, file: CacheFile) -> dict[str, Tensor]:
        """The tensors of one of its files, mapped into memory.

        Raises:
            UserError: if its bytes are not those that were written, or not of the index's shapes.
        """
        place = inside(self.path, file.file)
        if not is_intact(self.path, file):
            raise UserError(
                f"{place} is missing or corrupt (its SHA-256 differs); run the cache's `{COMMAND}` "
                "again, which writes it anew"
            )
        tensors, index = read_tensors(place), self.index
        wanted = {
            f"x/{site}": ([file.rows, d], DTYPES[index.dtype]) for site, d in index.sites.items()
        }
        wanted |= {
            "document": ([file.rows], torch.int64),
            "position": ([file.rows], torch.int32),
        }
        if {name: (list(t.shape), t.dtype) for name, t in tensors.items()} != wanted:
            raise UserError(f"{place} is not of the shapes that {INDEX} names; write it anew")
        return tensors


@final
class CachedRows(RowStream):
    """The rows of a cache, at some of its sites, on a device.

    Read into a ring as large as the one of the run that wrote it, they are in the same places there
    as that run's own.
    """

    name = "cache"

    def __init__(self, cache: Cache, sites: Sequence[str], device: torch.device) -> None:
        self.planes = {site: cache.index.sites[site] for site in sites}
        self.device, self.limits = device, dict(cache.index.limits)
        self._cache, self._row = cache, 0
        self._ends = list(accumulate(shard.rows for shard in cache.index.shards))
        self._open: tuple[int, dict[str, Tensor]] | None = None

    def position(self) -> dict[str, Any]:
        return {"row": self._row}

    def seek(self, position: Mapping[str, Any]) -> None:
        self._row = int(position["row"])

    def next(self, dtype: torch.dtype) -> Passage:
        shards, number = self._cache.index.shards, bisect_right(self._ends, self._row)
        if number == len(self._ends):
            raise UserError(
                f"cache {self._cache.path} ends after {self._row:,} tokens; lower train.tokens"
            )
        begin, first = self._ends[number] - shards[number].rows, self._row
        self._row = min(first + PASSAGE, self._ends[number])
        part = slice(first - begin, self._row - begin)
        read = partial(self._read, self._tensors(number), part, dtype)
        return Passage({"row": first}, shards[number].epoch, number, self._row - first, read)

    def _read(self, shard: Mapping[str, Tensor], part: slice, dtype: torch.dtype) -> TextRows:
        """Some rows of a shard; they were checked when they were written, and so were the bytes."""
        planes = {site: moved(shard[f"x/{site}"][part], self.device) for site in self.planes}
        planes = {site: x_nD.to(dtype) for site, x_nD in planes.items()}
        return TextRows(planes, shard["document"][part], shard["position"][part])

    def _tensors(self, number: int) -> dict[str, Tensor]:
        if self._open is None or self._open[0] != number:
            self._open = None  # before the next one is mapped
            self._open = number, self._cache.tensors(self._cache.index.shards[number])
        return self._open[1]
