"""A run's folder: whose it is, whether it is finished, and that one process at a time uses it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from saeworks.errors import UserError
from saeworks.files.access import (
    open_own,
    own_folder,
    read_json,
    write_json,
)
from saeworks.files.folders import (
    is_record,
    lock,
    make_ready,
    owner,
    sweep,
)
from saeworks.files.seals import damage

RUN_SCHEMA = 1
UNFINISHED = ".unfinished"
"""The folder in `checkpoints/` of the one that is being written."""
FREE = frozenset(
    {
        "device",
        "source.cache",
        "log",
        "train.log_every",
        "train.eval_every",
        "train.eval_tokens",
        "train.audit",
        "train.checkpoint_every",
    }
)
"""Keys of the configuration that change no weight, and so may differ when a run is resumed. (Of a
cache the content counts, not the place.)"""

State = Literal["new", "running", "finished"]


class RunDir:
    """`run.json` in the run's folder.

    Args:
        path: the folder (`--out`).
        suites: where the run will write its suites.
        identity: everything on which the weights depend, as nested plain values.
    """

    def __init__(self, path: Path, suites: Mapping[str, Path], identity: Mapping[str, Any]) -> None:
        self.path = path
        self._suites = tuple(suites.values())
        self.damage: str | None = None
        """What is wrong with a finished run's suites; such a run is opened as an unfinished one."""
        self._identity = plain(identity)

    @contextmanager
    def opened(self, say: Callable[[str], None]) -> Iterator[State]:
        """Claim the folder for this process, say what is in it, and sweep it.

        Args:
            say: where it is said that the folder cannot be locked.

        Raises:
            UserError: if it holds another run or suite, or lies in one, or another process is
                using it.
        """
        state = self._look()
        if state == "finished":
            yield state
            return
        with claimed(self.path, say) as alone:
            state = self._look()  # another process may have been here before the lock was ours
            self._sweep(alone)
            self._write("running")
            yield state

    def _sweep(self, alone: bool) -> None:
        """Remove what killed processes left where this run writes."""
        checkpoints = self.path / "checkpoints"
        if alone:
            shutil.rmtree(checkpoints / UNFINISHED, ignore_errors=True)
        for folder in (self.path, checkpoints, *self._suites):
            sweep(folder)
        for suite in self._suites:
            for group in suite.glob("groups/*/"):
                sweep(group)

    def finish(self) -> None:
        """Record that all suites are written."""
        self._write("finished")

    def stop(self, why: str) -> None:
        """Record that the run cannot go on."""
        self._write("running", stopped=why)

    def _look(self) -> State:
        for folder in ("checkpoints", "tensorboard", "wandb"):
            own_folder(self.path, folder)
        for suite in self._suites:
            own_folder(self.path, suite.relative_to(self.path))
            for group in suite.glob("groups/*"):
                own_folder(suite, group.relative_to(suite))
        check_place(self.path)
        if not (self.path / "run.json").exists():
            for suite in self._present():
                raise UserError(f"{suite} holds another run or suite; choose another --out")
            return "new"
        run = read_json(self.path / "run.json", "run")
        if not isinstance(run, dict) or run.get("schema") != RUN_SCHEMA:
            raise UserError(f"{self.path / 'run.json'} is not a run's; choose another --out")
        different = differences(run.get("identity", {}), self._identity)
        finished = run.get("state") == "finished"
        if different and not finished and self._nothing_trained():
            return "new"
        if different:
            raise UserError(
                f"{self.path} holds a run of another configuration ({'; '.join(different)}); "
                "choose another --out, go back to that configuration, or delete the folder"
            )
        if finished:
            self.damage = next((bad for suite in self._suites if (bad := damage(suite))), None)
        return "finished" if finished and self.damage is None else "running"

    def _present(self) -> list[Path]:
        """Suites in the folder, and runs in folders of it, whoever wrote them."""
        folders = [
            file.parent
            for pattern in ("suite.json", "*/suite.json", "*/run.json", "*/*/run.json")
            for file in sorted(self.path.glob(pattern))
        ]
        return [
            folder for folder in folders if (folder / "suite.json").exists() or is_record(folder)
        ]

    def _nothing_trained(self) -> bool:
        """Whether the run that claimed the folder left nothing worth keeping."""
        return not self._present() and not any(self.path.glob("checkpoints/step-*"))

    def _write(self, state: State, **more: str) -> None:
        value = {"schema": RUN_SCHEMA, "state": state, "identity": self._identity, **more}
        write_json(self.path / "run.json", value)


@contextmanager
def claimed(folder: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Make a folder and keep other processes out of it; whether the lock is sure to be ours.

    Args:
        say: where it is said that the folder cannot be locked.

    Raises:
        UserError: if another process is using it, or it cannot be written in.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_own(folder / ".lock")
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror or error}; choose another --out"
        ) from error
    with file:
        locked = lock(file.fileno())
        if locked == "taken":
            raise UserError(
                f"another process is writing in {folder}; wait for it or choose another --out"
            )
        if locked == "unknown":
            say(f"note: {folder} cannot be locked here; start nothing else in it meanwhile")
        yield locked == "ours"


def check_place(path: Path) -> None:
    """Before any work: refuse a folder that lies in another run or suite, or cannot be written in.

    Raises:
        UserError: if so.
    """
    other = owner(Path(os.path.abspath(path)).parent)
    if other is not None:
        raise UserError(
            f"{path} lies in {other}, which is another run's or suite's: one would overwrite the "
            "other; choose another --out"
        )
    make_ready(path)


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as it is after a round through JSON (tuples are lists)."""
    read: dict[str, Any] = json.loads(json.dumps(value))
    return read


def fixed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """key path → value of every key that must be the same when a run is resumed."""
    return {key: value for key, value in _leaves(plain(identity)) if not _free(key)}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], most: int = 4) -> list[str]:
    """`key: old → new` for each key that differs and matters; the rest counted."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    keys = [key for key in keys if not _free(key)]
    shown = [f"{key}: {_show(before, key)} → {_show(after, key)}" for key in keys[:most]]
    return shown + ([f"and {len(keys) - most} more"] if len(keys) > most else [])


def _free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _show(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False) if key in leaves else "nothing"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    if not items:
        yield path, value
    for key, item in items:
        yield from _leaves(item, f"{path}.{key}" if path else str(key))
