"""The folder that a command will write in: whether it can be written, whether it belongs to a run
or suite, and what killed processes have left in it."""

import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from saeworks.errors import UserError

Lock = Literal["ours", "taken", "unknown"]

_BEGIN, _END = ".saeworks-", ".tmp"
"""What stands before and after the eight random letters of a temporary name."""
_TEMPORARY = re.compile(r"\..+\.saeworks-[a-z0-9_]{8}\.tmp")
_DAY = 24 * 3600.0


def lock(descriptor: int) -> Lock:
    """Lock an open file for this process, for as long as it is open, and say how that went.

    `taken`: another process has it. `unknown`: the system or the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return "unknown"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError:
        return "unknown"
    return "ours"


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path`, whose folder is made; what is left of it at the end is
    removed. It is locked meanwhile, so that nobody takes it for a killed process's.

    Raises:
        OSError: if it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(_END, f".{path.name}{_BEGIN}", path.parent)
    with os.fdopen(handle, "r+b") as file:
        lock(file.fileno())
        if os.name == "nt":  # where an open file can be neither written by others nor renamed
            file.close()
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, as `temporary_file` does a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(_END, f".{path.name}{_BEGIN}", path.parent))
    descriptor = None if os.name == "nt" else os.open(folder, os.O_RDONLY)
    try:
        if descriptor is not None:
            lock(descriptor)
        yield folder
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def share(path: Path, mode: int) -> None:
    """Let others read what was made for this process alone, on file systems that know modes."""
    with suppress(OSError):
        path.chmod(mode)


def sync(path: Path) -> None:
    """Wait until a file's bytes are on the disk, on file systems that can tell.

    Raises:
        OSError: if they could not be written.
    """
    with path.open("r+b") as file:  # Windows syncs no file that is open for reading alone
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders right in `folder` that killed processes have left:
    ours alone, and none that a process still writes."""
    for path in folder.glob(f".*{_BEGIN}*"):
        with suppress(OSError):
            if not _TEMPORARY.fullmatch(path.name) or path.is_symlink() or not _stale(path):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _stale(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or os.name == "nt" else os.O_RDWR)
    try:
        state = lock(descriptor)
        old = time.time() - os.fstat(descriptor).st_mtime > _DAY
    finally:
        os.close(descriptor)
    return state == "ours" or (state == "unknown" and old)


def make_ready(folder: Path, way_out: str = "choose another --out") -> None:
    """Before any work: refuse a folder that cannot be written in, and sweep it; one that is not
    there is not made.

    Args:
        way_out: what the user can do about it.

    Raises:
        UserError: if no file can be made in it, or in the nearest folder above that is there; or
            its path is not UTF-8, which safetensors does not open.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(f"cannot write to {folder}: its path is not UTF-8; {way_out}") from None
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(folder)  # a name that is too long is none that is missing
        nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write to {folder}: {reason}; {way_out}") from None
    sweep(folder)


def owner(folder: Path) -> Path | None:
    """The innermost run or suite that a folder lies in, if any; a run or suite itself counts."""
    real = Path(os.path.abspath(folder))
    return next((path for path in (real, *real.parents) if is_record(path)), None)


def is_record(folder: Path) -> bool:
    """Whether it is a run's or a suite's folder: other programs have files of these names, too."""
    for name in ("run.json", "suite.json"):
        try:
            if not (folder / name).is_file():
                continue
            text = (folder / name).read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        with suppress(ValueError, RecursionError):
            content = json.loads(text)
            if not (isinstance(content, dict) and "schema" in content):
                continue
        return True
    return False
