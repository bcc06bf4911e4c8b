"""Passes that share the blocks before a site give what whole passes give."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.toys import tiny_llama
from saeworks.lm.model import LanguageModel
from saeworks.lm.prefix import shared_prefix

PLACES = ("resid", "attn", "mlp", "resid@in", "attn@in", "mlp@in")


@pytest.fixture
def lm() -> LanguageModel:
    shared = tiny_llama()  # one for all tests
    shared.skippable.clear()
    return shared


@pytest.fixture
def tokens(lm: LanguageModel) -> Tensor:
    return torch.randint(0, lm.vocabulary, (3, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def ran(lm: LanguageModel) -> Iterator[list[int]]:
    """Blocks whose MLP has computed something, in order."""
    seen: list[int] = []
    handles = [
        lm.block(f"{name}.mlp").register_forward_hook(lambda *_, index=index: seen.append(index))
        for index, name in enumerate(lm.blocks)
    ]
    yield seen
    for handle in handles:
        handle.remove()


def spliced(lm: LanguageModel, tokens: Tensor, site: str, factor: float) -> Tensor:
    logits = lm.run(tokens, {site: lambda x: factor * x}, logits=True)
    assert logits is not None
    return logits


@pytest.mark.parametrize("place", PLACES)
def test_the_blocks_before_a_site_run_once(
    lm: LanguageModel, tokens: Tensor, ran: list[int], place: str
) -> None:
    last = len(lm.blocks) - 1
    site = lm.sites([f"{last}@{place}"])[0]
    whole = [spliced(lm, tokens, site, factor) for factor in (0.0, 0.5, 2.0)]
    context = shared_prefix(lm, tokens, site)
    assert lm.skippable == {last if place == "resid" else last - 1: True}
    ran.clear()
    for factor, expected in zip((0.0, 0.5, 2.0), whole, strict=True):
        with context():
            assert torch.equal(spliced(lm, tokens, site, factor), expected)
    again = [] if place == "resid" else [last]
    assert ran == [*range(last + 1), *again, *again]
    assert torch.equal(spliced(lm, tokens, site, 0.5), whole[1])  # outside, everything runs


def test_what_was_kept_is_not_changed_by_who_adds_in_place(
    lm: LanguageModel, tokens: Tensor
) -> None:
    site = lm.blocks[0]
    handle = lm.block(lm.blocks[1]).register_forward_pre_hook(lambda _m, args: args[0].add_(1.0))
    whole = spliced(lm, tokens, site, 1.0)
    context = shared_prefix(lm, tokens, site)
    for _ in range(3):
        with context():
            assert torch.equal(spliced(lm, tokens, site, 1.0), whole)
    handle.remove()


def test_nothing_is_left_out_before_the_first_block_or_outside(
    lm: LanguageModel, tokens: Tensor, ran: list[int]
) -> None:
    for site in (f"{lm.blocks[0]}@in", f"{lm.blocks[0]}.mlp", "norm", "embed_tokens"):
        context = shared_prefix(lm, tokens, site)
        ran.clear()
        for _ in range(2):
            with context():
                spliced(lm, tokens, site, 0.5)
        assert ran == [*range(lm.layers), *range(lm.layers)]
    assert not lm.skippable


class _WithSideChannel(nn.Module):
    """A block that reads what an earlier block left behind."""

    def __init__(self, block: nn.Module, notes: list[Tensor], reads: bool) -> None:
        super().__init__()
        self.block, self.notes, self.reads = block, notes, reads

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.reads:
            x = x + self.notes.pop()
        else:
            self.notes[:] = [x]
        return self.block(x, *args, **kwargs)


def test_a_model_with_a_side_channel_runs_whole(lm: LanguageModel, tokens: Tensor) -> None:
    model = deepcopy(lm.model)
    notes: list[Tensor] = []
    layers: Any = model.base_model.layers
    layers[0] = _WithSideChannel(layers[0], notes, reads=False)
    layers[1] = _WithSideChannel(layers[1], notes, reads=True)
    lm = LanguageModel.wrap(model, None)
    site = lm.blocks[0]
    whole = spliced(lm, tokens, site, 0.5)
    context = shared_prefix(lm, tokens, site)
    assert lm.skippable == {0: False}
    for _ in range(2):
        with context():
            assert torch.equal(spliced(lm, tokens, site, 0.5), whole)


def test_the_model_is_itself_again_after_an_error(lm: LanguageModel, tokens: Tensor) -> None:
    site = lm.blocks[1]
    own = lm.block(lm.blocks[0]).forward
    lm.block(lm.blocks[0]).forward = own  # as accelerate leaves it
    context = shared_prefix(lm, tokens, site)
    with context():
        whole = spliced(lm, tokens, site, 0.5)

    def broken(_x: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), context():
        lm.run(tokens, {site: broken}, logits=True)
    assert lm.block(lm.blocks[0]).forward is own
    assert "forward" not in vars(lm.block(lm.blocks[1]))
    assert torch.equal(spliced(lm, tokens, site, 0.5), whole)
