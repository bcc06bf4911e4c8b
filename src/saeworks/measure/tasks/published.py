"""Tasks as they are published: a line of JSON for each pair of prompts.

`{"clean_prefix": "The boys", "patch_prefix": "The boy", "clean_answer": " are", "patch_answer":
" is", "case": "plural"}`, as the data of Finlayson et al. (2021) and of Marks et al. (2024) are.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from saeworks.embedded import TASKS
from saeworks.errors import UserError
from saeworks.files.access import head_digest, open_regular, parse_json
from saeworks.lm.model import LanguageModel
from saeworks.measure.tasks.cases import Prompt, Task, task_of

_KEYS = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer", "case")
_LONGEST_LINE = 2**16
_MOST_LINES = 100_000


def file_task(path: Path, lm: LanguageModel, prompts: int, seed: int) -> Task:
    """The prompts of a file; so many of its lines, drawn by the seed, where it has more.

    Raises:
        UserError: if there is no such file, or for its first line that cannot be used, with the
            line's number.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_")
    if not name or name in TASKS:
        raise UserError(
            f"{path}: the file's name names its results, and cannot be one of {', '.join(TASKS)}; "
            "rename it"
        )
    lines = list(_prompts(path))
    if len(lines) > prompts:
        chosen = sorted(random.Random(seed).sample(range(len(lines)), prompts))
        lines = [lines[number] for number in chosen]
    return replace(
        task_of(name, lines, lm, str(path)), source=f"{path.name} ({head_digest(path)[:12]})"
    )


def _prompts(path: Path) -> Iterator[Prompt]:
    try:
        with open_regular(path) as file:
            for number in range(1, _MOST_LINES + 2):
                line = file.readline(_LONGEST_LINE + 1)
                if not line:
                    return
                where = f"{path}, line {number}"
                if number > _MOST_LINES or len(line) > _LONGEST_LINE:
                    raise UserError(
                        f"{where}: a file of prompts has at most {_MOST_LINES:,} lines of "
                        f"{_LONGEST_LINE:,} bytes; split it"
                    )
                if line.strip():
                    yield _prompt(line, where)
    except OSError as error:
        raise UserError(
            f"no task {str(path)!r}: it is none of {', '.join(TASKS)}, and no .jsonl file that can "
            f"be read ({error.strerror or error})"
        ) from None


def _prompt(line: bytes, where: str) -> Prompt:
    try:
        value = parse_json(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON ({error}); mend or remove it") from None
    form = f"a line is an object with the texts {', '.join(_KEYS)}"
    if not isinstance(value, dict):
        raise UserError(f"{where} is a {type(value).__name__}; {form}")
    fields: dict[str, Any] = value
    for key in [*_KEYS, *fields]:
        if key not in _KEYS:
            raise UserError(f"{where} has the key {key!r}; {form}, and nothing else")
        if not isinstance(fields.get(key), str) or not fields[key]:
            state = "is no text" if fields.get(key) else "is empty"
            raise UserError(f"{where}: {key} {state if key in fields else 'is missing'}; {form}")
    return Prompt(**fields, where=where)
