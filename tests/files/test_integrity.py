"""A changed bit, or a file of another suite, is named by whoever reads it."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.whole_suites import ROWS, SITES, evaluated, write
from saeworks.config import CompareConfig
from saeworks.errors import UserError
from saeworks.files.seals import SEAL, read_sealed, write_sealed
from saeworks.measure.comparing.compare import compare
from saeworks.report.suites import read_suites
from saeworks.results.comparison import Comparison
from saeworks.results.result import Result
from saeworks.suite import load_suite

PLACES = 6
"""Bits that are flipped in each file."""


def readers(path: Path) -> dict[str, Callable[[], object]]:
    """Who reads a suite: each raises, or gives what it read."""
    other = CompareConfig(alignment=False, bootstrap=0)
    return {
        "load": lambda: load_suite(path).bank() and None,
        "report": lambda: [replace(one, path=Path()) for one in read_suites([path])],
        "compare": lambda: compare([path], [path], other)[path],
        "result": lambda: Result.read(path / "results" / "reconstruction.json"),
        "comparison": lambda: Comparison.read(path),
    }


READ_BY = {
    "suite.json": {"load", "report", "compare"},
    "normalisers.safetensors": {"load", "report", "compare"},
    "metrics.jsonl": {"load", "report", "compare"},
    "config.json": {"load", "report", "compare"},
    "weights.safetensors": {"load", "report", "compare"},
    "reconstruction.json": {"report", "compare", "result"},
    "reconstruction.sums.safetensors": {"compare"},
    "audit.json": {"report"},
    "comparison.json": {"report", "comparison"},
}
"""File → who must name it."""


def flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def another_digit(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    at = rng.choice([i for i, byte in enumerate(data) if chr(byte).isdecimal()])
    data[at] = ord(rng.choice([d for d in "0123456789" if d != chr(data[at])]))
    file.write_bytes(data)


@pytest.mark.parametrize("change", [flip, another_digit])
def test_a_changed_bit_or_digit_is_named_by_all_who_read_the_file(
    tmp_path: Path, change: Callable[[Path, random.Random], None]
):
    path, rng = write(tmp_path / "s"), random.Random(0)
    whole = {name: read() for name, read in readers(path).items() if name != "compare"}
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    assert {file.name for file in files} == set(READ_BY)
    for file in files:
        good = file.read_bytes()
        for _ in range(PLACES):
            change(file, rng)
            if file.read_bytes() == good:
                continue
            for name in READ_BY[file.name]:
                with pytest.raises(UserError) as error:
                    readers(path)[name]()
                assert file.name in str(error.value), (name, str(error.value))
            file.write_bytes(good)
    assert whole == {name: read() for name, read in readers(path).items() if name != "compare"}


@pytest.mark.parametrize("name", list(READ_BY))
def test_a_file_of_another_suite_is_named(tmp_path: Path, name: str):
    path, other = write(tmp_path / "s"), write(tmp_path / "other", seed=1)
    for file in other.rglob(name):
        shutil.copy(file, path / file.relative_to(other))
    for reader in READ_BY[name]:
        with pytest.raises(UserError) as error:
            readers(path)[reader]()
        assert name in str(error.value) or name == "suite.json"  # then the first that is not its


def test_a_result_in_the_place_of_another_is_named(tmp_path: Path):
    path = write(tmp_path / "s")
    away = path / "results" / "away" / "reconstruction.json"
    away.parent.mkdir()
    result = Result.read(path / "results" / "reconstruction.json")
    result.write(away)
    assert Result.read(away) == result
    away.replace(path / "results" / "reconstruction.json")
    with pytest.raises(UserError, match=r"was written as results/away/reconstruction\.json"):
        Result.read(path / "results" / "reconstruction.json")


def test_a_result_without_a_seal_is_read_only_in_a_suite_without_one(tmp_path: Path):
    path = write(tmp_path / "s")
    file = path / "results" / "reconstruction.json"
    data = read_sealed(file, "result", "saeworks eval")
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"has no seal, though its suite has one; run `saeworks ev"):
        Result.read(file)
    meta = json.loads((path / "suite.json").read_text())
    del meta[SEAL]
    (path / "suite.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"suite\.json is corrupt"):
        load_suite(path)
    (path / "suite.json").write_text(json.dumps(meta | {"schema": 1}))
    assert load_suite(path).sites == list(SITES)
    assert Result.read(file).documents == ROWS
    with pytest.raises(UserError, match="of this one before it was trained anew"):
        Comparison.read(path)  # sealed, of the suite as it was


def test_a_result_written_again_is_good_again(tmp_path: Path):
    path = write(tmp_path / "s")
    flip(path / "results" / "reconstruction.json", random.Random(1))
    evaluated(path, 0.5)
    fvu = read_suites([path])[0].value("layers.0", "fvu")
    assert fvu is not None and fvu.value == 0.5


def test_a_seal_ends_the_file_and_is_no_part_of_what_is_read(tmp_path: Path):
    value = {"a": [1.5, None], "seal of": {"x": "}\n"}}
    write_sealed(tmp_path / "f.json", value)
    assert list(json.loads((tmp_path / "f.json").read_text())) == ["a", "seal of", SEAL]
    assert read_sealed(tmp_path / "f.json", "file", "this") == value
