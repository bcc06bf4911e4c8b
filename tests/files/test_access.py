import json
import os
from pathlib import Path

import pytest
import torch

from saeworks.errors import UserError
from saeworks.files import access as files


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert files.read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with (
        pytest.raises(UserError, match=r"could not write .*a\.json: No space left on device; free"),
        files.replacing(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert files.read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_tensors_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import safetensors.torch
    from safetensors import SafetensorError

    path = tmp_path / "w.safetensors"
    files.write_tensors(path, {"w": torch.zeros(3)})
    before = path.read_bytes()

    def full(tensors: object, name: Path) -> None:
        Path(name).write_bytes(b"half")
        raise SafetensorError("Io error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(UserError, match=r"could not write .*No space left on device"):
        files.write_tensors(path, {"w": torch.ones(3)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"could not write .*file/a: "):
        files.write_text(tmp_path / "file" / "a", "x")


def test_files_are_readable_by_others(tmp_path: Path):
    files.write_text(tmp_path / "deep" / "er" / "a", "x")
    assert (tmp_path / "deep" / "er" / "a").stat().st_mode & 0o777 == 0o644


def test_json_has_no_nan(tmp_path: Path):
    files.write_json(tmp_path / "a", {"x": [float("nan"), (float("inf"), 1.5)], 3: "é"})
    assert json.loads((tmp_path / "a").read_text()) == {"x": [None, [None, 1.5]], "3": "é"}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_what_is_not_json_is_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=r"suite .*a is not valid JSON \(.*\); restore it"):
        files.read_json(tmp_path / "a", "suite")


def test_a_missing_json_is_one_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"suite .*a: No such file or directory; check the path"):
        files.read_json(tmp_path / "a", "suite")


def test_tensors_come_back_to_the_bit(tmp_path: Path):
    path, tensors = tmp_path / "w", {"a": torch.randn(4, 3), "b": torch.randn(6, 2).mT}
    digest = files.write_tensors(path, tensors)
    assert digest == files.sha256(path)
    back = files.read_tensors(path, digest)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_one_flipped_bit_is_noticed(tmp_path: Path):
    path = tmp_path / "w"
    digest = files.write_tensors(path, {"a": torch.randn(4, 3)})
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=rf"w is corrupt: its SHA-256 is not .*{digest[:12]}"):
        files.read_tensors(path, digest)


@pytest.mark.parametrize("keep", [0, 4, -5])
def test_a_truncated_file_is_one_line(tmp_path: Path, keep: int):
    path = tmp_path / "w"
    files.write_tensors(path, {"a": torch.randn(4, 3)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="is not a readable safetensors file"):
        files.read_tensors(path)


def test_missing_tensors_are_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="w: no such file; check the path"):
        files.read_tensors(tmp_path / "w")
