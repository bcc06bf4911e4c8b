"""What binds the files of a suite to one another, so that a changed one is named.

`suite.json` holds the SHA-256 of every file that training wrote, and ends with a seal: the SHA-256
of all that stands before it. A file of `results/` ends with a seal over what stands before it, its
place in the suite and suite.json's own seal; sums by document have their SHA-256 in the result that
was computed from them. So no bit can change, and no file can come from another suite or another
evaluation, without notice. It says that files belong together, not who wrote them: whoever writes
all of them anew can seal them anew.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saeworks.errors import UserError
from saeworks.files.access import (
    inside,
    is_file,
    json_parts,
    open_regular,
    own_folder,
    read_json,
    replacing,
    sha256,
)

SUITE, RESULTS, SEAL = "suite.json", "results", "seal"
SUITE_SCHEMA = 2
"""Schema of suite.json. Schema 1, which is still read, has no seals."""
REPAIR = "restore it from a copy, or run its `saeworks train` again, which repairs it"
_START = f',\n "{SEAL}": '
_LONGEST = 4096
"""The longest that a seal may be, in bytes."""


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON atomically with a seal; a file of a suite's results is sealed as one.

    Raises:
        UserError: if it cannot be written, or a link leads outside the suite.
    """
    root, place = check_own(path), {}
    if root is not None:
        place = {"suite": suite_digest(root), "file": path.relative_to(root).as_posix()}
    digest, last = hashlib.sha256(), ""
    with replacing(path) as temporary, temporary.open("wb") as file:
        for part in json_parts(value):
            digest.update(last.encode())
            file.write(last.encode())
            last = part
        last = last.removesuffix("\n}")
        digest.update(last.encode())
        seal = json.dumps({**place, "sha256": _sealed(digest, place)}, ensure_ascii=False)
        file.write(f"{last}{_START}{seal}\n}}\n".encode())


def check_own(path: Path) -> Path | None:
    """The suite in whose results a file is to be written, if it is.

    Raises:
        UserError: if a link there leads outside the suite.
    """
    root = _root(path)
    if root is not None:
        own_folder(root, path.parent.relative_to(root))
    return root


def read_sealed(path: Path, what: str, again: str) -> Any:
    """Read what `write_sealed` wrote, without its seal.

    Args:
        what: it is, for messages.
        again: what to run for a new one.

    Raises:
        UserError: as `check_seal`, and if it is no JSON.
    """
    check_seal(path, what, again)
    data = read_json(path, what)
    return {k: v for k, v in data.items() if k != SEAL} if isinstance(data, dict) else data


def check_seal(path: Path, what: str, again: str) -> None:
    """Refuse a file that is not what was written, or no result of the suite that it lies in.

    Raises:
        UserError: if so, and if it is missing, or has no seal where its suite has one.
    """
    root = _root(path)
    if root is not None:
        inside(root, path.relative_to(root))
    seal, genuine = _seal(path, what)
    if seal is None and (root is None or _seal(root / SUITE, "suite")[0] is None):
        return  # from before there were seals, or in no suite
    if seal is None:
        raise UserError(f"{path} has no seal, though its suite has one; run `{again}` again")
    if seal.get("sha256") != genuine:
        raise UserError(
            f"{path} is corrupt: its content is not what was written; restore it from a copy or "
            f"run `{again}` again"
        )
    if root is None:
        return
    if seal.get("file") != path.relative_to(root).as_posix():
        raise UserError(
            f"{path} was written as {seal.get('file')}; put it back there, and run `{again}` again"
        )
    if seal.get("suite") != suite_digest(root):
        raise UserError(
            f"{path} is of another suite, or of this one before it was trained anew; run `{again}` "
            "again"
        )


def suite_digest(root: Path) -> str:
    """The SHA-256 of suite.json, and so of all files that it lists."""
    return sha256(inside(root, SUITE))


def read_suite_json(root: Path) -> dict[str, Any]:
    """A suite's suite.json, as it was written.

    Raises:
        UserError: if there is none, it is of another schema, or its content has changed.
    """
    file = inside(root, SUITE)
    meta = read_json(file, "suite")
    schema = meta.get("schema") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or type(schema) is not int or schema not in (1, SUITE_SCHEMA):
        raise UserError(
            f"{file} has schema {schema!r}; this version reads 1 and {SUITE_SCHEMA}: use the "
            "saeworks that wrote it"
        )
    seal, genuine = _seal(file, "suite")
    if (SEAL in meta or schema == SUITE_SCHEMA) and (seal is None or seal.get("sha256") != genuine):
        raise UserError(f"{file} is corrupt: its content is not what was written; {REPAIR}")
    return meta


def verify_files(root: Path, meta: Mapping[str, Any]) -> None:
    """Hash every file that suite.json lists.

    Raises:
        UserError: naming the first that is missing, changed, or outside the suite.
    """
    files = meta.get("files")
    if not isinstance(files, dict):
        raise UserError(f"{root / SUITE} lists no files; {REPAIR}")
    for name, digest in files.items():
        file = inside(root, name)
        if not is_file(file):
            raise UserError(f"{file} is missing; {REPAIR}")
        if sha256(file) != digest:
            raise UserError(
                f"{file} is corrupt: its SHA-256 is not the recorded {str(digest)[:12]}…; {REPAIR}"
            )


def damage(root: Path) -> str | None:
    """What is wrong with a suite's folder; None where it is whole."""
    try:
        verify_files(root, read_suite_json(root))
    except UserError as error:
        return str(error).removesuffix(f"; {REPAIR}")
    return None


def _seal(path: Path, what: str) -> tuple[dict[str, Any] | None, str]:
    """The seal at a file's end, if it has one, and the SHA-256 that this should hold."""
    digest, tail = hashlib.sha256(), b""
    try:
        with open_regular(path) as file:
            while chunk := file.read(2**20):
                tail += chunk
                done = max(0, len(tail) - _LONGEST)
                digest.update(tail[:done])
                tail = tail[done:]
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}; check the path") from error
    before, mark, end = tail.rpartition(_START.encode())
    try:
        seal = json.loads(end.decode().removesuffix("\n}\n")) if mark else None
    except (ValueError, RecursionError):
        seal = {}
    if not isinstance(seal, dict):
        return ({} if mark else None), ""
    digest.update(before)
    return seal, _sealed(digest, seal)


def _sealed(content: "hashlib._Hash", place: Mapping[str, Any]) -> str:
    """The SHA-256 of the content, then of the suite and the file's place in it."""
    digest = content.copy()
    lines = "\n".join(str(place.get(key, "")) for key in ("suite", "file"))
    digest.update(lines.encode("utf-8", "replace"))
    return digest.hexdigest()


def _root(path: Path) -> Path | None:
    """The suite that a result lies in: the folder whose `results` it is below."""
    folder = next((p for p in path.parents if p.name == RESULTS), None)
    return None if folder is None or not is_file(folder.parent / SUITE) else folder.parent
