"""YAML from outside, read without harm: no objects, no bombs of aliases, no key that is lost."""

import functools
import re
from typing import Any

from saeworks.errors import UserError

MOST_VALUES = 100_000
"""Values that a text may have once its aliases are written out."""


def load_yaml(text: str) -> Any:
    """The value of a YAML text from outside; None of an empty one.

    Raises:
        yaml.YAMLError: if it is not YAML.
        UserError: if it is too deep or too large, a key stands twice in it, or a value cannot be
            read.
    """
    import yaml

    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise UserError("values within values, too deep to be read; write them flat") from None
    except (ValueError, OverflowError) as error:  # a number of thousands of digits, a 32nd of May
        raise UserError(f"a value cannot be read: {error}") from None


def _count(node: Any, known: dict[int, int | None]) -> int:
    """Values in a YAML node with every alias written out, without writing any out.

    Args:
        known: by the ids of nodes; None for those around this one.

    Raises:
        UserError: if there are too many, or a value holds itself.
    """
    line = node.start_mark.line + 1
    if id(node) not in known:
        known[id(node)] = None
        parts = node.value if isinstance(node.value, list) else []
        flat = [n for part in parts for n in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in flat)
    count = known[id(node)]
    if count is None:
        raise UserError(f"line {line}: a value that holds itself by its alias; write it out")
    if count > MOST_VALUES:
        raise UserError(
            f"line {line}: {count:.3g} values once its aliases are written out, more than "
            f"{MOST_VALUES:,}, which no run has"
        )
    return count


@functools.cache
def _loader() -> Any:
    """SafeLoader that reads `1e-3` as the number a user means, as YAML 1.2 does and 1.1 does not,
    and refuses a key that stands twice, of which YAML keeps the last in silence."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            known: dict[tuple[str, str], int] = {}
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                line = key.start_mark.line + 1
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
                if name is not None and name in known:
                    raise UserError(
                        f"key {key.value!r} stands twice, in line {known[name]} and in line "
                        f"{line}; leave one out"
                    )
                if name is not None:
                    known[name] = line
            return super().construct_mapping(node, deep)

    number = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader
