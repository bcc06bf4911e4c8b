"""The format of a cache: rows as they were written, faults named."""

import json
from pathlib import Path

import pytest
import torch

from helpers.fakes import FakeLM, FakeStream
from saeworks.activations.cache import (
    CACHE_SCHEMA,
    Cache,
    CachedRows,
    CacheIndex,
    CacheWriter,
    read_index,
)
from saeworks.activations.live import RowReader
from saeworks.activations.ring import DTYPES, RingSource, Slots
from saeworks.config import BufferConfig
from saeworks.errors import UserError
from saeworks.files.seals import write_sealed

SITES = ("layers.0", "layers.1")
SHARD, SHARDS = 320, 3


def written(path: Path, dtype: str = "float32", shards: int = SHARDS) -> Path:
    """A cache of the fake model's first rows."""
    rows = RowReader(FakeLM(), FakeStream(0), SITES)
    index = CacheIndex(
        schema=CACHE_SCHEMA,
        finished=False,
        model={"name": "fake", "fingerprint": "fake-1"},
        config={},
        text_digest=None,
        sites=dict(rows.planes),
        dtype=dtype,  # type: ignore[arg-type]
        tokens=SHARD * SHARDS,
        shard=SHARD,
        limits={},
    )
    writer, slots = CacheWriter(path, index), Slots(rows, SHARD, index.dtype)
    path.mkdir()
    for _ in range(shards):
        fill = slots.straight()
        slots.fill(fill)
        end = slots.feed.position()
        writer.add(slots.planes, slots.document, slots.position, fill.epoch, end)
    if shards == SHARDS:
        writer.finish()
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return written(tmp_path / "cache")


def ring(rows: RowReader | CachedRows, memory: str = "60KiB") -> RingSource:
    return RingSource(rows, BufferConfig(memory=memory), 64, seed=0)


@pytest.mark.parametrize("memory", ["60KiB", "20KiB", "100KiB"])
def test_rows_come_in_the_places_of_the_live_ones(cache: Path, memory: str) -> None:
    """Whatever the ring; here every row is the same however it is read."""
    live = ring(RowReader(FakeLM(), FakeStream(0), SITES), memory)
    cached = ring(CachedRows(Cache(cache), SITES, torch.device("cpu")), memory)
    for _ in range(SHARD * SHARDS // live.slots * live.slots // 64):
        a, b = next(live), next(cached)
        assert all(torch.equal(a.x[site], b.x[site]) for site in SITES)
        assert torch.equal(a.document, b.document) and torch.equal(a.position, b.position)


def test_a_source_on_some_sites_resumes_to_the_bit(cache: Path) -> None:
    source, resumed = (
        ring(CachedRows(Cache(cache), ["layers.1"], torch.device("cpu")), "20KiB") for _ in range(2)
    )
    assert list(source.planes) == ["layers.1"]
    for _ in range(7):
        next(source)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    for _ in range(5):
        a, b = next(source), next(resumed)
        assert torch.equal(a.x["layers.1"], b.x["layers.1"]) and torch.equal(a.document, b.document)


def test_bfloat16_is_the_rounded_rows(tmp_path: Path, cache: Path) -> None:
    half, full = Cache(written(tmp_path / "half", "bfloat16")), Cache(cache)
    a, b = (each.tensors(each.index.shards[1])["x/layers.0"] for each in (half, full))
    assert a.dtype == DTYPES["bfloat16"] and torch.equal(a, b.bfloat16())
    assert half.index.row_bytes - 12 == (full.index.row_bytes - 12) / 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_shards_are_named_when_they_are_read(cache: Path, damage: str) -> None:
    file = cache / "shard-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    if damage != "remove":
        file.write_bytes(data if damage == "flip" else data[:-1])
    source = ring(CachedRows(Cache(cache), SITES, torch.device("cpu")), "20KiB")
    with pytest.raises(UserError, match=r"shard-00001\.safetensors is missing or corrupt"):
        for _ in range(SHARD * SHARDS // 64):
            next(source)


def test_an_index_that_was_changed_or_leads_outside_is_refused(cache: Path) -> None:
    text = (cache / "cache.json").read_text()
    (cache / "cache.json").write_text(text.replace('"tokens": 960', '"tokens": 950'))
    with pytest.raises(UserError, match="is corrupt"):
        read_index(cache)
    (cache / "cache.json").write_text(text)
    writer = CacheWriter(cache, read_index(cache))
    index = json.loads(text)
    index["shards"][0]["file"] = "../elsewhere.safetensors"
    del index["seal"]
    write_sealed(writer.path / "cache.json", index)
    source = ring(CachedRows(Cache(cache), SITES, torch.device("cpu")))
    with pytest.raises(UserError, match="leads outside"):
        next(source)


def test_an_unfinished_cache_says_how_far_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finished: 640 of 960 tokens are written"):
        Cache(written(tmp_path / "half", shards=2))
    with pytest.raises(UserError, match=r"cache\.json"):
        Cache(tmp_path / "nothing")


def test_a_cache_that_ends_says_so(cache: Path) -> None:
    source = ring(CachedRows(Cache(cache), SITES, torch.device("cpu")), "20KiB")
    with pytest.raises(UserError, match=r"ends after 960 tokens; lower train\.tokens"):
        for _ in range(100):
            next(source)
