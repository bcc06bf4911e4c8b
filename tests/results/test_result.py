import json
from pathlib import Path

import pytest

from saeworks.errors import UserError
from saeworks.results.metric import Metric, Value
from saeworks.results.result import Result


def example() -> Result:
    return Result(
        evaluation="reconstruction",
        title="A title",
        config={"seed": 0},
        tokens=10,
        documents=2,
        metrics={"fvu": Metric("FVU", "a ratio", better="lower")},
        sites={"layers.0": {"fvu": Value(0.5, 0.4, 0.6)}, "layers.1": {"fvu": Value(None)}},
        series={"layers.0": {"histogram": {"edges": [0, 1], "counts": [3]}}},
        findings=("It is a half.",),
    )


def test_round_trip(tmp_path: Path) -> None:
    example().write(tmp_path / "r.json")
    assert Result.read(tmp_path / "r.json") == example()
    plain = json.loads((tmp_path / "r.json").read_text())
    assert plain["schema"] == 1
    assert plain["sites"]["layers.0"]["fvu"] == {"value": 0.5, "low": 0.4, "high": 0.6}
    assert example().values()["layers.1"]["fvu"] == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"tokens": "many"}, "'tokens'"),
        ({"sites": {"layers.0": {"mse": {"value": 1.0}}}}, "does not describe|do not describe"),
        ({"sites": {"layers.0": {"fvu": {"value": "x"}}}}, "fvu"),
        (
            {"sentences": {"load": "FVU {fvu}, MSE {mse%}."}},
            "'mse', which its metrics do not describe",
        ),
    ],
)
def test_reading_is_strict(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "r.json"
    example().write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as error:
        Result.read(path)
    assert "\n" not in str(error.value)


def test_not_json_or_missing(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{")
    for name in ("r.json", "none.json"):
        with pytest.raises(UserError, match=name):
            Result.read(tmp_path / name)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="must hold a JSON object"):
        Result.read(tmp_path / "list.json")
