"""Checkpoints: written whole or not at all, believed only if every byte is the one written.

A checkpoint is a folder `step-XXXXXXXX`: safetensors files, `state.json` with everything that is
not a tensor and the SHA-256 of each file, and `state.sha256`, that of `state.json`.
"""

import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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
TEXTS = "logs"
"""Name in a checkpoint of the compressed texts that it keeps."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose bytes have been verified."""

    folder: Path
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved under a name.

        Raises:
            UserError: if one is not finite.
        """
        file = self.folder / f"{name}.safetensors"
        tensors = read_tensors(file)
        check_finite(file, tensors)
        return tensors

    def texts(self) -> dict[str, bytes]:
        """The texts it keeps, by name."""
        kept = self.tensors(TEXTS)
        return {name: zlib.decompress(packed.numpy().tobytes()) for name, packed in kept.items()}


class Saver:
    """Saves a run's states in a thread while the run goes on.

    What is saved is a copy that was taken when `save` was called. One state is written at a time.

    Args:
        root: the folder of the run's checkpoints.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]],
        texts: Mapping[str, bytes],
    ) -> None:
        """Begin to write a checkpoint, once the one before is there.

        Args:
            state: JSON values.
            tensors: by the names of files and their own.

        Raises:
            UserError: as `wait`, of the one before.
        """
        self.wait()
        copied = {
            file: {name: x.detach().to("cpu", copy=True) for name, x in values.items()}
            for file, values in tensors.items()
        }
        files = _files(copied, texts)
        self._writing = self._thread.submit(save, self.root, step, dict(state), files)

    def wait(self) -> None:
        """Until what was handed over is on the disk.

        Raises:
            UserError: if it could not be written, as `save` below; older checkpoints are untouched.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        self._thread.shutdown()


def _files(
    tensors: Mapping[str, Mapping[str, Tensor]], texts: Mapping[str, bytes]
) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    yield from tensors.items()
    packed = {name: bytearray(zlib.compress(text)) for name, text in texts.items()}
    yield TEXTS, {name: torch.frombuffer(x, dtype=torch.uint8) for name, x in packed.items()}


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
