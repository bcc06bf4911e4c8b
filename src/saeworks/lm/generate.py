"""Text that a language model writes, with hooks at any sites.

Shapes: B prompts, T tokens of a prompt, X of prompt and continuation, V vocabulary.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeworks.errors import UserError
from saeworks.lm.model import Hook, LanguageModel

_TRIED = 8
"""Tokens on which a model's cache is tried."""


@torch.no_grad()
def generate(
    lm: LanguageModel,
    prompts_BT: Int[Tensor, "B T"],
    hooks: Mapping[str, Hook],
    new_tokens: int,
    temperature: float,
    seed: int,
    positions_BT: Bool[Tensor, "_ _"] | None = None,
) -> Int[Tensor, "B X"]:
    """`LanguageModel.generate`.

    A hook sees the activations of a pass: of the whole prompt first, then of each new token where
    the model has a cache of keys and values that gives what whole passes give (tried once per
    model), else of all tokens so far. What it returns stands in place of x at `positions_BT` of the
    prompt (by default at all tokens but BOS, on which SAEs are not trained) and at every new token.

    A sampled token is the first at which the cumulated probabilities exceed a uniform number that
    depends on the seed, the prompt's place in the batch and the token's place alone: generations
    with different hooks and one seed are compared draw by draw.

    A row ends at the tokenizer's BOS or EOS, which fills its remaining places.
    """
    _check(lm, prompts_BT, new_tokens, temperature)
    if positions_BT is None:
        positions_BT = prompts_BT != (-1 if lm.bos_id is None else lm.bos_id)
    if positions_BT.shape != prompts_BT.shape:
        raise UserError(
            f"positions {list(positions_BT.shape)} do not fit prompts {list(prompts_BT.shape)}; "
            "give one for each token"
        )
    uniform_BX = torch.rand(
        len(prompts_BT),
        new_tokens,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    writing = _Writing(lm, prompts_BT.to(lm.device), positions_BT.to(lm.device))
    masked = {site: writing.masked(hook) for site, hook in hooks.items()}
    for uniform_B in uniform_BX.to(lm.device).T:
        writing.append(_chosen(writing.logits(masked), temperature, uniform_B))
    return writing.tokens_BX.cpu()


class _Writing:
    """Prompts with what was written so far."""

    def __init__(self, lm: LanguageModel, prompts_BT: Tensor, positions_BT: Tensor) -> None:
        self.lm, self.tokens_BX, self._replaced_BX = lm, prompts_BT, positions_BT
        self._cached = has_cache(lm)
        self._cache: object = None
        ends = (lm.bos_id, getattr(lm.tokenizer, "eos_token_id", None))
        self._ends = torch.tensor([end for end in ends if end is not None], device=lm.device)
        self._ended_B = torch.zeros(len(prompts_BT), dtype=torch.bool, device=lm.device)

    def masked(self, hook: Hook) -> Hook:
        """The hook, whose replacement counts only where it should."""

        def replace(x_BTD: Tensor) -> Tensor | None:
            new = hook(x_BTD)
            if not isinstance(new, Tensor) or new.shape != x_BTD.shape:
                return new  # None, or what the model refuses
            replaced_BT = self._replaced_BX[:, -x_BTD.shape[1] :]
            return torch.where(replaced_BT[..., None], new.to(x_BTD), x_BTD)

        return replace

    def logits(self, hooks: Mapping[str, Hook]) -> Float[Tensor, "B V"]:
        """Of the next token, in float64."""
        if self._cached:
            read_BT = self.tokens_BX if self._cache is None else self.tokens_BX[:, -1:]
            logits_BTV, self._cache = self.lm.extend(read_BT, hooks, self._cache)
        else:
            whole_BTV = self.lm.run(self.tokens_BX, hooks, logits=True)
            assert whole_BTV is not None
            logits_BTV = whole_BTV
        return logits_BTV[:, -1].double()

    def append(self, next_B: Int[Tensor, " B"]) -> None:
        """Add a token to each row; an ended row has its end again."""
        next_B = torch.where(self._ended_B, self.tokens_BX[:, -1], next_B)
        self._ended_B = self._ended_B | torch.isin(next_B, self._ends)
        self.tokens_BX = torch.cat([self.tokens_BX, next_B[:, None]], dim=1)
        self._replaced_BX = torch.cat(
            [self._replaced_BX, torch.ones_like(next_B[:, None], dtype=torch.bool)], dim=1
        )


def _chosen(
    logits_BV: Float[Tensor, "B V"], temperature: float, uniform_B: Float[Tensor, " B"]
) -> Int[Tensor, " B"]:
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    below_BV = (logits_BV / temperature).softmax(dim=-1).cumsum(dim=-1)
    target_B1 = uniform_B[:, None] * below_BV[:, -1:]
    return torch.searchsorted(below_BV, target_B1, right=True)[:, 0].clamp_max(
        logits_BV.shape[1] - 1
    )


def has_cache(lm: LanguageModel) -> bool:
    """Whether the model has a cache of keys and values with which a token's logits are those of a
    whole pass, to rounding; tried once on a few tokens."""
    if lm.cached is None:
        length = min(_TRIED, lm.max_context)
        generator = torch.Generator().manual_seed(0)
        tokens_1T = torch.randint(0, lm.vocabulary, (1, length), generator=generator)
        whole_1TV = lm.run(tokens_1T, logits=True)
        assert whole_1TV is not None
        try:
            parts, cache = [], None
            for part_1t in (tokens_1T[:, : length // 2], tokens_1T[:, length // 2 :]):
                logits_1tV, cache = lm.extend(part_1t, {}, cache)
                parts.append(logits_1tV)
            lm.cached = cache is not None and _close(whole_1TV, torch.cat(parts, dim=1))
        except Exception:  # whatever a model raises that has no such cache
            lm.cached = False
    return lm.cached


def _close(whole: Tensor, parts: Tensor) -> bool:
    wide = whole.dtype in (torch.float32, torch.float64)
    scale = float(whole.double().std())
    return float((whole.double() - parts.double()).abs().amax()) <= (1e-4 if wide else 2e-2) * scale


def _check(lm: LanguageModel, prompts_BT: Tensor, new_tokens: int, temperature: float) -> None:
    if new_tokens < 1:
        raise UserError(f"new_tokens = {new_tokens}: at least one is generated")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UserError(
            f"temperature = {temperature}: give 0 for the likeliest token, or a positive number"
        )
    longest = prompts_BT.shape[1] + new_tokens
    if longest > lm.max_context:
        raise UserError(
            f"{prompts_BT.shape[1]} tokens and {new_tokens} new ones are more than the "
            f"{lm.max_context} of model {lm.name!r}; lower new_tokens, or shorten the prompt"
        )
