import json
import sys
from pathlib import Path

import pytest

from saeforge.errors import UserError
from saeforge.train.log import MetricsLog, open_trackers, rss_bytes


def record(step: int, **more: object) -> dict[str, object]:
    return {"kind": "train", "step": step, "site": "layers.0", **more}


def test_lines_are_json_and_a_resume_cuts_the_later_ones(tmp_path: Path):
    path = tmp_path / "new" / "metrics.jsonl"
    log = MetricsLog(path, "topk")
    assert log.length() == 0
    log.write([record(1, loss={"mse": float("nan")}), record(2)])
    length = log.length()
    log.write([record(3)])
    log.truncate(length)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["loss"] == {"mse": None}


def test_tensorboard_gets_the_same_numbers(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = open_trackers(["tensorboard"], tmp_path, {}, step=0)
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
    with pytest.raises(UserError, match=rf"log: {name} is not installed.*saeforge\[{name}\]"):
        open_trackers([name], tmp_path, {}, step=0)


def test_an_unknown_logger_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="log 'mlflow' is unknown"):
        open_trackers(["mlflow"], tmp_path, {}, step=0)


def test_a_log_that_cannot_be_written_is_a_user_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not write"):
        MetricsLog(tmp_path / "file" / "metrics.jsonl", "topk").write([record(1)])


def test_memory_is_that_of_this_process():
    assert 2**20 < rss_bytes() < 2**40
