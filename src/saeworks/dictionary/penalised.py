"""What architectures with a sparsity penalty have in common: its coefficient, fixed or steered to
a target L0.

Steering is the method of multipliers for the constraint L0 = target: the coefficient of a step is a
multiplier λ, which remembers, plus a term that answers the batch at hand. A multiplier alone
arrives late and from any side, since the SAE follows it with a delay of hundreds of steps; the
answering term alone stops short of the target.
"""

from dataclasses import dataclass
from typing import Any, Self, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saeworks.dictionary import preactivations
from saeworks.dictionary.base import SAE, Batch, Context, StepOut
from saeworks.dictionary.flops import Phase, StepWork
from saeworks.dictionary.losses import batch_fvu
from saeworks.dictionary.normaliser import fold
from saeworks.dictionary.preactivations import Preactivations
from saeworks.dictionary.selection import PROBE_ROWS
from saeworks.dictionary.stages import stage

_USUAL_L0 = 64
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
        self, multiplier: Float[Tensor, ""], l0: Float[Tensor, ""], warmup: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        """λ after a step."""
        if self.target is None:
            return multiplier
        change = _RATE * self._answer(multiplier, l0)
        return (multiplier + torch.where(warmup < 1, 0, change)).clamp_min(0)

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


class Penalised(SAE):
    """An SAE whose config has `target_l0` and `sparsity_warmup`. Subclasses call `_finish` at the
    end of a step, and `_restart` when they are initialised.

    The buffer `coefficient` is the multiplier of `Steering`.

    Args:
        start: of the penalty's coefficient.
        shifted: whether b_dec is subtracted from the encoder's input.
        decodes: reconstructions per training step.
        signed: whether the coefficient may be negative.
    """

    coefficient: Tensor
    gate = "b_enc"
    per_latent: tuple[str, ...] = ("w_enc", "b_enc", "w_dec")

    def __init__(
        self,
        d: int,
        config: Any,
        start: float,
        *,
        shifted: bool,
        decodes: int = 1,
        signed: bool = False,
    ) -> None:
        super().__init__(d, config)
        self._steering = Steering(start, config.target_l0, signed)
        self.register_buffer("coefficient", torch.tensor(float(start)))
        self.phases = _phases(self.width, config.target_l0, config.sparsity_warmup)
        self.work = StepWork(
            decodes=decodes,
            shifted=shifted,
            dense_above=preactivations.DENSE_SHARE,
            probe_rows=PROBE_ROWS,
        )

    @final
    def folded(self, mean_D: Float[Tensor, " D"], scale: Float[Tensor, ""]) -> Self:
        """W_enc/s, W_dec·s, b_dec·s + μ, and b − W_enc μ/s of the gate unless b_dec is subtracted
        from the input."""
        return fold(self, mean_D, scale, () if self.work.shifted else (self.gate,))

    @final
    @torch.no_grad()
    def after_step(self, state: dict[str, Tensor]) -> None:
        """Move the penalty's coefficient towards the target L0, if there is one."""
        self._constrain()
        adjusted = self._steering.adjusted(self.coefficient, state["l0"], state["warmup"])
        self.coefficient.copy_(adjusted)

    def _constrain(self) -> None:
        """Take parameters back to where they are allowed to be."""

    @property
    @final
    def _shift(self) -> nn.Parameter | None:
        """What is subtracted from the encoder's input."""
        return self.b_dec if self.work.shifted else None

    @final
    def _restart(self) -> None:
        self.coefficient.fill_(self._steering.start)

    @final
    def _finish(
        self,
        batch: Batch,
        context: Context,
        z: Preactivations,
        f: Float[Tensor, "*places"],
        x_hat: Float[Tensor, "B D"],
        losses: dict[str, Float[Tensor, ""]],
    ) -> StepOut:
        """The step's result, once the loss named `sparsity` has its coefficient.

        Args:
            f: activations at the places of z.
            losses: by name; `sparsity` is the penalty itself.
        """
        with stage("statistics"), torch.no_grad():
            l0 = z.l0(f)
            warmup = warmup_share(context.progress, self.config.sparsity_warmup, x_hat)
            coefficient = self._steering.coefficient(self.coefficient, l0, warmup)
            stats = {
                "fvu": batch_fvu(batch.target, losses["reconstruction"]),
                "l0": l0,
                "sparsity": coefficient,
                "warmup": warmup,
            }
            fired = z.fired(f)
        losses["sparsity"] = coefficient * losses["sparsity"]
        return StepOut(losses, x_hat, fired, stats, {"l0": l0, "warmup": warmup})


def _phases(width: int, target: float | None, warmup: float) -> tuple[Phase, ...]:
    """Half of all latents while the penalty warms up, then the target, which a run is near soon
    after that."""
    dense = Phase(warmup, width / 2, "half of all latents active")
    assumed = "target_l0 active"
    if target is None:
        target, assumed = min(_USUAL_L0, width / 2), f"{_USUAL_L0} active, with no target_l0"
    phases = (dense, Phase(1 - dense.share, float(target), assumed))
    return tuple(phase for phase in phases if phase.share > 0)
