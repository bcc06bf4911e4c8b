"""A command's options are the fields of its dataclass, and their help is the text under them."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.conf import arg
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from saeworks.cli.arguments import SameAs
from saeworks.config import default_of, field_docs

Command = Callable[..., Callable[[], int]]
"""The dataclass of a command: called with its options, then to run it."""

OPTIONS = ConstructorRegistry()
"""Reads dataclasses as tyro does, but for the help."""


@OPTIONS.struct_rule
def _options_of(info: StructTypeInfo) -> StructConstructorSpec | None:
    if not (is_dataclass(info.type) and info.type.__module__.startswith("saeworks.")):
        return None  # tyro has some of its own
    docs, hints = field_docs(info.type), get_type_hints(info.type, include_extras=True)
    specs = [_option(item, hints[item.name], docs.get(item.name)) for item in fields(info.type)]
    return StructConstructorSpec(instantiate=info.type, fields=tuple(specs))


def _option(item: Field[Any], hint: Any, text: str | None) -> StructFieldSpec:
    """A field as an option. What is on by default has an option that turns it off, `--no-…`."""
    for same in getattr(hint, "__metadata__", ()):
        if isinstance(same, SameAs):
            text = field_docs(same.config)[same.field]
    default = default_of(item)
    if default is True:
        assert text is not None and text.startswith("Also "), f"{item.name}: {text}"
        text = text.replace("Also", "Do not", 1)
        hint = Annotated[hint, arg(help_behavior_hint="(default: False)")]
    default = tyro.MISSING if default is MISSING else default
    return StructFieldSpec(name=item.name, type=hint, default=default, helptext=text)


def names(command: Any) -> Iterator[str]:
    """The names of a command's options."""
    for item in fields(command):
        default = default_of(item)
        if is_dataclass(default):
            yield from names(type(default))
        else:
            name = item.name.replace("_", "-")
            yield f"no-{name}" if default is True else name
