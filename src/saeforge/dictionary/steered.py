"""What architectures with a sparsity penalty have in common: its coefficient, fixed or steered to
a target L0."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saeforge.dictionary.base import SAE, Batch, Context, StepOut
from saeforge.dictionary.losses import batch_fvu
from saeforge.dictionary.preactivations import Preactivations
from saeforge.dictionary.sparsity import Steering, warmup_share
from saeforge.dictionary.stages import stage


class Steered(SAE):
    """An SAE whose config has `target_l0` and `sparsity_warmup`. Subclasses call `_finish` at the
    end of a step, and `_restart` when they are initialised.

    The buffer `coefficient` is the multiplier of `sparsity.Steering`.
    """

    coefficient: Tensor

    def __init__(self, d: int, config: Any, start: float, signed: bool = False) -> None:
        super().__init__(d, config)
        self._steering = Steering(start, config.target_l0, signed)
        self.register_buffer("coefficient", torch.tensor(float(start)))

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor]) -> None:
        """Move the penalty's coefficient towards the target L0, if there is one."""
        self.coefficient.copy_(self._steering.adjusted(self.coefficient, stats))

    def _restart(self) -> None:
        self.coefficient.fill_(self._steering.start)

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
        return StepOut(losses, x_hat, fired, stats)
