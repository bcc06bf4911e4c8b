"""The part of a forward pass that comes before a site, computed once for several passes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from saeworks.lm.model import LanguageModel

Pass = Callable[[], AbstractContextManager[None]]
"""Gives the context in which each of the passes is to be made."""


def shared_prefix(lm: LanguageModel, tokens_BT: Int[Tensor, "B T"], site: str) -> Pass:
    """For passes over one batch that differ only from a site on, such as splices at that site.

    In the first pass made within a context of what this returns, the output of the last block
    before the site is kept; in the later ones no block before the site computes anything. Nothing
    is left out of a model in which that changes the logits (blocks that read more of earlier ones
    than the residual stream): one sequence of the first batch is tried both ways, once per model
    and block. Nor for a site outside the blocks.
    """
    last = _last_before(lm.blocks, site)
    if last is None or not _can_skip(lm, last, tokens_BT[:1]):
        return nullcontext
    kept: list[Any] = []
    modules = [lm.block(name) for name in lm.blocks]

    def each() -> AbstractContextManager[None]:
        return _skipping(modules, last, kept[0]) if kept else _recording(modules[last], kept)

    return each


def _last_before(blocks: Sequence[str], site: str) -> int | None:
    """Index of the last block whose output is there before the site is, or is the site."""
    for index, block in enumerate(blocks):
        if site == block:
            return index
        if site.startswith((f"{block}.", f"{block}@")):
            return index - 1 if index else None
    return None


@torch.no_grad()
def _can_skip(lm: LanguageModel, last: int, tokens_BT: Tensor) -> bool:
    if last not in lm.skippable:
        modules = [lm.block(name) for name in lm.blocks]
        kept: list[Any] = []
        with _recording(modules[last], kept):
            whole = lm.run(tokens_BT, logits=True)
        try:
            with _skipping(modules, last, kept[0]):
                rest = lm.run(tokens_BT, logits=True)
        except Exception:  # whatever such a model raises when what it expects was not left for it
            rest = None
        assert whole is not None
        lm.skippable[last] = rest is not None and torch.equal(whole, rest)
    return lm.skippable[last]


@contextmanager
def _recording(block: nn.Module, kept: list[Any]) -> Iterator[None]:
    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        kept[:] = [_copied(output)]

    # before the hook that splices, which on a block's own output must not be what is kept
    handle = block.register_forward_hook(keep, prepend=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _skipping(blocks: Sequence[nn.Module], last: int, output: Any) -> Iterator[None]:
    """Blocks up to the one at index `last` give `output`; what each got but the last's is unread.
    Their own hooks still run; what is inside them does not."""
    skipped = blocks[: last + 1]
    before = [vars(block).get("forward") for block in skipped]  # set by others, such as accelerate
    for block in skipped:
        block.forward = lambda *_args, **_kwargs: _copied(output)
    try:
        yield
    finally:
        for block, forward in zip(skipped, before, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def _copied(output: Any) -> Any:
    """With a copy of its first tensor: some models add in place."""
    if isinstance(output, tuple):
        return (output[0].clone(), *output[1:])
    return output.clone()
