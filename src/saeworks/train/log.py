"""metrics.jsonl, and the optional loggers beside it (imported only here, only when asked for)."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from saeworks.errors import UserError
from saeworks.files.access import open_own, replacing
from saeworks.train.run_dir import fixed


@runtime_checkable
class RunLogger(Protocol):
    """A logger beside metrics.jsonl."""

    def write(self, name: str, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class MetricsLog:
    """Lines of one suite's metrics.jsonl, and the same numbers to the loggers.

    A resumed run cuts the file back to what it was at the checkpoint, so that no step is in it
    twice.
    """

    def __init__(self, path: Path, variant: str, loggers: Sequence[RunLogger] = ()) -> None:
        self._path, self._variant, self._loggers = path, variant, loggers

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records, each with `kind`, `step`, `site`."""
        lines = "".join(f"{json.dumps(_plain(record))}\n" for record in records)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open_own(self._path) as file:
                file.write(lines.encode())
        except OSError as error:
            raise UserError(
                f"could not write {self._path}: {error.strerror or error}; free some space and "
                "run the same command again"
            ) from error
        for record in records:
            name = f"{self._variant}/{record['site']}/{record['kind']}"
            for logger in self._loggers:
                logger.write(name, _numbers(record), int(record["step"]))

    def content(self) -> bytes:
        """The whole file."""
        return self._path.read_bytes() if self._path.exists() else b""

    def restore(self, content: bytes, say: Callable[[str], None]) -> None:
        """Make the file what it was at a checkpoint; say so if it was changed since, other than by
        more lines."""
        if self.content() == content:
            return
        if not self.content().startswith(content):
            say(
                f"note: {self._path} was cut or changed since the checkpoint; it is as it was again"
            )
        with replacing(self._path) as temporary:
            temporary.write_bytes(content)


def _plain(value: Any) -> Any:
    """NaN and infinity, which are not JSON, become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    out: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            out |= _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "step":
            out[f"{prefix}{key}"] = float(value)
    return out


def open_loggers(
    names: Sequence[str], run_dir: Path, config: Mapping[str, Any], step: int
) -> list[RunLogger]:
    """The loggers of a configuration's `log`.

    Raises:
        UserError: if one's package is not installed.
    """
    loggers: list[RunLogger] = []
    try:
        for name in names:
            loggers.append(_logger(name)(run_dir, config, step))
    except BaseException:
        close_all(loggers)
        raise
    return loggers


def close_all(loggers: Sequence[RunLogger]) -> None:
    """Let each logger hand over what it still holds."""
    for logger in loggers:
        logger.close()


def check_loggers(names: Sequence[str]) -> None:
    """Before anything is read: import what the loggers need.

    Raises:
        UserError: as `open_loggers`.
    """
    for name in names:
        _logger(name)
        _package(name)


def _logger(name: str) -> Callable[[Path, Mapping[str, Any], int], RunLogger]:
    return _TensorBoard if name == "tensorboard" else _WandB


def _package(name: str) -> Any:
    """The package behind a logger."""
    try:
        return import_module({"tensorboard": "torch.utils.tensorboard"}.get(name, name))
    except ImportError as error:
        raise UserError(
            f"log: {name} is not installed ({error}); pip install 'saeworks[{name}]' or leave "
            "it out of log"
        ) from None


class _TensorBoard:
    def __init__(self, run_dir: Path, config: Mapping[str, Any], step: int) -> None:
        module = _package("tensorboard")
        self._writer = module.SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)

    def write(self, name: str, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(f"{name}/{key}", value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, run_dir: Path, config: Mapping[str, Any], step: int) -> None:
        module = _package("wandb")
        self._run = module.init(
            dir=str(run_dir),
            id=_run_id(run_dir, config),
            name=run_dir.name,
            config=dict(config),
            resume="allow",
        )

    def write(self, name: str, values: Mapping[str, float], step: int) -> None:
        self._run.log({f"{name}/{key}": value for key, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


def _run_id(run_dir: Path, config: Mapping[str, Any]) -> str:
    """The same for a run and all its resumes, so that they are one run in Weights & Biases."""
    whose = json.dumps([str(run_dir.resolve()), fixed(config)], sort_keys=True)
    return hashlib.sha256(whose.encode()).hexdigest()[:32]
