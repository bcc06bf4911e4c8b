"""A line of a suite's training log, `metrics.jsonl`."""

from collections.abc import Iterator
from dataclasses import field
from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from saeworks.errors import UserError
from saeworks.files.access import open_regular, parse_json
from saeworks.results.records import parse

_WAY_OUT = "restore the file or remove the line"


@dataclass(frozen=True, config=ConfigDict(extra="ignore", strict=True))
class LogLine:
    """The numbers of one site at one step; architectures add theirs, which are not read."""

    kind: str
    """`train`, or `held_out` for the numbers of a probe."""
    step: int
    tokens: int
    """Trained on so far."""
    site: str
    loss: dict[str, float | None] = field(default_factory=dict)
    """Term → its value."""
    fvu: float | None = None
    l0: float | None = None
    dead: float | None = None
    """Share of dead latents."""
    lr: float | None = None
    tokens_per_second: float | None = None
    flops: float | None = None
    """Spent on the SAE so far."""
    step_seconds: float | None = None
    """Spent in the SAE's own steps so far."""
    held_out_fvu: float | None = None
    delta_ce: float | None = None


def read_log(file: Path) -> list[LogLine]:
    """The lines of a log in the order of their steps; where a step was logged again after a
    resumption, the last.

    Raises:
        UserError: if it cannot be read, or a line is not what it should be.
    """
    lines = {(line.kind, line.site, line.step): line for line in _lines(file)}
    return sorted(lines.values(), key=lambda line: line.step)


def _lines(file: Path) -> Iterator[LogLine]:
    try:
        with open_regular(file) as opened:
            text = opened.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); restore it or remove it") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            data = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not valid JSON ({error}); {_WAY_OUT}") from None
        yield parse(LogLine, data, where, _WAY_OUT)
