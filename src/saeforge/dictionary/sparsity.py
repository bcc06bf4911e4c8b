"""How strongly sparsity is asked for: a fixed coefficient, or a controller that reaches an L0.

The controller is proportional and integral, in logarithms. The proportional part, in `present`,
acts on the batch at hand and damps; the integral part, in `adjusted`, removes what error remains.
A coefficient alone reaches its L0 late and from any side, since the SAE follows it with a delay of
hundreds of steps.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_PROPORTIONAL = 4.0
_INTEGRAL = 0.04
_NEAR = 0.5
"""Beyond e^±½ times the target the integral part slows down."""
_REACH = 3.0
"""The proportional part stays within e^±3."""


def present(
    coefficient: Float[Tensor, ""],
    l0: Float[Tensor, ""],
    target: float | None,
    warmup: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """The coefficient of this step: c · warmup · clamp((L0/target)⁴), a constant to gradients.

    Args:
        l0: the batch's.
        warmup: the share of the coefficient that its warm-up allows, in [0, 1].
    """
    if target is None:
        return coefficient * warmup
    excess = _log_excess(l0, target)
    return coefficient * warmup * (_PROPORTIONAL * excess).clamp(-_REACH, _REACH).exp()


def adjusted(
    coefficient: Float[Tensor, ""], stats: dict[str, Tensor], target: float | None
) -> Float[Tensor, ""]:
    """The coefficient after a step: log c ← log c + 0.04 · e/(1 + (2e)²) with
    e = clamp(log(L0/target), −1, 1).

    Far from the target the coefficient moves little, for its proportional part does the work: an
    SAE that still follows would have it wound up, and be carried past the target, when it arrives.
    While the coefficient warms up it stays as it is: L0 is above the target then for another
    reason.

    Args:
        stats: the step's, of which `l0` and `warmup` are read.
    """
    if target is None:
        return coefficient
    excess = _log_excess(stats["l0"], target).clamp(-1, 1)
    rate = _INTEGRAL * excess / (1 + (excess / _NEAR).square())
    return coefficient * torch.where(stats["warmup"] < 1, 0, rate).exp()


def warmup_share(progress: float, warmup: float, like: Tensor) -> Float[Tensor, ""]:
    """Linear from 0 to 1 over the first `warmup` of the run; a tensor as `like` is."""
    share = min(1.0, progress / warmup) if warmup > 0 else 1.0
    return like.new_tensor(share)


def _log_excess(l0: Tensor, target: float) -> Tensor:
    return torch.log(l0.detach().clamp_min(1e-3) / target)
