"""Sites: names of a model's module outputs and inputs, and the patterns that select them."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from torch import nn

from saeforge.errors import UserError

IN = "@in"

_ATTENTION = ("attn", "self_attn", "attention", "self_attention", "mixer")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe")
_SANDWICH = (
    (
        "post_attention_layernorm",
        "post_feedforward_layernorm",
    ),  # Gemma-2 and -3, OLMo-2
    ("post_self_attn_layernorm", "post_mlp_layernorm"),  # GLM-4
)
"""Norms between a sublayer and the residual stream: there the *norm's* output is what is added."""


class SiteMap:
    """All sites of a model, in model order, and the meaning of patterns and aliases.

    A site is a module's name relative to the base model (`layers.3.mlp`), with `@in` at the end
    for the module's input. Model order is the order of execution as far as the nesting of modules
    tells it: a module's input, what is inside it, its output.

    Args:
        base: the model without its head.
        blocks: number of transformer blocks.

    Raises:
        UserError: if the model has no list of that many blocks.
    """

    def __init__(self, base: nn.Module, blocks: int) -> None:
        self.modules = {name: module for name, module in base.named_modules() if name}
        self.blocks = _find_blocks(self.modules, blocks)
        self.names = [
            name
            for name in _in_model_order(base)
            if not isinstance(self.modules[_module_name(name)], nn.ModuleList | nn.ModuleDict)
        ]

    def module(self, site: str) -> nn.Module:
        """The module whose output (or input) the canonical `site` is."""
        module: nn.Module = self.modules[_module_name(site)]
        return module

    def match(self, patterns: Sequence[str]) -> list[str]:
        """Canonical names of all sites that any of the patterns selects, in model order.

        Raises:
            UserError: if a pattern selects nothing, listing the nearest names.
        """
        chosen: set[str] = set()
        for pattern in patterns:
            found = self._match_one(pattern)
            if not found:
                near = ", ".join(self._nearest(pattern))
                raise UserError(
                    f"site pattern {pattern!r} matches no module of this model; nearest: {near}"
                )
            chosen.update(found)
        return [name for name in self.names if name in chosen]

    def _match_one(self, pattern: str) -> list[str]:
        alias = re.fullmatch(r"([\d*]+)@(resid|attn|mlp)(@in)?", pattern)
        if alias:
            wanted = _glob(alias[1])
            members = [
                self._alias(block, alias[2], bool(alias[3]))
                for index, block in enumerate(self.blocks)
                if wanted.fullmatch(str(index))
            ]
            return [name for name in members if name is not None]
        wanted = _glob(pattern)
        return [name for name in self.names if wanted.fullmatch(name)]

    def _alias(self, block: str, kind: str, is_input: bool) -> str | None:
        """The canonical site of `resid`, `attn` or `mlp` in a block; None if it has none.

        As an output, `attn` and `mlp` are what the sublayer adds to the residual stream; as an
        input they are what the sublayer itself reads.
        """
        if kind == "resid":
            return block + IN if is_input else block
        if not is_input:
            for attention, mlp in _SANDWICH:
                if f"{block}.{attention}" in self.modules and f"{block}.{mlp}" in self.modules:
                    return f"{block}.{attention if kind == 'attn' else mlp}"
        for child in _ATTENTION if kind == "attn" else _MLP:
            if f"{block}.{child}" in self.modules:
                return f"{block}.{child}" + (IN if is_input else "")
        return None

    def _nearest(self, pattern: str) -> list[str]:
        last = str(len(self.blocks) - 1)
        aliases = ["*@resid", "*@attn", "*@mlp", "0@resid", f"{last}@resid"]
        parent = self.blocks[0].rpartition(".")[0]
        general = f"{parent}.*" if parent else "*"
        candidates = [general, *aliases, *self.names]
        near = get_close_matches(pattern, candidates, n=4, cutoff=0.5)
        return list(dict.fromkeys([*near, general, "*@resid"]))


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


def _find_blocks(modules: dict[str, nn.Module], count: int) -> list[str]:
    lists = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not lists:
        raise UserError(
            f"the model has no list of {count} blocks; its modules are "
            f"{', '.join(name for name in modules if '.' not in name)}"
        )
    outermost = min(lists, key=lambda name: name.count("."))
    return [f"{outermost}.{index}" for index in range(count)]
