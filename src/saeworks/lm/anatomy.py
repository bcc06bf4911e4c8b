"""What a model's modules give and what its blocks add, found by one tiny forward pass.

Names do not tell: the module called `attn` may return the residual stream with what it adds in it
(BLOOM), something that is scaled (Granite) or normalised (Gemma 2, OLMo 2) before it is added, or
nothing of the kind. So numbers decide: x_out = x_in + attention + MLP, to rounding.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from saeworks.errors import UserError

IN = "@in"
"""Ends the name of a site that is a module's input."""
ATTN, MLP = "attn", "mlp"
SEQUENCES, TOKENS = 3, 7
"""Size of the pass: several sequences, of a length that nothing else in a model has."""

_MIXERS = (
    "attn",
    "self_attn",
    "attention",
    "self_attention",
    "linear_attn",
    "multi_head_attention",
    "rel_attn",
    "self_att",
    "mixer",
    "mamba",
    "temporal_block",
    "mlstm_layer",
    "conv",
)
"""Names of what mixes tokens, in a block."""
_MLPS = (
    "mlp",
    "feed_forward",
    "feedforward",
    "ffn",
    "ff",
    "block_sparse_moe",
    "moe",
    "mlp_block",
    "channel_mixer",
)
_EITHER = "mixer"
"""The name of a block's only sublayer, whatever it is (Mamba, Nemotron-H)."""
_MLP_CLASS = re.compile(r"(MLP|MoE|Moe|FeedForward)$")


@dataclass
class Branch:
    """What a block's attention or MLP is.

    Attributes:
        module: the sublayer's name; None where the block has none, or it is no one module.
        site: the module whose output is what it adds to the residual stream; None where there is
            none such.
        reason: why there is none.
    """

    module: str | None = None
    site: str | None = None
    reason: str = "this block has none"


@dataclass
class Anatomy:
    """What one pass over a few tokens showed.

    Attributes:
        widths: D of every site [B, T, D].
        refused: why any other is no site.
        branches: by block, its `attn` and `mlp`.
        stream: by block, why its output is not the residual stream; only where it is not.
    """

    widths: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    branches: dict[str, dict[str, Branch]] = field(default_factory=dict)
    stream: dict[str, str] = field(default_factory=dict)


def first_tensor(output: Any) -> Any:
    """The part of a module's output that a site means: itself, or the first of several."""
    if isinstance(output, tuple | list):
        return output[0] if len(output) else None
    return output


