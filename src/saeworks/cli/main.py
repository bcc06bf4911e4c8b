"""The entry of the command line. It imports nothing heavy, so that what holds for every command is
in force before the first slow import: Ctrl-C ends it quietly, output that cannot be shown or that
nobody reads ends nothing."""

import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any, NoReturn

from saeworks.errors import (
    BAD_INPUT,
    DONE,
    INTERRUPTED,
    UserError,
)

STDERR = 2
"""Descriptor of the standard error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (0 done, 2 bad input, 130 interrupted).

    Args:
        arguments: by default those of this process, whose output it then also prepares.
    """
    try:
        with _interruptible(whole_process=arguments is None):
            if arguments is None:
                _fill_closed()
                sys.stdout, sys.stderr = _forgiving(sys.stdout), _forgiving(sys.stderr)
            try:
                return _run(list(sys.argv[1:] if arguments is None else arguments))
            finally:
                sys.stdout.flush()  # here, where what goes wrong can still be said
    except UserError as error:
        print(f"saeworks: {error}", file=sys.stderr)
        return BAD_INPUT
    except ImportError as error:
        while isinstance(error.__context__, ImportError):
            error = error.__context__
        print(
            f"saeworks: {error}: something that it needs is not installed, is broken, or does not "
            "exist on this system; install saeworks anew (it is tested on Linux)",
            file=sys.stderr,
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        print("saeworks: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    if arguments[:1] in (["--version"], ["-V"]):
        from saeworks import __version__

        print(f"saeworks {__version__}")
        return DONE
    try:
        os.getcwd()
    except OSError as error:  # libraries abort of it, with other reasons
        raise UserError(
            f"the current folder is gone ({error.strerror}); cd to one that is there"
        ) from None
    from saeworks.cli.parsing import parse

    command = parse(arguments)
    if (refusal := _launched()) is not None:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return BAD_INPUT  # the first process of the machine says it for all
        raise UserError(refusal)
    return command()


def _launched() -> str | None:
    """Why not to go on where a launcher has started several of this process: each would do all the
    work, and write to the same files."""
    size, rank = os.environ.get("WORLD_SIZE"), os.environ.get("RANK")
    if size == "1" or (size is None and rank is None):
        return None
    return (
        f"started as one of several processes (WORLD_SIZE={size}, RANK={rank}): a command runs in "
        "one process; start it without torchrun, or unset both where nothing else was started"
    )


@contextmanager
def _interruptible(whole_process: bool) -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt; amid an import it ends the process at once, as nothing is
    begun then, and libraries turn the exception into other errors or abort. A second one, while
    the first is dealt with, always ends it; so does one while a `whole_process` that is ours
    shuts down."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                os.write(2, b"saeworks: interrupted\n")
                os._exit(INTERRUPTED)
            frame = frame.f_back
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, interrupt)
    except ValueError:  # not the main thread, where Python allows no handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if whole_process else before)


def _fill_closed() -> None:
    """Standard streams that were closed (`>&-`) lead nowhere: else the next file that is opened
    would be in their place, and get what libraries print."""
    while (nowhere := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(nowhere)


class _Output(io.FileIO):
    """A pipe or file that takes no more once its reader has gone (`… | head`), or once it is full
    and nobody can be told, being the standard error: the work behind it goes on to its end."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(error, BrokenPipeError) or self.fileno() == STDERR:
                return len(data)
            raise UserError(
                f"could not write to the standard output: {error.strerror or error}; free some "
                "space there or send it elsewhere"
            ) from error


def _forgiving(stream: IO[str] | None) -> IO[str]:
    """The same stream with `?` for what its encoding lacks; see also `_Output`."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors="replace")
    buffer = stream.buffer  # the file itself under PYTHONUNBUFFERED
    if stream.isatty() or not isinstance(getattr(buffer, "raw", buffer), io.FileIO):
        return stream
    output = _Output(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        output if isinstance(buffer, io.FileIO) else io.BufferedWriter(output),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
