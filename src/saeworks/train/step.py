"""One training step of one SAE: what the trainer runs and `saeworks bench step` times."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeworks.dictionary.base import Batch, Context, Trainable
from saeworks.dictionary.losses import fvu_by_site
from saeworks.train.optimiser import DictionaryAdam


@dataclass(frozen=True)
class Stepped:
    """What is left of a step: detached tensors, none of the batch's size.

    Attributes:
        losses: the loss's terms, coefficients included.
        fired: latents with a strictly positive activation in the batch.
        stats: the architecture's numbers for the log; `fvu` and `l0` always.
        grad_norm: before the clip.
    """

    losses: dict[str, Float[Tensor, ""]]
    fired: Bool[Tensor, " M"]
    stats: dict[str, Tensor]
    grad_norm: Float[Tensor, ""]

    def numbers(self) -> tuple[list[str], Float[Tensor, " n"]]:
        """The losses and the gradient's norm, by names for messages, in one tensor."""
        names = [f"loss term {name!r}" for name in self.losses]
        return [*names, "gradient norm"], torch.stack([*self.losses.values(), self.grad_norm])


def train_step(
    sae: Trainable,
    optimiser: DictionaryAdam,
    batch: Batch,
    context: Context,
    lr: float,
    sites: int = 0,
) -> Stepped:
    """Forward, backward, update, then the SAE's own `after_step`. Waits for no device.

    Args:
        sites: of how many sites the batch's rows are, where the FVU is wanted for each: `fvu` is
            then [sites].
    """
    batch = batch.to(sae.dtype)
    out = sae.step(batch, context)
    torch.stack(list(out.loss_terms.values())).sum().backward()
    grad_norm = optimiser.step(lr)
    optimiser.zero_grad()
    sae.after_step(out.state)
    if sites and batch.site is not None:
        out.stats["fvu"] = fvu_by_site(batch.target, out.x_hat, batch.site, sites)
    losses = {name: term.detach() for name, term in out.loss_terms.items()}
    return Stepped(losses, out.fired, out.stats, grad_norm)
