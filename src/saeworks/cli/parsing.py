"""Parses a command line to a command with its options, or refuses it in one line.

It imports no torch, so that `saeworks --help` is quick.
"""

import io
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from contextlib import redirect_stderr
from dataclasses import fields
from difflib import get_close_matches
from itertools import pairwise

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff

from saeworks.cli.advise import Advise
from saeworks.cli.audit import Audit
from saeworks.cli.bench import BENCHES, Bench
from saeworks.cli.cache import CacheActivations
from saeworks.cli.circuits import CircuitsCommand
from saeworks.cli.compare import Compare
from saeworks.cli.concepts import Concepts
from saeworks.cli.convert import Convert
from saeworks.cli.cost import Cost
from saeworks.cli.demo import Demo
from saeworks.cli.eval import Eval
from saeworks.cli.explain import ExplainLatents
from saeworks.cli.export import Export
from saeworks.cli.fields import OPTIONS, Command, names
from saeworks.cli.latents import Latents
from saeworks.cli.plan import Plan
from saeworks.cli.report import Report
from saeworks.cli.steer import Steer
from saeworks.cli.study import Study
from saeworks.cli.train import Train
from saeworks.config import settings
from saeworks.errors import UserError
from saeworks.results.names import CONCEPTS

COMMANDS: dict[str, Command] = {
    "demo": Demo,
    "plan": Plan,
    "advise": Advise,
    "cost": Cost,
    "cache": CacheActivations,
    "train": Train,
    "eval": Eval,
    "audit": Audit,
    "circuits": CircuitsCommand,
    "latents": Latents,
    "explain": ExplainLatents,
    "compare": Compare,
    CONCEPTS: Concepts,
    "study": Study,
    "steer": Steer,
    "report": Report,
    "convert": Convert,
    "export": Export,
    "bench": Bench,
}

DESCRIPTION = """Train, scale and audit sparse autoencoders over a whole model.
  saeworks COMMAND --help                lists a command's options
  saeworks --version                     prints the version
  saeworks --tyro-print-completion bash  prints what makes bash complete commands
                                         and options (also zsh, fish, tcsh)"""

_ENTRY = ("--help", "--version", "--tyro-print-completion")
"""The options that stand before any command."""
_SHELLS = ("bash", "zsh", "fish", "tcsh")


def parse(arguments: Sequence[str]) -> Callable[[], int]:
    """The command with its options; without any, `train` asks for its help, as `saeworks` does, and
    `bench` without a benchmark is `bench floor`.

    Raises:
        UserError: for a command or options that do not parse, on one line.
        SystemExit: with 0, after help or completion has been printed.
    """
    if list(arguments) in ([], ["train"]):
        arguments = [*arguments, "--help"]
    if arguments[0] == "bench" and re.match("(-(?!-help$|h$)|$)", "".join(arguments[1:2])):
        arguments = ["bench", "floor", *arguments[1:]]  # nothing, or an option of it, comes next
    _check_names(arguments)
    _check_completion(arguments)
    refusal = io.StringIO()
    try:
        with redirect_stderr(refusal):
            command: Callable[[], int] = tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="saeworks",
                description=DESCRIPTION,
                args=arguments,
                config=(FlagCreatePairsOff, DisallowNone),
                registry=OPTIONS,
            )
        return command
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_refusal(arguments, refusal.getvalue())) from None


def _check_completion(arguments: Sequence[str]) -> None:
    """Refuse shells for which tyro has no completion; it would raise an AssertionError."""
    for option, shell in pairwise([*arguments, ""]):
        if option == _ENTRY[-1] and shell not in _SHELLS:
            raise UserError(f"{option} {shell!r}: choose one of {', '.join(_SHELLS)}")


def _check_names(arguments: Sequence[str]) -> None:
    """Refuse what is no command, also with `--help` behind it."""
    allowed, where = list(COMMANDS), "saeworks"
    for word in arguments[:2]:
        if word.startswith("-") or not allowed:
            return
        if word not in allowed:
            near = get_close_matches(word, allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{where} has no command {word!r}{hint} (it has {', '.join(allowed)})")
        where, allowed = f"{where} {word}", list(BENCHES) if word == "bench" else []


def _refusal(arguments: Sequence[str], message: str) -> str:
    """Why the options do not parse, on one line: the wrong option and what to write instead, or
    tyro's message without its frame."""
    if arguments[0].startswith("-"):
        name = arguments[0].partition("=")[0]
        near = get_close_matches(name, _ENTRY, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}?" if near else "a command's options stand behind its name"
        return f"saeworks has no option {name}; {hint} (`saeworks --help` lists its commands)"
    depth = 2 if arguments[0] == "bench" else 1
    known = _options(" ".join(arguments[:depth]))
    for at, word in enumerate(arguments[depth:] if "Unrecognized" in message else (), start=depth):
        name = word.partition("=")[0].lstrip("-").replace("_", "-")
        if known and re.match("--?[A-Za-z]", word) and name not in known:
            return _instead(arguments, depth, at, name, known)
    text = re.sub(r"[\u2500-\u257f]+|-{4,}", " ", message)
    return " ".join(text.split())


def _options(command: str) -> set[str]:
    """The names of a command's options; none where there is no such command."""
    options = COMMANDS.get(command) or BENCHES.get(command.removeprefix("bench "))
    return set() if options is None else {"help", "h", *names(options)}


def _instead(
    arguments: Sequence[str], depth: int, at: int, name: str, known: Collection[str]
) -> str:
    """A refusal of the wrong option at a place in the arguments, with what to write instead."""
    command, (_, equals, value) = " ".join(arguments[:depth]), arguments[at].partition("=")
    following = arguments[at + 1] if at + 1 < len(arguments) else "--"
    if not equals and not following.startswith("--"):
        value = following
    begin = f"{command} has no option {arguments[at].partition('=')[0]}"
    if command in ("train", "cost", "cache") and (keys := _settings(name.replace("-", "_"), value)):
        return f"{begin}; write {' or '.join(f'--set {shlex.quote(key)}' for key in keys)}"
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean --{near[0]}?" if near else ""
    return f"{begin}{hint} (`saeworks {command} --help` lists its options)"


def _settings(name: str, value: str) -> list[str]:
    """`key=value` of every key of a run that has this name."""
    if keys := settings(name, value):
        return keys
    from saeworks.dictionary.registry import ARCHS

    options = {"width"}.union(*({f.name for f in fields(sae.Config)} for sae in ARCHS.values()))
    return [f"saes.0.{name}={value or '…'}"] if name in options else []
