import errno
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor

from saeworks.errors import UserError
from saeworks.files import access
from saeworks.train import checkpoints


def save(root: Path, step: int, value: float | None = None) -> Path:
    tensors: list[tuple[str, dict[str, Tensor]]] = [
        ("run", {"rng": torch.arange(100)}),
        ("sae-0000", {"sae.w": torch.full((50, 4), float(step if value is None else value))}),
    ]
    return checkpoints.save(root, step, {"source": {"at": step}}, tensors)


def test_the_newest_is_read_back_and_two_are_kept(tmp_path: Path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert [f.name for f in checkpoints.folders(tmp_path)] == ["step-00000003", "step-00000002"]
    newest = checkpoints.newest(tmp_path, say=pytest.fail)
    assert newest is not None
    assert newest.state["step"] == 3 and newest.state["source"] == {"at": 3}
    assert torch.equal(newest.tensors("sae-0000")["sae.w"], torch.full((50, 4), 3.0))


def test_what_is_not_finite_is_refused_by_name(tmp_path: Path):
    save(tmp_path, 1, float("nan"))
    newest = checkpoints.newest(tmp_path, say=pytest.fail)
    assert newest is not None
    with pytest.raises(UserError, match=r"sae-0000\.safetensors: sae\.w has NaN or infinite"):
        newest.tensors("sae-0000")


def test_no_checkpoint_is_none(tmp_path: Path):
    assert checkpoints.newest(tmp_path / "checkpoints", say=pytest.fail) is None


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize(
    "name", ["run.safetensors", "sae-0000.safetensors", "state.json", "state.sha256"]
)
def test_a_damaged_one_is_never_believed(tmp_path: Path, damage: Callable[[Path], None], name: str):
    save(tmp_path, 1)
    damage(save(tmp_path, 2) / name)
    lines: list[str] = []
    newest = checkpoints.newest(tmp_path, lines.append)
    assert newest is not None and newest.state["step"] == 1
    assert len(lines) == 1 and "step-00000002 cannot be used, going back" in lines[0]


def test_when_all_are_damaged_nothing_is_thrown_away(tmp_path: Path):
    flip(save(tmp_path, 1) / "state.json")
    flip(save(tmp_path, 2) / "run.safetensors")
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact; delete that folder"):
        checkpoints.newest(tmp_path, say=lambda line: None)
    assert len(checkpoints.folders(tmp_path)) == 2


def test_a_damaged_one_of_the_same_step_is_written_anew(tmp_path: Path):
    flip(save(tmp_path, 2) / "run.safetensors")
    save(tmp_path, 2)
    assert checkpoints.newest(tmp_path, say=pytest.fail) is not None


def test_a_full_disk_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, 1)

    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match="No space left on device; free some space"):
            save(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001"]
    newest = checkpoints.newest(tmp_path, say=pytest.fail)
    assert newest is not None and newest.state["step"] == 1


def test_what_a_killed_process_left_is_no_checkpoint(tmp_path: Path):
    save(tmp_path, 1)
    (tmp_path / ".unfinished").mkdir()
    (tmp_path / ".unfinished" / "state.json").write_text("{")
    newest = checkpoints.newest(tmp_path, say=pytest.fail)
    assert newest is not None and newest.state["step"] == 1
    save(tmp_path, 2)
    assert not (tmp_path / ".unfinished").exists()


def test_what_is_saved_is_the_state_that_was_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """However long the writing takes, and whatever becomes of the tensors."""
    go_on, write = Event(), access.write_tensors

    def wait_and_write(*args: Any) -> str:
        go_on.wait()
        return write(*args)

    monkeypatch.setattr(checkpoints, "write_tensors", wait_and_write)
    saver, weight = checkpoints.Saver(tmp_path), torch.zeros(4)
    saver.save(1, {"at": 1}, {"sae-0000": {"w": weight}}, {"topk": b"a line\n", "empty": b""})
    weight += 1  # the run goes on
    assert checkpoints.newest(tmp_path, say=pytest.fail) is None
    go_on.set()
    saver.save(2, {"at": 2}, {"sae-0000": {"w": weight}}, {})  # after the first, which is whole
    saver.wait()
    newest = checkpoints.newest(tmp_path, say=pytest.fail)
    assert newest is not None and newest.state["at"] == 2
    assert torch.equal(newest.tensors("sae-0000")["w"], torch.ones(4))
    oldest = checkpoints.Checkpoint(tmp_path / "step-00000001", {"files": {}})
    assert torch.equal(oldest.tensors("sae-0000")["w"], torch.zeros(4))
    assert oldest.texts() == {"topk": b"a line\n", "empty": b""}
    saver.close()


def test_a_checkpoint_that_could_not_be_written_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    saver = checkpoints.Saver(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_tensors", full)
        saver.save(1, {}, {"run": {"rng": torch.arange(3)}}, {})
        with pytest.raises(UserError, match="No space left on device; free some space"):
            saver.wait()
    saver.save(1, {}, {"run": {"rng": torch.arange(3)}}, {})
    saver.wait()
    assert checkpoints.newest(tmp_path, say=pytest.fail) is not None
    saver.close()
