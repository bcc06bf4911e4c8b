"""What architectures with a sparsity penalty have in common: its coefficient, fixed or steered to
a target L0."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.dictionary import preactivations
from saeworks.dictionary.base import (
    SAE,
    Batch,
    Context,
    StepOut,
)
from saeworks.dictionary.flops import (
    Flops,
    Phase,
    dense_step,
    probed,
    sparse_step,
)
from saeworks.dictionary.losses import batch_fvu
from saeworks.dictionary.preactivations import PROBE_ROWS, Preactivations
from saeworks.dictionary.sparsity import Steering, warmup_share
from saeworks.dictionary.stages import stage

_USUAL_L0 = 64


class Steered(SAE):
    """An SAE whose config has `target_l0` and `sparsity_warmup`. Subclasses call `_finish` at the
    end of a step, and `_restart` when they are initialised.

    The buffer `coefficient` is the multiplier of `sparsity.Steering`.
    """

    coefficient: Tensor
    decodes: ClassVar[int] = 1
    """Reconstructions per training step."""

    def __init__(self, d: int, config: Any, start: float, signed: bool = False) -> None:
        super().__init__(d, config)
        self._steering = Steering(start, config.target_l0, signed)
        self.register_buffer("coefficient", torch.tensor(float(start)))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Half of all latents while the penalty warms up, then the target, which a run is near
        soon after that."""
        dense = Phase(self.config.sparsity_warmup, self.width / 2, "half of all latents active")
        target, assumed = self.config.target_l0, "target_l0 active"
        if target is None:
            target, assumed = (
                min(_USUAL_L0, self.width / 2),
                f"{_USUAL_L0} active, with no target_l0",
            )
        phases = (dense, Phase(1 - dense.share, float(target), assumed))
        return tuple(phase for phase in phases if phase.share > 0)

    def flops(self, active: float, rows: int) -> Flops:
        """Dense or sparse, as the step would go; some rows are encoded twice to decide which."""
        d, width = self.d, self.width
        if active > preactivations.DENSE_SHARE * width:
            step = dense_step(d, width, decodes=self.decodes, shifted=self._shift is not None)
        else:
            shifted = self._shift is not None
            step = sparse_step(d, width, active, rows, decodes=self.decodes, shifted=shifted)
        return probed(step, d, width, rows, PROBE_ROWS)

    @property
    @abstractmethod
    def _shift(self) -> Tensor | None:
        """What is subtracted from the encoder's input: b_dec, or nothing."""

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
