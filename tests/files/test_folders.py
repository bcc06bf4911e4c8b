import errno
import fcntl
import os
import sys
import time
from pathlib import Path

import pytest

from saeworks.errors import UserError
from saeworks.files import access as files
from saeworks.files import folders
from saeworks.interop.base import new_folder


def refusing(number: int):
    """A system call that fails like this."""

    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def left_by_a_killed_process(path: Path) -> Path:
    """The temporary file of a write that was never ended."""
    left = path.with_name(f".{path.name}.saeworks-ab12_xyz.tmp")
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("half")
    return left


def test_what_killed_processes_left_is_swept(tmp_path: Path):
    left = left_by_a_killed_process(tmp_path / "a.json")
    folder = tmp_path / ".b.saeworks-00000000.tmp"
    (folder / "inner").mkdir(parents=True)
    folders.sweep(tmp_path)
    assert not left.exists() and not folder.exists()


@pytest.mark.parametrize(
    "name", [".a.json.tmp", "a.json.saeworks-ab12_xyz.tmp", ".a.json.abcdefgh.tmp", ".x.saeworks-a"]
)
def test_what_is_not_ours_stays(tmp_path: Path, name: str):
    (tmp_path / name).write_text("mine")
    folders.sweep(tmp_path)
    assert (tmp_path / name).exists()


def test_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "kept").write_text("mine")
    (tmp_path / "runs").mkdir()
    link = tmp_path / "runs" / ".a.saeworks-ab12_xyz.tmp"
    link.symlink_to(tmp_path / "kept")
    folders.sweep(tmp_path / "runs")
    assert link.is_symlink() and (tmp_path / "kept").read_text() == "mine"


def test_what_is_being_written_stays(tmp_path: Path):
    with files.replacing(tmp_path / "a.json") as temporary, new_folder(tmp_path / "b") as folder:
        temporary.write_text("all of it")
        folders.sweep(tmp_path)
        assert temporary.exists() and folder.exists()
    assert (tmp_path / "a.json").read_text() == "all of it"
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b"]


def test_without_locks_only_what_is_old_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    left = left_by_a_killed_process(tmp_path / "a.json")
    folders.sweep(tmp_path)
    assert left.exists()
    os.utime(left, (0, time.time() - 25 * 3600))
    folders.sweep(tmp_path)
    assert not left.exists()


def test_a_file_system_without_modes_or_locks_or_sync_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Path, "chmod", refusing(errno.EPERM))
    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL))
    monkeypatch.setitem(sys.modules, "fcntl", None)
    files.write_text(tmp_path / "a", "x")
    with new_folder(tmp_path / "b") as folder:
        (folder / "c").write_text("y")
    assert (tmp_path / "a").read_text() == "x" and (tmp_path / "b" / "c").read_text() == "y"


def test_bytes_that_do_not_reach_the_disk_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with pytest.raises(
        UserError, match=r"could not write .*a: Input/output error; free some space"
    ):
        files.write_text(tmp_path / "a", "x")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_made_ready_without_a_trace(tmp_path: Path):
    folders.make_ready(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file/a/b", "x" * 300, "loop/a", "a\0b"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"^cannot write to [\s\S]*; choose another --out$"):
        folders.make_ready(tmp_path / name)


def test_whose_a_folder_is(tmp_path: Path):
    assert folders.owner(tmp_path) is None
    (tmp_path / "run.json").write_text('{"name": "of another program"}')
    assert folders.owner(tmp_path / "a") is None
    (tmp_path / "run.json").write_text('{"schema": 1}')
    assert folders.owner(tmp_path / "a" / "b") == folders.owner(tmp_path) == tmp_path
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "suite.json").write_text("{cut off")
    assert folders.owner(tmp_path / "a" / "b") == tmp_path / "a"


def test_a_path_that_is_not_utf8_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its path is not UTF-8; choose another --out") as caught:
        folders.make_ready(tmp_path / os.fsdecode(b"o\xff"))
    str(caught.value).encode()  # shown as what can be printed
