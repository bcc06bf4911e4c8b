"""Sites: names of a model's module outputs and inputs, and the patterns that select them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from torch import nn

from saeworks.errors import UserError
from saeworks.lm.anatomy import (
    ATTN,
    IN,
    MLP,
    Anatomy,
)

_ALIAS = re.compile(rf"([\d*]+)@(resid|{ATTN}|{MLP})({IN})?")


class SiteMap:
    """All sites of a model, in model order, and the meaning of patterns and aliases.

    A site is a module's name relative to the base model (`layers.3.mlp`), with `@in` at the end
    for the module's input. It runs once in a pass and is of shape [B, T, D]. Model order is the
    order of execution as far as the nesting of modules tells it: a module's input, what is inside
    it, its output.

    Args:
        base: the model without its head.
        blocks: names of its transformer blocks.
        anatomy: what its modules gave in a pass.
    """

    def __init__(self, base: nn.Module, blocks: Sequence[str], anatomy: Anatomy) -> None:
        self.modules = named_modules(base)
        self.blocks = list(blocks)
        self.anatomy = anatomy
        self.names = [
            name
            for name in _in_model_order(base)
            if not isinstance(self.modules[_module_name(name)], nn.ModuleList | nn.ModuleDict)
        ]

    def module(self, site: str) -> nn.Module:
        """The module whose output (or input) the canonical `site` is."""
        module: nn.Module = self.modules[_module_name(site)]
        return module

    def sublayers(self, kind: str) -> list[str]:
        """Names of the modules that are the blocks' attention (or whatever mixes tokens in its
        place) or their MLP, `attn` or `mlp`."""
        modules = [both[kind].module for both in self.anatomy.branches.values()]
        return [name for name in modules if name is not None]

    def match(self, patterns: Sequence[str]) -> list[str]:
        """Canonical names of all sites that any of the patterns selects, in model order.

        Raises:
            UserError: if a pattern selects nothing, with the reason and the nearest names.
        """
        chosen: set[str] = set()
        for pattern in patterns:
            members, refused = self._members(pattern)
            if not members or (refused and "*" not in pattern):
                raise UserError(self._refusal(pattern, refused))
            chosen.update(members)
        return [name for name in self.names if name in chosen]

    def left_out(self, patterns: Sequence[str]) -> str | None:
        """A sentence on the modules that the patterns name but that are no sites."""
        refused = {
            name: reason
            for pattern in patterns
            for name, reason in self._members(pattern)[1].items()
        }
        if not refused:
            return None
        shown = [f"{name} ({reason})" for name, reason in list(refused.items())[:3]]
        more = [f"and {len(refused) - 3:,} more"] if len(refused) > 3 else []
        return f"left out of {', '.join(patterns)}, as no site: {', '.join([*shown, *more])}"

    def _members(self, pattern: str) -> tuple[list[str], dict[str, str]]:
        """The sites that a pattern selects, and why it does not select the others it names."""
        if pattern in self.anatomy.widths:
            return [pattern], {}
        if alias := _ALIAS.fullmatch(pattern):
            return self._aliases(alias[1], alias[2], bool(alias[3]))
        wanted = _glob(pattern)
        named = [name for name in self.names if wanted.fullmatch(name)]
        owner = _module_name(pattern)
        if not named and owner in self.modules:
            return [], {pattern: f"it is a list of modules; of each, say {owner}.*"}
        refused = self.anatomy.refused
        return (
            [name for name in named if name not in refused],
            {name: refused[name] for name in named if name in refused},
        )

    def _aliases(self, blocks: str, kind: str, is_input: bool) -> tuple[list[str], dict[str, str]]:
        wanted = _glob(blocks)
        selected: list[str] = []
        refused: dict[str, str] = {}
        for index, block in enumerate(self.blocks):
            if wanted.fullmatch(str(index)):
                site, reason = self._alias(block, kind, is_input)
                if site is None:
                    refused[f"{index}@{kind}" + (IN if is_input else "")] = reason
                else:
                    selected.append(site)
        return selected, refused

    def _alias(self, block: str, kind: str, is_input: bool) -> tuple[str | None, str]:
        """The canonical site of `resid`, `attn` or `mlp` in a block, or None and why.

        As an output, `attn` and `mlp` are what the sublayer adds to the residual stream; as an
        input they are what the sublayer itself reads.
        """
        branches = self.anatomy.branches.get(block)
        if kind == "resid":
            site: str | None = block + IN if is_input else block
            reason = "" if is_input else self.anatomy.stream.get(block, "")
        elif branches is None:
            reason = self.anatomy.refused.get(block, "its input is of another shape")
            site, reason = None, f"{block}: {reason}"
        elif is_input:
            owner = branches[kind].module
            site = owner and owner + IN
            reason = "" if owner else f"no module is {_SPELT[kind]} of {block} as a whole"
        else:
            site = branches[kind].site
            reason = "" if site else f"{block}: {branches[kind].reason}"
        if site in self.anatomy.refused:
            reason = f"that is {site}, but {self.anatomy.refused[site]}"
        return (None, reason) if reason else (site, "")

    def _refusal(self, pattern: str, refused: Mapping[str, str]) -> str:
        near = ", ".join(self._nearest(pattern))
        if not refused:
            return f"site pattern {pattern!r} matches no module of this model; nearest: {near}"
        name, reason = next(iter(refused.items()))
        alias = _ALIAS.fullmatch(pattern)
        if alias is None:
            which = "" if name == pattern else f" selects only what is no site, such as {name!r}"
            return f"site {pattern!r}{which} cannot be used: {reason}; nearest: {near}"
        owner = self._owner(alias[1], alias[2]) if alias[2] in _SPELT else None
        way_out = (
            f"the module itself, {owner!r}, or another site, such as {near}" if owner else near
        )
        meant = f"what {_SPELT[alias[2]]} adds" if alias[2] in _SPELT else "the residual stream"
        return f"site {pattern!r}: no module's output is {meant} ({reason}); use {way_out}"

    def _owner(self, blocks: str, kind: str) -> str | None:
        """The sublayers' own name, as a pattern where `blocks` is one."""
        for index, block in enumerate(self.blocks):
            branches = self.anatomy.branches.get(block)
            if branches and _glob(blocks).fullmatch(str(index)) and branches[kind].module:
                inner = str(branches[kind].module).removeprefix(f"{block}.")
                return f"{block.rpartition('.')[0]}.{blocks}.{inner}"
        return None

    def _nearest(self, pattern: str) -> list[str]:
        last = str(len(self.blocks) - 1)
        parent = self.blocks[0].rpartition(".")[0]
        general = f"{parent}.*" if parent else "*"
        aliases = ["*@resid", "*@attn", "*@mlp", "0@resid", f"{last}@resid"]
        sites = [name for name in self.names if name in self.anatomy.widths]
        candidates = [name for name in (general, *aliases) if self._members(name)[0]]
        near = get_close_matches(pattern, [*candidates, *sites], n=4, cutoff=0.5)
        usual = [name for name in (general, "*@resid") if name in candidates] or sites[:3]
        return [name for name in dict.fromkeys([*near, *usual]) if name != pattern]


