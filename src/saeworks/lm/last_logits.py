"""Logits at one position of each sequence, without those of all the others."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saeworks.lm.model import Hook, LanguageModel


def last_logits(
    lm: LanguageModel,
    tokens_BT: Int[Tensor, "B T"],
    last_B: Int[Tensor, " B"],
    hooks: Mapping[str, Hook],
) -> Float[Tensor, "B V"]:
    """The logits of a pass with hooks, at position `last` of each sequence.

    Only these positions go through the unembedding, which in a small model with a large vocabulary
    is most of the work. Gradients flow as in `LanguageModel.run`.
    """
    row_B, at_B = torch.arange(len(last_B), device=lm.device), last_B.to(lm.device)

    def select(_head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][row_B, at_B][:, None], *args[1:])

    head = lm.model.get_output_embeddings()
    handle = None if head is None else head.register_forward_pre_hook(select)
    try:
        logits_BTV = lm.run(tokens_BT, hooks, logits=True)
    finally:
        if handle is not None:
            handle.remove()
    assert logits_BTV is not None
    return logits_BTV[:, 0] if logits_BTV.shape[1] == 1 else logits_BTV[row_B, at_B]
