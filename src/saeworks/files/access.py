"""Reading and writing files so that nothing is half-written, nothing corrupt is believed, and no
link or device is followed to where it should not."""

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from saeworks.errors import UserError
from saeworks.files.folders import share, sync, temporary_file

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_JSON = 2**30
"""The most bytes of JSON that are read."""
LARGEST_INT = 2**64
"""Whole numbers in JSON are below it: no count or seed is larger."""


def inside(root: Path, name: str | Path) -> Path:
    """`root/name`, to be read: within `root`, also once links are followed. In a snapshot of the
    Hugging Face cache, whose files are links to its `blobs`, those are within it, too.

    Raises:
        UserError: if it leads elsewhere, or can be no path at all.
    """
    file = _below(root, name)
    target, top = real(file), real(root)
    places = [
        top,
        *(p.parent.parent / "blobs" for p in (top, *top.parents) if p.parent.name == "snapshots"),
    ]
    if not any(target.is_relative_to(place) for place in places):
        raise _outside(root, name)
    return file


def own_folder(root: Path, name: str | Path) -> Path:
    """The folder `root/name`, to be written in: within `root`, also once links are followed.

    Raises:
        UserError: if it leads elsewhere.
    """
    folder = _below(root, name)
    if not real(folder).is_relative_to(real(root)):
        raise UserError(
            f"{folder} leads to {real(folder)}, outside {root}: nothing is written there; remove "
            "that link"
        )
    return folder


def _below(root: Path, name: str | Path) -> Path:
    """`root/name`, where its parts alone do not lead outside `root`."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise _outside(root, name)
    return root / name


def _outside(root: Path, name: str | Path) -> UserError:
    return UserError(f"{root}: the path {str(name)!r} leads outside the suite; it was not opened")


def is_plain_name(name: str) -> bool:
    """Whether a site's or group's name can be a folder's on every system, and leads nowhere."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", name) is not None


def real(path: Path) -> Path:
    """Where a path leads, all links followed.

    Raises:
        UserError: if it can be no path.
    """
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a zero byte
        raise UserError(f"{str(path)!r} can be no path ({error})") from None


def what_is(path: Path) -> Literal["file", "folder", "other", "none"]:
    """What lies at a path: a regular file, a folder, something else (a pipe, a device), or nothing.

    Links are followed. A name that no file can have (too long, with a null) is nothing.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "none"
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


def is_file(path: Path) -> bool:
    """Whether a regular file lies at a path."""
    return what_is(path) == "file"


def is_dir(path: Path) -> bool:
    """Whether a folder lies at a path."""
    return what_is(path) == "folder"


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read: neither a pipe nor a device, which would not end.

    Raises:
        OSError: if it cannot be opened or is something else.
    """
    return os.fdopen(_regular(path, os.O_RDONLY), "rb")


def open_own(path: Path) -> IO[bytes]:
    """Open a file to write at its end, and make it if there is none; never through a link.

    Raises:
        OSError: if it is a link or no regular file, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(_regular(path, flags), "ab")


def _regular(path: Path, flags: int) -> int:
    """The descriptor of a regular file, opened without waiting for the other end of a pipe."""
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags, 0o644)
    except ValueError as error:  # a null in the name
        raise OSError(errno.EINVAL, str(error)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return descriptor


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
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def head_digest(path: Path) -> str:
    """Hex SHA-256 of a file's length and its first 64 MiB, which is enough to know it again."""
    with open_regular(path) as file:
        length = str(os.fstat(file.fileno()).st_size).encode()
        return hashlib.sha256(length + b"\n" + file.read(2**26)).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class LazyList(Sequence[Any]):
    """A list whose items are made when they are asked for; it is written item by item, each on a
    line, and never in memory as a whole."""

    def __init__(self, length: int, make: Callable[[int], Any]) -> None:
        self._places, self._make = range(length), make

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self._make(place) for place in self._places[at]]
        return self._make(self._places[at])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically. NaN and infinity, which are not JSON, become null."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json_parts(value))
        file.write("\n")


def json_parts(value: object, line: str = "\n") -> Iterator[str]:
    """The text of a value as JSON, in parts; that of a mapping ends with a line of `}`.

    Args:
        line: what ends a line and indents the next.
    """
    if isinstance(value, LazyList):
        yield "["
        for at, item in enumerate(value):
            yield ("," if at else "") + line + " " + _compact(item)
        yield line + "]"
    elif isinstance(value, Mapping) and value:
        yield "{"
        for at, (key, item) in enumerate(value.items()):
            yield ("," if at else "") + line + " " + _compact(str(key)) + ": "
            yield from json_parts(item, line + " ")
        yield line + "}"
    else:
        text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
        yield text.replace("\n", line)


def _compact(value: object) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


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
        UserError: if there is no such file, it is not JSON, it is larger than a gigabyte, or it has
            a lone surrogate or a whole number from 2⁶⁴ on.
    """
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST_JSON + 1)
        if len(data) > LARGEST_JSON:
            raise ValueError(f"longer than {LARGEST_JSON:,} bytes")
        return parse_json(data.decode("utf-8"))
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}; check the path") from error
    except (ValueError, RecursionError) as error:  # nested too deeply to be read
        raise UserError(
            f"{what} {path} is not valid JSON ({error}); restore it or write it anew"
        ) from error


def parse_json(text: str) -> Any:
    """The value of JSON from outside.

    Raises:
        ValueError: if it is not JSON, or has a lone surrogate or a whole number from 2⁶⁴ on.
        RecursionError: if it is nested too deeply.
    """
    value = json.loads(text, parse_int=whole)
    refuse_surrogates(value, text)
    return value


def refuse_surrogates(value: object, text: str) -> None:
    """Check a value that was read from this JSON.

    Raises:
        ValueError: if it has a lone surrogate.
    """
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it has a lone surrogate, which is no text") from None


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def whole(digits: str) -> int:
    """A whole number of JSON from outside.

    Raises:
        ValueError: from 2⁶⁴ on.
    """
    if len(digits) > 21 or abs(value := int(digits)) >= LARGEST_INT:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return value


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> str:
    """Write a safetensors file atomically and return its SHA-256."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        try:
            save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, temporary)
        except SafetensorError as error:  # wraps the operating system's errors, a full disk too
            raise OSError(str(error)) from error
        return sha256(temporary)


def read_tensors(path: Path, expected_sha256: str | None = None) -> "dict[str, Tensor]":
    """Read a safetensors file onto the CPU, checking it against its recorded SHA-256.

    Raises:
        UserError: if the file is missing, truncated, or not the bytes that were written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not is_file(path):
        raise UserError(f"{path}: no such file; check the path")
    if expected_sha256 is not None and sha256(path) != expected_sha256:
        raise UserError(
            f"{path} is corrupt: its SHA-256 is not the recorded {expected_sha256[:12]}…; "
            "restore it from a copy or train it again"
        )
    try:
        return load_file(path)
    except (SafetensorError, *_UNREADABLE) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error})") from error


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError)
"""What else safetensors and torch raise for a file that is not one, or does not fit in memory."""


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in a safetensors file, from its header alone.

    Raises:
        UserError: if it is missing or none.
    """
    from safetensors import SafetensorError, safe_open

    if not is_file(path):
        raise UserError(f"{path}: no such file; check the path")
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, *_UNREADABLE) as error:
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