_SPELT = {ATTN: "the attention", MLP: "the MLP"}


def named_modules(base: nn.Module) -> dict[str, nn.Module]:
    """By name; a module that several others share is there under all its names."""
    return {name: module for name, module in base.named_modules(remove_duplicate=False) if name}


def _module_name(site: str) -> str:
    return site.removesuffix(IN)


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` stands for anything within one dotted segment, and never for the `@in` at its end.

    What stands between two `*` is taken where it is first found (within a segment a later place
    leaves less), for good: no pattern makes the matching try again and again.
    """
    first, *rest = re.split(r"\*+", pattern)
    inner = "".join(f"(?>[^.@]*?{re.escape(part)})" for part in rest[:-1])
    last = f"[^.@]*{re.escape(rest[-1])}" if rest else ""
    return re.compile(re.escape(first) + inner + last)


def _in_model_order(module: nn.Module, name: str = "") -> Iterator[str]:
    for child_name, child in module.named_children():
        full = f"{name}.{child_name}" if name else child_name
        yield full + IN
        yield from _in_model_order(child, full)
        yield full


def find_blocks(modules: Mapping[str, nn.Module], count: int) -> list[str]:
    """Names of a model's transformer blocks: the outermost list of that many modules; where there
    is none, the longest one that goes into that number, as of blocks that run several times.

    Raises:
        UserError: if there is none.
    """
    sizes = {name: len(m) for name, m in modules.items() if isinstance(m, nn.ModuleList)}
    length = max((size for size in sizes.values() if size and count % size == 0), default=0)
    lists = [name for name, size in sizes.items() if size == length]
    if not length:
        raise UserError(
            f"the model has no list of {count} blocks; its modules are "
            f"{', '.join(name for name in modules if '.' not in name)}"
        )
    outermost = min(lists, key=lambda name: name.count("."))
    return [f"{outermost}.{index}" for index in range(length)]
