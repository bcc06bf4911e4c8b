"""What the commands print: nothing from outside is obeyed by the terminal or by rich."""

import shlex
import sys
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from saeworks.errors import shown


def say(line: str = "") -> None:
    """Print one line on stdout."""
    print(shown(line), flush=True)


def speaker(as_json: bool) -> Callable[[str], None]:
    """Prints lines for a person: on stderr when stdout is for a machine."""
    stream = sys.stderr if as_json else sys.stdout
    return lambda line: print(shown(line), file=stream, flush=True)


def cell(text: object) -> str:
    """Text for a cell or the title of one of rich's tables, as it stands: no markup."""
    return escape(shown(str(text)))


def console() -> Console:
    """Where tables are printed; a file or a pipe has no width to fit."""
    return Console(width=None if sys.stdout.isatty() else 140)


def command(*words: object) -> str:
    """A `saeworks` command that a shell takes as it stands."""
    return shlex.join(["saeworks", *map(str, words)])
