import json
from pathlib import Path

import pytest
import torch

from helpers.fakes import FakeLM, FakeStream
from saeworks.activations.cached import CachedSource, write_cache
from saeworks.activations.live import RowReader
from saeworks.errors import UserError

SITES = ("layers.0", "layers.1")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    write_cache(tmp_path / "cache", FakeLM(), FakeStream(0), SITES, 1000)
    return tmp_path / "cache"


def test_rows_are_those_of_the_language_model_in_order(cache: Path):
    planes = {"layers.0": torch.empty(1000, 16), "layers.1": torch.empty(1000, 12)}
    document, position = torch.empty(1000, dtype=torch.int64), torch.empty(1000, dtype=torch.int32)
    reader, done = RowReader(FakeLM(), FakeStream(0), SITES), 0
    while done < 1000:
        rest = {site: plane[done:] for site, plane in planes.items()}
        done += reader.read(rest, document[done:], position[done:])
    source = CachedSource(cache, 100, seed=0)
    for site in SITES:
        assert torch.equal(source.rows(site), planes[site])


def test_an_epoch_has_every_row_once_in_a_new_order_each_time(cache: Path):
    source = CachedSource(cache, 100, seed=0)
    epochs = [[next(source) for _ in range(10)] for _ in range(2)]
    orders = [torch.cat([b.document * 16 + b.position for b in epoch]).tolist() for epoch in epochs]
    assert len(set(orders[0])) == 1000
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    other = next(CachedSource(cache, 100, seed=1))
    assert not torch.equal(other.document, epochs[0][0].document)


def test_planes_stay_aligned_with_each_other(cache: Path):
    both, one = CachedSource(cache, 64, seed=3), CachedSource(cache, 64, 3, sites=["layers.1"])
    assert list(one.planes) == ["layers.1"]
    for _ in range(20):
        assert torch.equal(next(both).x["layers.1"], next(one).x["layers.1"])


@pytest.mark.parametrize("drawn", [0, 3, 15, 16, 31])
def test_a_resumed_source_continues_to_the_bit(cache: Path, drawn: int):
    source, resumed = CachedSource(cache, 64, seed=0), CachedSource(cache, 64, seed=0)
    for _ in range(drawn):
        next(source)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    for _ in range(20):
        a, b = next(source), next(resumed)
        assert torch.equal(a.x["layers.0"], b.x["layers.0"])
        assert torch.equal(a.document, b.document)


def test_bfloat16_is_half_the_size_and_the_rounded_rows(tmp_path: Path, cache: Path):
    write_cache(tmp_path / "half", FakeLM(), FakeStream(0), SITES, 1000, dtype="bfloat16")
    half, full = (CachedSource(p, 100, seed=0) for p in (tmp_path / "half", cache))
    assert torch.equal(half.rows("layers.0"), full.rows("layers.0").bfloat16())
    assert half.describe()["bytes"] * 2 == full.describe()["bytes"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("name", ["site-1.float32", "document.int64"])
def test_damaged_files_are_not_believed(cache: Path, damage: str, name: str):
    file = cache / name
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(data[:-1])
    else:
        file.unlink()
    with pytest.raises(UserError, match=f"{name} is missing or corrupt"):
        CachedSource(cache, 64, seed=0)


def test_an_index_that_leads_outside_is_refused(cache: Path):
    index = json.loads((cache / "index.json").read_text())
    index["files"]["document"]["file"] = "../elsewhere"
    (cache / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="not an index of activations"):
        CachedSource(cache, 64, seed=0)


def test_bad_requests_are_refused(cache: Path, tmp_path: Path):
    with pytest.raises(UserError, match="exists"):
        write_cache(cache, FakeLM(), FakeStream(0), SITES, 10)
    with pytest.raises(UserError, match=r"no site 'layers\.9'; it has layers\.0, layers\.1"):
        CachedSource(cache, 64, seed=0, sites=["layers.9"])
    with pytest.raises(UserError, match="holds 1000 tokens, fewer than a batch of 2000"):
        CachedSource(cache, 2000, seed=0)
    with pytest.raises(UserError, match=r"index\.json"):
        CachedSource(tmp_path / "nothing", 64, seed=0)


def test_a_cache_that_fails_leaves_nothing_behind(tmp_path: Path):
    lm = FakeLM()
    lm.tables["layers.1"][:] = float("nan")
    with pytest.raises(UserError, match=r"layers\.1 hold NaN or Inf in batch 0"):
        write_cache(tmp_path / "cache", lm, FakeStream(0), SITES, 1000)
    assert list(tmp_path.iterdir()) == []
