"""What the commands print: nothing from outside is obeyed by the terminal or by rich."""

import json
import shlex
import sys
from collections.abc import Callable
from typing import Any

from saeworks.errors import shown


def say(line: str = "") -> None:
    """Print one line on stdout."""
    print(shown(line), flush=True)


def print_json(values: Any) -> None:
    """Print plain values on stdout, for a machine."""
    print(json.dumps(values), flush=True)


def speaker(as_json: bool) -> Callable[[str], None]:
    """Prints lines for a person: on stderr when stdout is for a machine."""
    stream = sys.stderr if as_json else sys.stdout
    return lambda line: print(shown(line), file=stream, flush=True)


def command(*words: object) -> str:
    """A `saeworks` command that a shell takes as it stands."""
    return shlex.join(["saeworks", *map(str, words)])
