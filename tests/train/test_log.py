import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saeworks.errors import UserError
from saeworks.train.log import MetricsLog, open_loggers


def record(step: int, **more: object) -> dict[str, object]:
    return {"kind": "train", "step": step, "site": "layers.0", **more}


def test_lines_are_json_and_a_resume_cuts_the_later_ones(tmp_path: Path):
    path = tmp_path / "new" / "metrics.jsonl"
    log = MetricsLog(path, "topk")
    assert log.content() == b""
    log.write([record(1, loss={"mse": float("nan")}), record(2)])
    kept = log.content()
    log.write([record(3)])
    log.restore(kept, print)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["loss"] == {"mse": None}


def test_tensorboard_gets_the_same_numbers(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = open_loggers(["tensorboard"], tmp_path, {}, step=0)
    MetricsLog(tmp_path / "metrics.jsonl", "topk", trackers).write(
        [record(5, fvu=0.25, loss={"mse": 2.0})]
    )
    trackers[0].close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (point,) = events.Scalars("topk/layers.0/train/fvu")
    assert (point.step, point.value) == (5, 0.25)
    assert events.Scalars("topk/layers.0/train/loss/mse")[0].value == 2.0


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_logger_that_is_not_installed_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = {"wandb": "wandb", "tensorboard": "torch.utils.tensorboard"}[name]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"log: {name} is not installed.*saeworks\[{name}\]"):
        open_loggers([name], tmp_path, {}, step=0)


def test_a_resumed_run_is_the_same_run_in_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **o: seen.append(o)))
    config = {"seed": 0, "train": {"lr": 1e-3, "log_every": 10}}
    other_log = {"seed": 0, "train": {"lr": 1e-3, "log_every": 20}}
    monkeypatch.chdir(tmp_path)
    open_loggers(["wandb"], tmp_path / "a", config, step=0)
    open_loggers(["wandb"], Path("a"), other_log, step=5)
    open_loggers(["wandb"], tmp_path / "b", config, step=0)
    open_loggers(["wandb"], tmp_path / "a", {**config, "seed": 1}, step=0)
    first, resumed, elsewhere, other = (options["id"] for options in seen)
    assert first == resumed and len({first, elsewhere, other}) == 3
    assert all(options["resume"] == "allow" for options in seen)


def test_a_log_that_cannot_be_written_is_a_user_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not write"):
        MetricsLog(tmp_path / "file" / "metrics.jsonl", "topk").write([record(1)])


def test_a_log_that_was_cut_or_changed_since_the_checkpoint_is_noticed(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    said: list[str] = []
    log = MetricsLog(path, "topk")
    log.write([record(1), record(2)])
    kept = log.content()
    log.write([record(3)])
    log.restore(kept, said.append)
    assert (path.read_bytes(), said) == (kept, [])
    for damaged in (kept[:-5], b"", kept.replace(b"2", b"7")):
        path.write_bytes(damaged)
        log.restore(kept, said.append)
        assert path.read_bytes() == kept
        assert f"{path} was cut or changed since the checkpoint" in said.pop()
    path.unlink()
    log.restore(kept, said.append)
    assert path.read_bytes() == kept and said
