"""A site's affine map between raw activations and the units that SAEs are trained in."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saeworks.errors import UserError

Architecture = TypeVar("Architecture", bound=nn.Module)
Kind = Literal["centre-scale", "scale-only", "none"]
CHUNK = 8192
"""Rows that are in float64, or centred, at once."""


@dataclass(frozen=True)
class Normaliser:
    """x ↦ (x − mean) / scale.

    Attributes:
        mean: μ [D], in raw units.
        scale: the RMS norm of the centred x over √D, so that E‖x‖² = D afterwards.
    """

    mean: Float[Tensor, " D"]
    scale: Float[Tensor, ""]

    @classmethod
    def identity(cls, d: int) -> "Normaliser":
        """The map that changes nothing."""
        return cls(torch.zeros(d), torch.ones(()))

    @classmethod
    def estimate(cls, x_ND: Float[Tensor, "N D"], kind: Kind = "centre-scale") -> "Normaliser":
        """Estimate the map on raw activations; sums in float64, result in float32.

        Args:
            kind: `centre-scale`, `scale-only` (mean 0 is not enforced), or `none`.

        Raises:
            UserError: if there are no rows, or they are not finite, or all the same.
        """
        n, d = x_ND.shape
        if kind == "none":
            return cls(torch.zeros(d, device=x_ND.device), torch.ones((), device=x_ND.device))
        if n == 0:
            raise UserError(
                "normaliser: there are no activations to estimate it on; give more text"
            )
        mean_D = torch.zeros(d, dtype=torch.float64, device=x_ND.device)
        if kind == "centre-scale":
            for rows in torch.split(x_ND, CHUNK):
                mean_D += rows.double().sum(0)
            mean_D /= n
        square = torch.zeros((), dtype=torch.float64, device=x_ND.device)
        for rows in torch.split(x_ND, CHUNK):
            square += (rows.double() - mean_D).square().sum()
        scale = (square / (n * d)).sqrt().float()
        if not (scale.isfinite() and scale > 0):
            raise UserError(
                f"normaliser: the scale of {n} activations is {scale.item()}; they must be finite"
                " and vary (normaliser: none trains on them as they are)"
            )
        return cls(mean_D.float(), scale)

    def normalise(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens D"]:
        """Raw activations to mean 0 and E‖x‖² = D, in at least float32."""
        return (x - self.mean) / self.scale

    def denormalise(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens D"]:
        """Back to raw activations, in at least float32."""
        wide = torch.promote_types(x.dtype, self.mean.dtype)  # a scalar promotes nothing
        return x.to(wide) * self.scale + self.mean

    def to(self, device: torch.device | str) -> "Normaliser":
        """The same map on another device."""
        return Normaliser(self.mean.to(device), self.scale.to(device))


@torch.no_grad()
def fold(
    sae: Architecture,
    mean_D: Float[Tensor, " D"],
    scale: Float[Tensor, ""],
    unshifted: Sequence[str] = (),
) -> Architecture:
    """A copy on raw activations with the same code: W_enc/s, W_dec·s, b_dec·s + μ.

    Args:
        unshifted: encoder biases of an SAE that does not subtract b_dec from its input; they take
            up the mean, b − W_enc μ/s.
    """
    folded = copy.deepcopy(sae)
    parameters = dict(folded.named_parameters())
    parameters["w_enc"].div_(scale)
    parameters["w_dec"].mul_(scale)
    parameters["b_dec"].mul_(scale).add_(mean_D)
    for name in unshifted:
        parameters[name].sub_(parameters["w_enc"] @ mean_D.to(parameters["w_enc"].dtype))
    return folded
