"""Every key of a configuration, for `saeworks train --keys` and the docs. It imports no torch."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from saeworks.config import ErrorConfig, GroupsConfig, RunConfig, default_of, field_docs
from saeworks.dictionary.registry import ARCHS

RUN = (
    ("", RunConfig, ""),
    ("groups[], other than per-site", GroupsConfig, "groups[]."),
    ("error, where it is not null", ErrorConfig, "error."),
)
"""The parts of a run's configuration: heading, record, what stands before its keys."""


@dataclass(frozen=True)
class Key:
    """A key, its default as JSON (None: it must be given), and what it means."""

    name: str
    default: str | None
    text: str

    def __str__(self) -> str:
        default = " (required)" if self.default is None else f" = {self.default}"
        return f"{self.name}{default}: {self.text}"


def keys_of(config: type, prefix: str = "") -> Iterator[Key]:
    """Every key of a config dataclass, and of those in it, with the values that it may have where
    these are few."""
    docs, hints = field_docs(config), get_type_hints(config)
    for item in fields(config):
        value = default_of(item)
        if is_dataclass(value):
            yield from keys_of(type(value), f"{prefix}{item.name}.")
        else:
            default = (
                None if value is MISSING else json.dumps(value, ensure_ascii=False, default=str)
            )
            words = choices(hints[item.name])
            allowed = f" One of {', '.join(words)}." if words else ""
            yield Key(f"{prefix}{item.name}", default, docs.get(item.name, "") + allowed)


def choices(hint: Any) -> list[str]:
    """The words that a type allows, also in a container or beside None; empty where it allows other
    values."""
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    inner = [choices(part) for part in get_args(hint) if part not in (type(None), ...)]
    return [word for words in inner for word in words] if all(inner) else []


def print_keys() -> None:
    """Print every key of a run, and the options of every architecture."""
    parts = [*RUN, *((f"saes[], arch: {n}", sae.Config, "saes[].") for n, sae in ARCHS.items())]
    for heading, config, prefix in parts:
        print(f"\n{heading}\n" if heading else "", end="")
        print("\n".join(map(str, keys_of(config, prefix))))
