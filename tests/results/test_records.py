"""Records are written plainly and read strictly."""

import json
from pathlib import Path
from typing import Any

import pytest

from saeworks.errors import UserError
from saeworks.results.log import read_log
from saeworks.results.records import parse, plain
from saeworks.results.series import (
    Coded,
    CodedConcept,
    CodedConcepts,
    Histogram,
    Load,
    Similarity,
    TokenContext,
    Tsne,
)

CONCEPT = CodedConcept("tense", "past", 2, [Coded(0, 7, 0.5)], None)


def read(cls: type[Any], data: Any) -> Any:
    return parse(cls, data, "f.json", "run it again", "series", "layers.0")


@pytest.mark.parametrize(
    "record", [CONCEPT, CodedConcepts([CONCEPT]), Histogram([0.0, 1.0], [3])], ids=str
)
def test_what_is_written_is_read(record: Any) -> None:
    assert read(type(record), json.loads(json.dumps(plain(record)))) == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown key 'series.layers.0.colour'; run it again"),
        ({"counts": None}, "'series.layers.0.counts' = None: input should be a valid array"),
        ({"counts": [1.5]}, "'series.layers.0.counts.0' = 1.5: input should be a valid integer"),
        ({"counts": ["3"]}, "'series.layers.0.counts.0' = '3': input should be a valid integer"),
        ({"edges": [0.0, float("nan")]}, "not a finite number"),
        ({"counts": [1, 2]}, "'series.layers.0': a histogram has one edge more than counts"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        read(Histogram, {"edges": [0.0, 1.0], "counts": [3]} | change)
    assert str(error.value).startswith("f.json: ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cls", "data"),
    [
        (Load, {"share": [1.0], "confidence": [], "live": [1]}),
        (
            Tsne,
            {key: [1] for key in ("latents", "expert")}
            | {"perplexity": 1.0}
            | {key: [[0.0]] for key in ("decoder", "encoder")},
        ),
        (
            Similarity,
            {"kind": "cut", "blocks": 2, "live": [1, 1], "matrix": [[1.0, 1.0]], "control": None},
        ),
    ],
)
def test_lists_that_belong_together_are_of_one_length(cls: type[Any], data: Any) -> None:
    with pytest.raises(UserError, match="lists are not of one length"):
        read(cls, data)


def test_a_long_value_is_not_repeated() -> None:
    with pytest.raises(UserError) as error:
        read(Histogram, {"edges": "x" * 10**6, "counts": []})
    assert len(str(error.value)) < 200


def test_a_context_has_its_peak() -> None:
    data = {"kind": "top", "tokens": ["a"], "activations": [1.0], "peak": 1, "document": 0}
    with pytest.raises(UserError, match="1 tokens with its peak at 1"):
        read(TokenContext, data)


def test_a_log_keeps_the_last_of_a_step(tmp_path: Path) -> None:
    line = {"kind": "train", "step": 2, "tokens": 9, "site": "a", "of_an_architecture": 1.0}
    lines = [line | {"fvu": 0.5}, line | {"step": 1}, line | {"fvu": 0.25}]
    (tmp_path / "log").write_text("\n".join(map(json.dumps, lines)))
    assert [(at.step, at.fvu) for at in read_log(tmp_path / "log")] == [(1, None), (2, 0.25)]
