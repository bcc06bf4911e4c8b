"""The browser of latents: read without being held, written in files of some latents each."""

import json
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from saeworks.errors import UserError
from saeworks.files import streaming
from saeworks.files.streaming import read_long
from saeworks.report.pages import latents
from saeworks.report.suites import read_suites
from saeworks.results.series import Choice
from saeworks.results.tokens import legible


def value(rng: random.Random, depth: int = 0) -> Any:
    leaves: list[Any] = [
        1,
        -2.5e-7,
        12345678,
        True,
        None,
        "",
        'a "quoted" \\ line\n',
        "🦓 ∅",
        0.1,
        {},
        [],
    ]
    kind = rng.randrange(4 if depth < 3 else 1)
    if kind < 2:
        return rng.choice(leaves)
    items = [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return items if kind == 2 else {f"k{i}": item for i, item in enumerate(items)}


def take(taken: list[Any], place: tuple[str, ...], item: Any) -> None:
    taken.append((place, item))


@pytest.mark.parametrize("part", [1, 2, 7, 1000])
@pytest.mark.parametrize("indent", [None, 1])
def test_long_lists_are_taken_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, indent: int | None
) -> None:
    monkeypatch.setattr(streaming, "_PART", part)
    rng = random.Random(part)
    for number in range(30):
        rows = [value(rng) for _ in range(rng.randrange(5))]
        data = {"a": value(rng), "series": {"x": {"long": rows, "b": value(rng)}}, "z": 12}
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(data, indent=indent, ensure_ascii=number % 2 == 0) + "\n")
        taken: list[Any] = []
        found = read_long(
            file,
            "result",
            lambda place: place == ("series", "x", "long"),
            partial(take, taken),
        )
        assert [item for _, item in taken] == rows
        data["series"]["x"]["long"] = []
        assert found == data


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": 1', '{"a" 1}', '{"a": [1, 2}', "[1] 2", '{"a": 1.}', "{1: 2}", "1e"]
)
def test_what_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError):
        json.loads(text)
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(UserError, match="is not valid JSON"):
        read_long(file, "result", lambda place: place == ("a",), lambda place, item: None)


def test_the_index_and_the_files_hold_every_latent(make_suite, monkeypatch):
    monkeypatch.setattr(latents, "SHARD", 4)
    suite = read_suites([make_suite(latents=10)])[0]
    own = suite.latents["layers.1"]
    assert own.choice == Choice(width=2048, live=30, how="one in three")
    written = dict(latents.files("name", own, {}))
    assert list(written) == ["name-0", "name-1", "name-2", "name-index-0", "name"]
    index = written["name-index-0"]
    assert index["id"] == [3 * i for i in range(10)] == [latent.latent for latent in own]
    assert (written["name"]["latents"], written["name"]["shard"]) == (10, 4)
    for at, latent in enumerate(own):
        told = written[f"name-{at // 4}"][at % 4]
        for context, original in zip(told["contexts"], latent.contexts, strict=True):
            assert [dict(context["on"]).get(i, 0) for i in range(32)] == pytest.approx(
                original.activations, rel=0.01
            )
        peaks = {legible(c.tokens[c.peak]).strip().lower() for c in latent.contexts}
        words = zip(*index["peaks"], strict=True)
        assert {word for word, rows in words if at in rows} == peaks


REPORT = """
import json, resource, sys
from pathlib import Path
from saeworks.report.build import write_report

root, copies = Path(sys.argv[1]), int(sys.argv[2])
file = root / "results" / "latents.json"
whole = json.loads(file.read_text(encoding="utf-8"))
rows = whole["series"]["layers.0"]["latents"]
lines = [json.dumps(row | {"latent": 10 * copy + i}) for copy in range(copies)
         for i, row in enumerate(rows)]
whole["series"]["layers.0"]["latents"] = "HERE"
file.write_text(json.dumps(whole).replace('"HERE"', "[" + ",".join(lines) + "]"))
size = file.stat().st_size
del lines, whole, rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_report([root], root / "out")
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(json.dumps([size, grown]))
"""


def test_memory_is_a_part_of_the_file(make_suite, tmp_path):
    """Parsed JSON alone takes several times the file."""
    suite = make_suite(sites=("layers.0",), latents=10)
    sizes = []
    for copies in (1, 400):
        command = [sys.executable, "-c", REPORT, str(suite), str(copies)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        sizes.append(json.loads(done.stdout))
    assert sizes[1][0] > 10 * 2**20
    assert sizes[1][1] < sizes[0][1] + 2 * sizes[1][0]