def input_key(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | str | None:
    """Where among a module's arguments its input is: the first, or `hidden_states` by name."""
    if args:
        return 0
    if isinstance(kwargs.get("hidden_states"), Tensor):
        return "hidden_states"
    return next((key for key, value in kwargs.items() if isinstance(value, Tensor)), None)


def is_site(x: Any, tokens: Sequence[int]) -> bool:
    """Whether x is activations [B, T, D] of that many tokens."""
    return (
        isinstance(x, Tensor)
        and x.dim() == 3
        and tuple(x.shape[:2]) == tuple(tokens)
        and x.is_floating_point()
    )


def shape_reason(x: Any, tokens: Sequence[int]) -> str:
    """Why x is not activations of that many tokens."""
    if isinstance(x, Tensor):
        kind = "" if x.is_floating_point() else f" of {str(x.dtype).removeprefix('torch.')}"
        given = f"{list(x.shape)}{kind}"
    else:
        given = "no tensor" if x is None else f"a {type(x).__name__}"
    return f"it gives {given} for {tokens[0]} × {tokens[1]} tokens, not activations [B, T, D]"


@torch.no_grad()
def examine(
    forward: Callable[[Tensor], Tensor],
    modules: Mapping[str, nn.Module],
    blocks: Sequence[str],
    vocabulary: int,
    longest: int,
) -> Anatomy:
    """Run the model on a few tokens and see what every module gives.

    Args:
        forward: tokens [B, T] → logits [B, T, V].
        modules: by name; one that several blocks share is there under all its names.
        blocks: names of the transformer blocks, in order.
        vocabulary, longest: what tokens the model takes.

    Raises:
        UserError: if it cannot run, or a prediction depends on a token that comes later.
    """
    tokens_BT = _tokens(vocabulary, min(TOKENS, longest))
    watch = _Watch(modules, blocks, tokens_BT.shape)
    with watch.watching():
        logits_BTV = forward(tokens_BT)
    _check_causal(forward, tokens_BT, logits_BTV)
    return watch.anatomy()


def _tokens(vocabulary: int, length: int) -> Tensor:
    """Three sequences: one, itself with another last token, and with another second half."""
    generator = torch.Generator().manual_seed(0)
    low = min(8, vocabulary // 2)  # the first ones are often special
    tokens_BT = torch.randint(low, vocabulary, (1, length), generator=generator)
    tokens_BT = tokens_BT.repeat(SEQUENCES, 1)
    for row, start in ((1, length - 1), (2, (length + 1) // 2)):
        shift = 1 + (vocabulary - low) // 3
        tokens_BT[row, start:] = low + (tokens_BT[row, start:] - low + shift) % (vocabulary - low)
    return tokens_BT


def _check_causal(
    forward: Callable[[Tensor], Tensor], tokens_BT: Tensor, logits_BTV: Tensor
) -> None:
    """Refuse predictions that change with a later token by more than rounding does, or than they
    change with what else is in the batch (as where activations are quantised all together)."""
    x = logits_BTV.double().cpu()
    length = x.shape[1]
    known = {1: length - 1, 2: (length + 1) // 2}
    change = max(float((x[row, :n] - x[0, :n]).abs().amax()) for row, n in known.items() if n)
    wide = logits_BTV.dtype in (torch.float32, torch.float64)
    if change <= (1e-4 if wide else 2e-3) * float((x - x.mean()).abs().amax()):
        return
    alone = forward(tokens_BT[:1]).double().cpu()
    if change > 3 * float((alone - x[:1]).abs().amax()):
        raise UserError(
            "its predictions depend on tokens that come later, so it is no causal language model "
            "(an encoder, or one with a bidirectional prefix); choose a causal one"
        )


class _Watch:
    """Hooks on every module, for one pass."""

    def __init__(
        self, modules: Mapping[str, nn.Module], blocks: Sequence[str], tokens: Sequence[int]
    ) -> None:
        self.modules, self.blocks, self.tokens = modules, blocks, tokens
        self.calls: dict[nn.Module, int] = {}
        self.seen: dict[tuple[nn.Module, bool], Any] = {}
        """By module and whether it is its input: width, or the reason why it has none."""
        self.branches: dict[str, dict[str, Branch]] = {}
        self.finder = _Finder()
        self.block: str | None = None
        self.x_BTD: Tensor | None = None
        self.given: dict[str, Tensor] = {}
        self.stream: dict[str, str] = {}
        self.inner: dict[str, dict[nn.Module, str]] = {}
        """By block, the names of the modules in it."""
        self.names = {modules[block]: block for block in reversed(blocks)}
        self.before: tuple[str, Tensor] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        for block in self.blocks:
            named = self.modules[block].named_modules()
            self.inner[block] = {module: name for name, module in named if name}
        handles = []
        for module in dict.fromkeys(self.modules.values()):
            handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, module: nn.Module, is_input: bool, x: Any) -> None:
        good = is_site(x, self.tokens)
        result = int(x.shape[-1]) if good else shape_reason(x, self.tokens)
        self.seen.setdefault((module, is_input), result)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key = input_key(args, kwargs)
        x: Any = None if key is None else args[0] if key == 0 else kwargs[str(key)]
        self._note(module, True, x)
        if module in self.names:
            self.block = self.names[module]
            self.x_BTD = _copy(x) if is_site(x, self.tokens) else None
            self.given = {}
            self._join(self.block, x)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.calls[module] = self.calls.get(module, 0) + 1
        x = first_tensor(output)
        self._note(module, False, x)
        if self.block is None:
            return
        name = self.inner[self.block].get(module)
        like = self.x_BTD
        if name is not None and like is not None and isinstance(x, Tensor) and _as_many(x, like):
            self.given[name] = _copy(x).reshape(like.shape)  # some give [B·T, D] to be reshaped
        if module is self.modules[self.block]:
            self._finish(self.block, x)
            self.block = None

    def _join(self, block: str, x: Any) -> None:
        """The residual stream is what one block gives and the next one gets."""
        if self.before is not None and isinstance(x, Tensor):
            previous, y = self.before
            if x.shape != y.shape or not _equal(_copy(x), (y,)):
                self.stream[previous] = f"it is not what {block} gets"

    def _finish(self, block: str, y: Any) -> None:
        self.before = (block, _copy(y)) if isinstance(y, Tensor) else None
        if self.x_BTD is None or not is_site(y, self.tokens) or y.shape != self.x_BTD.shape:
            return
        y = _copy(y)
        module = self.modules[block]
        self.branches[block] = self.finder.find(block, module, self.x_BTD, y, self.given)

    def anatomy(self) -> Anatomy:
        anatomy = Anatomy(branches=self.branches, stream=self.stream)
        names: dict[nn.Module, list[str]] = {}
        for name, module in self.modules.items():
            names.setdefault(module, []).append(name)
        for name, module in self.modules.items():
            for site, is_input in ((name + IN, True), (name, False)):
                seen = self.seen.get((module, is_input))
                calls = self.calls.get(module, 0)
                if not calls:
                    anatomy.refused[site] = "it does not run in a pass over plain tokens"
                elif calls > 1:
                    same = [other for other in names[module] if other != name]
                    shared = f" (it is {same[0]}, too)" if same else ""
                    anatomy.refused[site] = f"it runs {calls} times in one pass{shared}"
                elif isinstance(seen, int):
                    anatomy.widths[site] = seen
                else:
                    anatomy.refused[site] = str(seen)
        for branch in (branch for both in self.branches.values() for branch in both.values()):
            if branch.site in anatomy.refused:
                branch.reason = f"that is {branch.site}, but {anatomy.refused[branch.site]}"
                branch.site = None
        return anatomy


def _copy(x: Tensor) -> Tensor:
    """On the CPU, as some devices have no float64; a copy, as some models add in place."""
    return x.detach().to("cpu", copy=True)


def _as_many(x: Tensor, like: Tensor) -> bool:
    return (
        x.is_floating_point()
        and x.dim() >= 2
        and (x.shape[-1], x.numel()) == (like.shape[-1], like.numel())
    )


def _equal(y: Tensor, parts: Sequence[Tensor]) -> bool:
    """y = Σ parts, to the rounding of y's precision, in every element."""
    one_token = [part[-1:, -1:] for part in parts]  # most of what is tried fails there already
    return _close(y[-1:, -1:], one_token) and _close(y, parts)


def _close(y: Tensor, parts: Sequence[Tensor]) -> bool:
    wide = [part.double() for part in parts]
    rounding = 4 * torch.finfo(y.dtype).eps * sum(part.abs() for part in wide)
    return bool(((y.double() - sum(wide)).abs() <= rounding).all())


Parts = tuple[str | None, str | None]
"""Names in a block of what attention adds and what the MLP adds."""


class _Finder:
    """Looks for what blocks add; what fits one block is tried first in the next."""

    def __init__(self) -> None:
        self.fitted: dict[tuple[str, ...], tuple[Parts | None, str]] = {}

    def find(
        self, block: str, module: nn.Module, x: Tensor, y: Tensor, given: dict[str, Tensor]
    ) -> dict[str, Branch]:
        owners = sublayers(module)
        given = _distinct(given, owners)
        structure = tuple(given)
        parts, reason = self.fitted.get(structure, (None, ""))
        if not (parts and _fits(parts, x, y, given)):
            if parts or not reason:
                parts = _search(owners, x, y, given)
                reason = "" if parts else _why_not(owners, x, y, given)
            self.fitted[structure] = (parts, reason)
        return _branches(block, owners, parts, reason)


def sublayers(block: nn.Module) -> dict[str, str | None]:
    """A block's attention (or what else mixes its tokens) and its MLP, by their names in it."""
    children = dict(block.named_children())
    chosen: dict[str, str | None] = {ATTN: None, MLP: None}
    for kind, names in ((ATTN, _MIXERS), (MLP, _MLPS)):
        for name in names:
            if name in children:
                is_mlp = name == _EITHER and _MLP_CLASS.search(type(children[name]).__name__)
                chosen[MLP if is_mlp else kind] = name
                break
    return chosen


def _distinct(given: dict[str, Tensor], owners: Mapping[str, str | None]) -> dict[str, Tensor]:
    """The outputs without those that repeat another's (a dropout in eval mode, say)."""
    kept: dict[str, Tensor] = {}
    for name in sorted(given, key=lambda name: (name not in owners.values(), name.count("."))):
        if not any(torch.equal(given[name], other) for other in kept.values()):
            kept[name] = given[name]
    return {name: kept[name] for name in given if name in kept}


def _candidates(kind: str, owners: Mapping[str, str | None], given: Sequence[str]) -> list[str]:
    owner, other = owners[kind], owners[MLP if kind == ATTN else ATTN]
    outside = [n for n in given if n.split(".")[0] not in (owner, other)]
    inside = [n for n in given if owner is not None and n.startswith(f"{owner}.")]
    return [*(name for name in given if name == owner), *outside, *inside]


def _fits(parts: Parts, x: Tensor, y: Tensor, given: Mapping[str, Tensor]) -> bool:
    return _equal(y, [x, *(given[part] for part in parts if part is not None)])


def _search(
    owners: Mapping[str, str | None], x: Tensor, y: Tensor, given: Mapping[str, Tensor]
) -> Parts | None:
    """Modules whose outputs sum to what the block adds: two, or one alone."""
    names = list(given)
    place = {name: index for index, name in enumerate(names)}
    attn, mlp = (_candidates(kind, owners, names) for kind in (ATTN, MLP))
    tried: list[Parts] = [*_pairs(attn, mlp, owners, place)]
    tried += [(a, None) for a in attn]
    tried += [(None, m) for m in mlp]
    return next((parts for parts in tried if _fits(parts, x, y, given)), None)


def _pairs(
    attn: Sequence[str],
    mlp: Sequence[str],
    owners: Mapping[str, str | None],
    place: Mapping[str, int],
) -> Iterator[tuple[str, str]]:
    """What attention adds and what the MLP adds: outside of both, in the order they run in."""
    for a, m in product(attn, mlp):
        inside = [n.split(".")[0] in owners.values() for n in (a, m)]
        in_order = place[a] < place[m] or (any(inside) and owners[MLP] is not None)
        if a != m and in_order:
            yield a, m


def _why_not(
    owners: Mapping[str, str | None], x: Tensor, y: Tensor, given: Mapping[str, Tensor]
) -> str:
    """Why no two modules fit: a module after the sum, a third summand, or factors."""
    if not bool(torch.isfinite(y).all()):
        return "its activations are not finite"
    outer = {name: part for name, part in given.items() if "." not in name}
    if last := next((name for name, part in outer.items() if _equal(y, [part])), None):
        return f"the block gives what its {last} does, which stands behind the sum"
    attn, mlp = (_candidates(kind, owners, list(outer)) for kind in (ATTN, MLP))
    for a, m in product(attn, mlp):
        for third, part in outer.items():
            if len({a, m, third}) == 3 and _equal(y, [x, outer[a], outer[m], part]):
                return f"the block adds three: {a}, {m} and {third}"
    for a, m in product(attn, mlp):
        if a != m and (factors := _factors(y, [x, outer[a], outer[m]])):
            of_x, of_a, of_m = factors
            return f"the block gives {of_x} × its input + {of_a} × {a} + {of_m} × {m}"
    return "the block does not give its input plus what modules in it give"


def _factors(y: Tensor, parts: Sequence[Tensor]) -> list[str] | None:
    """The factors, to four decimals, by which the parts sum to y; None where there are none."""
    columns = torch.stack([part.double().flatten() for part in parts], 1)
    target = y.double().flatten()
    factors = torch.linalg.lstsq(columns, target[:, None]).solution[:, 0]
    if (target - columns @ factors).norm() > 10 * torch.finfo(y.dtype).eps * target.norm():
        return None
    return [f"{round(float(factor), 4) + 0.0:g}" for factor in factors]


def _branches(
    block: str, owners: Mapping[str, str | None], parts: Parts | None, reason: str
) -> dict[str, Branch]:
    branches = {}
    for index, kind in enumerate((ATTN, MLP)):
        owner = owners[kind]
        branch = Branch(module=f"{block}.{owner}" if owner else None)
        part = parts[index] if parts else None
        if part is not None:
            branch.site = f"{block}.{part}"
        elif parts is None:
            branch.reason = reason
        elif owner:
            branch.reason = f"the block's output does not have what its {owner} gives in it"
        branches[kind] = branch
    return branches
