import errno
import fcntl
import sys
from pathlib import Path

import pytest

from saeworks.errors import UserError
from saeworks.train.run_dir import RunDir, check_place

IDENTITY = {"seed": 0}


def run_dir(path: Path) -> RunDir:
    return RunDir(path, {"topk": path / "topk"}, IDENTITY)


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("missing", ["support", "module"])
def test_a_folder_without_locks_is_used_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
):
    if missing == "support":
        monkeypatch.setattr(fcntl, "flock", no_locks)
    else:
        monkeypatch.setitem(sys.modules, "fcntl", None)
    said: list[str] = []
    with run_dir(tmp_path / "run").opened(said.append) as state:
        assert state == "new"
    assert len(said) == 1 and f"{tmp_path / 'run'} cannot be locked here" in said[0]


def test_only_contention_is_another_process(tmp_path: Path):
    said: list[str] = []
    with (
        run_dir(tmp_path).opened(said.append),
        pytest.raises(UserError, match="another process is writing in"),
        run_dir(tmp_path).opened(said.append),
    ):
        pass
    assert said == []


@pytest.mark.parametrize("place", ["topk", "topk/deeper", "new"])
def test_no_run_lies_in_another(tmp_path: Path, place: str):
    with run_dir(tmp_path / "run").opened(print):
        pass
    with pytest.raises(UserError, match=r"lies in .*/run, which is another run's or suite's"):
        check_place(tmp_path / "run" / place)
    with (
        pytest.raises(UserError, match=r"lies in .*/run, which is"),
        run_dir(tmp_path / "run" / place).opened(print),
    ):
        pass
    check_place(tmp_path / "run")
    check_place(tmp_path / "beside")


@pytest.mark.parametrize("place", ["a", "a/b"])
def test_no_run_is_begun_around_another(tmp_path: Path, place: str):
    with run_dir(tmp_path / place).opened(print):
        pass
    with (
        pytest.raises(UserError, match=rf"{place} holds another run or suite; choose another"),
        run_dir(tmp_path).opened(print),
    ):
        pass


def test_what_a_killed_run_left_is_swept_by_the_next(tmp_path: Path):
    with run_dir(tmp_path).opened(print):
        pass
    mine = tmp_path / "topk" / ".notes.tmp"
    left = [
        folder / ".x.saeworks-ab12_xyz.tmp"
        for folder in (
            tmp_path,
            tmp_path / "checkpoints",
            tmp_path / "topk",
            tmp_path / "topk" / "groups" / "layers.0",
        )
    ]
    for file in (mine, *left, tmp_path / "checkpoints" / ".unfinished" / "run.safetensors"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")
    with run_dir(tmp_path).opened(print) as state:
        assert state == "running"
        assert [file for file in left if file.exists()] == []
    assert mine.exists()
    assert not (tmp_path / "checkpoints" / ".unfinished").exists()
