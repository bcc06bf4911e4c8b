"""Reading and writing files so that nothing is half-written and nothing corrupt is believed."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saeforge.errors import UserError
from saeforge.folders import share, sync, temporary_file

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` if the block ends well.

    The file's bytes are on disk before the rename, so that a crash leaves the old file or the new
    one, never a part. An error while writing (a full disk, say) leaves the old file as it was.
    """
    try:
        with temporary_file(path) as temporary:
            yield temporary
            share(temporary, 0o644)
            sync(temporary)
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"could not write {path}: {error.strerror or error}; "
            f"free some space, or see that {path.parent} can be written in"
        ) from error


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically. NaN and infinity, which are not JSON, become null."""
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def read_json(path: Path, what: str = "file") -> Any:
    """Read JSON.

    Raises:
        UserError: if there is no such file or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}; check the path") from error
    except (ValueError, RecursionError) as error:  # nested too deeply to be read
        raise UserError(
            f"{what} {path} is not valid JSON ({error}); restore it or write it anew"
        ) from error


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> str:
    """Write a safetensors file atomically and return its SHA-256."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def save(temporary: Path) -> None:
        try:
            save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, temporary)
        except SafetensorError as error:  # wraps the operating system's errors, a full disk too
            raise OSError(str(error)) from error

    return _write_hashed(path, save)


def _write_hashed(path: Path, save: Callable[[Path], None]) -> str:
    with replacing(path) as temporary:
        save(temporary)
        return sha256(temporary)


def read_tensors(path: Path, expected_sha256: str | None = None) -> "dict[str, Tensor]":
    """Read a safetensors file onto the CPU, checking it against its recorded SHA-256.

    Raises:
        UserError: if the file is missing, truncated, or not the bytes that were written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    if expected_sha256 is not None and sha256(path) != expected_sha256:
        raise UserError(
            f"{path} is corrupt: its SHA-256 is not the recorded {expected_sha256[:12]}…; "
            "restore it from a copy or train it again"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error})") from error


def check_finite(file: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Refuse tensors of floats that hold NaN or infinity, or more than float32 can.

    Raises:
        UserError: for the first of them, by its name.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        low, high = tensor.detach().float().aminmax()  # NaN wins in both
        if not (low.isfinite() and high.isfinite()):
            raise UserError(
                f"{file}: {name} has NaN or infinite values; restore the file from a copy, or "
                "train again with a lower learning rate"
            )
