"""Checkpoints: written whole or not at all, believed only if every byte is the one written.

A checkpoint is a folder `step-XXXXXXXX`: safetensors files, `state.json` with everything that is
not a tensor and the SHA-256 of each file, and `state.sha256`, that of `state.json`.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from saeworks.errors import UserError
from saeworks.files.access import (
    check_finite,
    inside,
    is_file,
    read_json,
    read_tensors,
    sha256,
    write_json,
    write_tensors,
    write_text,
)
from saeworks.train.run_dir import UNFINISHED

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose bytes have been verified."""

    folder: Path
    state: dict[str, Any]

    def has(self, name: str) -> bool:
        """Whether tensors were saved under a name."""
        return f"{name}.safetensors" in self.state["files"]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved under a name.

        Raises:
            UserError: if one is not finite.
        """
        file = self.folder / f"{name}.safetensors"
        tensors = read_tensors(file)
        check_finite(file, tensors)
        return tensors


def save(
    root: Path,
    step: int,
    state: Mapping[str, Any],
    tensors: Iterable[tuple[str, Mapping[str, Tensor]]],
) -> Path:
    """Write `root/step-XXXXXXXX`, then delete all but the newest few.

    A step that has a checkpoint keeps it: the same step of the same run has the same bytes.

    Args:
        state: JSON values.
        tensors: names and tensors, one file each; may be made one at a time.

    Raises:
        UserError: if the disk is full or the folder cannot be written; older ones are untouched.
    """
    target, unfinished = root / f"step-{step:08d}", root / UNFINISHED
    try:
        if target.exists():
            if _intact(target):
                return target
            shutil.rmtree(target)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        files = {
            f"{name}.safetensors": write_tensors(unfinished / f"{name}.safetensors", values)
            for name, values in tensors
        }
        write_json(unfinished / "state.json", {**state, "step": step, "files": files})
        write_text(unfinished / "state.sha256", sha256(unfinished / "state.json") + "\n")
        unfinished.rename(target)
        for old in folders(root)[KEEP:]:
            shutil.rmtree(old)
    except OSError as error:
        raise UserError(
            f"could not write the checkpoint {target}: {error.strerror or error}; free some "
            "space and run the same command again"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def folders(root: Path) -> list[Path]:
    """Checkpoints of a run, newest first."""
    return sorted((p for p in root.glob("step-*") if p.is_dir()), reverse=True)


def newest(root: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is intact; None if there is none at all.

    Raises:
        UserError: if there are some and all are broken.
    """
    saved = folders(root)
    for folder in saved:
        try:
            return Checkpoint(folder, _verified(folder))
        except UserError as error:
            say(f"checkpoint {folder.name} cannot be used, going back to the one before: {error}")
    if saved:
        raise UserError(
            f"no checkpoint in {root} is intact; delete that folder to train again from the start"
        )
    return None


def _intact(folder: Path) -> bool:
    try:
        _verified(folder)
    except UserError:
        return False
    return True


def _verified(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint, after every file has shown its recorded SHA-256."""
    try:
        recorded = (folder / "state.sha256").read_text(encoding="utf-8")
        genuine = f"{sha256(folder / 'state.json')}\n" == recorded
    except (OSError, ValueError):
        genuine = False
    if not genuine:
        raise UserError(f"{folder / 'state.json'} is missing or corrupt")
    state = read_json(folder / "state.json", "checkpoint")
    files = state.get("files") if isinstance(state, dict) else None
    if not isinstance(files, dict):
        raise UserError(f"{folder / 'state.json'} is not a checkpoint's")
    for name, digest in files.items():
        file = inside(folder, name)
        if not is_file(file) or sha256(file) != digest:
            raise UserError(f"{file} is missing or corrupt")
    return dict(state)
