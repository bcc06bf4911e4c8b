"""How strongly sparsity is asked for: a fixed coefficient, or one that is steered to an L0.

Steering is the method of multipliers for the constraint L0 = target: the coefficient of a step is a
multiplier λ, which remembers, plus a term that answers the batch at hand. A multiplier alone
arrives late and from any side, since the SAE follows it with a delay of hundreds of steps; the
answering term alone stops short of the target.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_GAIN = 5.0
_RATE = 0.015


@dataclass(frozen=True)
class Steering:
    """With e = (L0 − target)/max(L0, target), in [−1, 1], and the start c of λ:

        coefficient = warmup · (λ + 5(c + λ)e),   then   λ ← max(0, λ + 0.015 · 5(c + λ)e).

    c sets the unit in which λ is sought, and need not be near what it becomes. While the
    coefficient warms up λ stays as it is: L0 is above the target then for another reason.

    Attributes:
        start: c, the coefficient itself where there is no target.
        target: active latents per token, or None for a fixed coefficient.
        signed: whether the coefficient may be negative, and reward activity while L0 is too low:
            sensible where the penalty is L0 itself, not where it is a norm.
    """

    start: float
    target: float | None
    signed: bool = False

    def coefficient(
        self, multiplier: Float[Tensor, ""], l0: Float[Tensor, ""], warmup: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        """The coefficient of a step, a constant to gradients.

        Args:
            multiplier: λ.
            l0: the batch's.
            warmup: the share of the coefficient that its warm-up allows, in [0, 1].
        """
        if self.target is None:
            return multiplier * warmup
        coefficient = multiplier + self._answer(multiplier, l0)
        return warmup * (coefficient if self.signed else coefficient.clamp_min(0))

    def adjusted(
        self, multiplier: Float[Tensor, ""], stats: dict[str, Tensor]
    ) -> Float[Tensor, ""]:
        """λ after a step, of whose stats `l0` and `warmup` are read."""
        if self.target is None:
            return multiplier
        change = _RATE * self._answer(multiplier, stats["l0"])
        return (multiplier + torch.where(stats["warmup"] < 1, 0, change)).clamp_min(0)

    def _answer(self, multiplier: Tensor, l0: Tensor) -> Tensor:
        """5(c + λ)e; nothing for an L0 that is no number."""
        assert self.target is not None
        excess = l0.detach() - self.target
        e = (excess / l0.detach().clamp_min(self.target)).nan_to_num(0.0)
        return _GAIN * (self.start + multiplier) * e


def warmup_share(progress: float, warmup: float, like: Tensor) -> Float[Tensor, ""]:
    """Linear from 0 to 1 over the first `warmup` of the run; a tensor as `like` is."""
    share = min(1.0, progress / warmup) if warmup > 0 else 1.0
    return like.new_tensor(share)
