"""What one forward pass of a language model costs, counted on the matrices that run in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saeworks.lm.model import LanguageModel


@dataclass(frozen=True)
class ForwardFlops:
    """Floating-point operations per token, two per multiply-add.

    Attributes:
        weights: 2 per weight of every matrix that runs (embeddings are looked up, which is free).
        attention: QKᵀ and AV over the whole context, 4·T·d per layer: what dense kernels do, and
            twice what is under the causal mask.
        blocks: transformer blocks in which anything runs.
    """

    weights: float
    attention: float
    blocks: int

    @property
    def total(self) -> float:
        """Operations of one token."""
        return self.weights + self.attention


def forward_flops(
    lm: LanguageModel, context: int, sites: Sequence[str] | None = None
) -> ForwardFlops:
    """Count a forward pass over `context` tokens that stops once it has reached the sites.

    One token is run to see which modules are reached; of a mixture of experts, those count that
    this token visits.

    Args:
        sites: canonical names; None for a pass to the logits.
    """
    finished, attended = _run(lm, sites)
    modules = dict(lm.model.named_modules())
    weights = sum(_weights(modules[name]) for name in finished)
    start = f"{lm.prefix}." if lm.prefix else ""
    blocks = [f"{start}{block}." for block in lm.blocks]
    entered = sum(any(name.startswith(block) for name in finished) for block in blocks)
    width = _attention_width(lm.model.config.get_text_config())
    return ForwardFlops(2.0 * weights, 4.0 * context * width * attended, entered)


def _run(lm: LanguageModel, sites: Sequence[str] | None) -> tuple[set[str], int]:
    """Names of the modules without children that a pass finishes; attention layers it begins."""
    finished: set[str] = set()
    begun: set[str] = set()

    def finish(name: str) -> Any:
        return lambda module, args, output: finished.add(name)

    def begin(name: str) -> Any:
        return lambda module, args: begun.add(name)

    modules = dict(lm.base.named_modules())
    handles = [
        module.register_forward_hook(finish(name))
        for name, module in lm.model.named_modules()
        if not any(module.children())
    ]
    handles += [modules[site].register_forward_pre_hook(begin(site)) for site in lm.attention]
    try:
        with torch.no_grad():
            token = torch.zeros(1, 1, dtype=torch.long)
            lm.run(token, dict.fromkeys(sites or (), _look), logits=sites is None)
    finally:
        for handle in handles:
            handle.remove()
    return finished, len(begun)


def _attention_width(config: Any) -> int:
    """Heads times their size: d in most families."""
    heads, d = int(getattr(config, "num_attention_heads", 1)), int(config.hidden_size)
    return heads * int(getattr(config, "head_dim", None) or d // heads)


def _look(_x_BTD: Tensor) -> None:
    """A hook that only reads."""


def _weights(module: nn.Module) -> int:
    if isinstance(module, nn.Embedding):
        return 0
    return sum(p.numel() for p in module.parameters(recurse=False) if p.dim() >= 2)
