"""All answers of language models, on disk by what was asked, so that nothing is paid for twice."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from threading import Lock

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.errors import UserError
from saeworks.files.access import LARGEST_JSON, open_own, open_regular, what_is


@dataclass(frozen=True, config=STRICT)
class ModelAnswer:
    """What a language model said, and how many tokens were counted for it."""

    text: str
    complete: bool
    """Whether it ended by itself, not at the limit of its length."""
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, config=STRICT)
class _KeptAnswer:
    key: str
    answer: ModelAnswer


_LINE = TypeAdapter(_KeptAnswer)


class Answers:
    """A file of answers, one a line, to which every answer is appended as soon as it is there.

    A line that a killed process left half-written is passed over. Several processes may append at
    once.

    Raises:
        UserError: if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path.expanduser(), Lock()
        self._known: dict[str, ModelAnswer] = {}
        try:
            if what_is(self.path) != "none":
                self._read()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            open_own(self.path).close()
        except OSError as error:
            raise self._unusable(error) from None

    def _read(self) -> None:
        with open_regular(self.path) as file:
            if os.fstat(file.fileno()).st_size > LARGEST_JSON:
                raise UserError(f"{self.path}: more than a gigabyte; name another with --answers")
            for line in file:
                try:
                    read = _LINE.validate_json(line)
                except ValidationError:
                    continue
                self._known[read.key] = read.answer

    def get(self, key: str) -> ModelAnswer | None:
        """The answer to what has this key, if it was asked."""
        return self._known.get(key)

    def add(self, key: str, answer: ModelAnswer) -> None:
        """Keep an answer.

        Raises:
            UserError: if it cannot be written.
        """
        line = json.dumps({"key": key, "answer": asdict(answer)}) + "\n"
        with self._lock:
            self._known[key] = answer
            try:
                with open_own(self.path) as file:  # a half-written line before it ends here
                    os.write(file.fileno(), b"\n" + line.encode())
            except OSError as error:
                raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> UserError:
        return UserError(
            f"answers cannot be kept in {self.path} ({error.strerror or error}); name a file that "
            "can be written with --answers"
        )
