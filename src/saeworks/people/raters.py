"""A rater's answers on disk: a line each, on the disk before the page goes on.

`raters/NAME.jsonl`: the first line names the study, the others a latent's place in it and what was
said. Of several about one latent the last holds; one without a verdict takes back. Where a process
was killed while it wrote, the last line is cut off and dropped: the page was not told it was saved.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import IO, Annotated, Literal

from pydantic import Field, FiniteFloat
from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.errors import UserError
from saeworks.files.access import is_dir, is_file, is_plain_name, open_own, open_regular
from saeworks.files.folders import lock
from saeworks.people.statistics import Verdict
from saeworks.people.study import HumanStudy, study_digest
from saeworks.results.records import SCHEMA, parse_text, plain

LONGEST_NOTE = 2000
_FOLDER = "raters"
_LONGEST_FILE = 2**28


@dataclass(frozen=True, config=STRICT)
class Answer:
    """What a rater said of a latent."""

    latent: Annotated[int, Field(ge=0)]
    """Its place in the study."""
    verdict: Verdict | None
    """None takes back."""
    note: Annotated[str, Field(max_length=LONGEST_NOTE)] = ""
    seconds: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """For which it was looked at."""
    at: str = ""
    """UTC, ISO 8601."""


@dataclass(frozen=True, config=STRICT)
class RaterHead:
    """The first line of a rater's file."""

    rater: str
    study: str
    """SHA-256 of the study's file."""
    schema: Literal[1] = SCHEMA


def rater_file(folder: Path, name: str) -> Path:
    """Where a rater's answers are.

    Raises:
        UserError: if the name can be no file's.
    """
    if not is_plain_name(name) or len(name) > 64:
        raise UserError(
            f"--rater {name!r}: a name of up to 64 letters, digits, and . _ - @, such as `ann`"
        )
    return folder / _FOLDER / f"{name}.jsonl"


def raters(folder: Path) -> list[str]:
    """The names of those who have begun."""
    if not is_dir(folder / _FOLDER):
        return []
    files = (path for path in (folder / _FOLDER).glob("*.jsonl") if is_plain_name(path.stem))
    return sorted(path.stem for path in files)


def read_answers(folder: Path, study: HumanStudy, name: str) -> tuple[dict[int, Answer], bool]:
    """A rater's answers by latent, in the order in which they were last given, and whether the
    file's last line is cut off.

    Raises:
        UserError: if there is no such rater, the file is of another study, or a line of it cannot
            be read.
    """
    path = rater_file(folder, name)
    if not is_file(path):
        known = ", ".join(raters(folder)) or "nobody yet"
        raise UserError(f"{folder} has no answers of {name!r}; it has those of {known}")
    with open_regular(path) as file:
        data = file.read(_LONGEST_FILE)
    whole, _, rest = data.rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    where, way_out = f"{path} line {{}}", "restore the file from a copy, or remove that line"
    if lines:
        head = parse_text(RaterHead, lines[0], where.format(1), way_out)
        if head.study != study_digest(folder):
            raise UserError(
                f"{path} has answers to another study than {folder}; put it back into its own "
                "folder, or choose another --rater"
            )
    answers: dict[int, Answer] = {}
    for number, line in enumerate(lines[1:], start=2):
        answer = parse_text(Answer, line, where.format(number), way_out)
        if answer.latent >= len(study.latents):
            raise UserError(
                f"{where.format(number)} is of latent {answer.latent} and the study has "
                f"{len(study.latents)}; {way_out}"
            )
        answers.pop(answer.latent, None)
        if answer.verdict is not None:
            answers[answer.latent] = answer
    return answers, bool(rest)


class AnswerFile:
    """A rater's file, open to be written by this process alone.

    Attributes:
        answers: by latent, in the order in which they were last given.
        dropped: whether the last line of an earlier process was cut off.
    """

    def __init__(self, file: IO[bytes], answers: dict[int, Answer], dropped: bool) -> None:
        self.answers, self.dropped, self._file = answers, dropped, file

    def save(self, answer: Answer) -> None:
        """Append an answer; it is on the disk when this returns.

        Raises:
            UserError: if it could not be written; then the file is as it was.
        """
        stamped = Answer(answer.latent, answer.verdict, answer.note, answer.seconds, _now())
        append(self._file, plain(stamped))
        self.answers.pop(answer.latent, None)
        if answer.verdict is not None:
            self.answers[answer.latent] = stamped

    def last(self) -> int | None:
        """The latent that was judged last."""
        return next(reversed(self.answers), None)

    def seconds_left(self, latents: int) -> float | None:
        """Until all are judged, by the median time that an answer took; None before the first."""
        if not self.answers:
            return None
        each = median(answer.seconds for answer in self.answers.values())
        return each * (latents - len(self.answers))


@contextmanager
def open_answers(folder: Path, study: HumanStudy, name: str) -> Iterator[AnswerFile]:
    """A rater's file, made where it is not there, and locked.

    Raises:
        UserError: as `read_answers`, and if another process has it, or it cannot be written.
    """
    path = rater_file(folder, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_own(path)
    except OSError as error:
        raise UserError(
            f"could not open {path}: {error.strerror or error}; see that it can be written"
        ) from None
    with file:
        if lock(file.fileno()) == "taken":
            raise UserError(
                f"{path} is in use by another `saeworks study`: end that one, or choose another "
                "--rater"
            )
        answers, cut = read_answers(folder, study, name)
        if cut:
            with open_regular(path) as content:
                end = content.read().rfind(b"\n") + 1
            file.truncate(end)
        if os.fstat(file.fileno()).st_size == 0:
            append(file, plain(RaterHead(name, study_digest(folder))))
        yield AnswerFile(file, answers, cut)


def append(file: IO[bytes], value: object) -> None:
    """Write a line of JSON at a file's end, and wait until it is on the disk.

    Raises:
        UserError: if it could not be written; then the file is as it was.
    """
    descriptor = file.fileno()  # unbuffered, so that nothing of a failure is written later
    size = os.fstat(descriptor).st_size
    line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
    try:
        while line:
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    except OSError as error:
        os.ftruncate(descriptor, size)
        raise UserError(
            f"could not save the answer ({error.strerror or error}): free some space and give it "
            "again"
        ) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
