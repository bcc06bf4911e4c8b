"""An SAE on a group of sites whose means and scales are trained with it."""

from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saeworks.dictionary.base import SAE, Batch, Context, StepOut, Trainable
from saeworks.dictionary.losses import batch_fvu, reconstruction
from saeworks.dictionary.normaliser import Normaliser


@final
class SiteAffine(Trainable):
    """SAE_s(x) = e^{γ_s} · SAE((x − δ_s) e^{−γ_s}) + δ_s with a trained shift δ_s and log-scale γ_s
    for every site s; both 0 to begin with.

    Loss: the inner SAE's, its squared errors weighted by e^{2γ_s}: they are measured in the units
    of the frozen normaliser, since in its own an SAE would do best by making x small. Sparsity
    penalties and AuxK are in the inner SAE's units, and so are its statistics but the FVU. For
    training; `for_site` is what remains.

    Args:
        inner: the SAE that the sites share.
        sites: how many.
    """

    def __init__(self, inner: SAE, sites: int) -> None:
        super().__init__(inner.d, inner.config)
        self.inner = inner
        weight = next(inner.parameters())
        self.shift = nn.Parameter(weight.new_zeros(sites, inner.d))
        self.log_scale = nn.Parameter(weight.new_zeros(sites))
        self.unit_norm = tuple(f"inner.{name}" for name in inner.unit_norm)
        self.frozen = tuple(f"inner.{name}" for name in inner.frozen)
        self.betas = inner.betas
        self.lr_scales = {f"inner.{name}": scale for name, scale in inner.lr_scales.items()}
        self.phases, self.work = inner.phases, inner.work  # shifts and scales are elementwise

    @torch.no_grad()
    def initialise(self, x_BD: Float[Tensor, "B D"], generator: torch.Generator) -> None:
        """The inner SAE; δ = γ = 0."""
        self.inner.initialise(x_BD, generator)
        self.shift.zero_()
        self.log_scale.zero_()

    def step(self, batch: Batch, context: Context) -> StepOut:
        """The inner step on the shifted, scaled rows; x̂ in the units of the batch."""
        site_B = batch.site
        if site_B is None:
            site_B = torch.zeros(len(batch.x), dtype=torch.int64, device=batch.x.device)
        shift_BD, scale_B1 = self.shift[site_B], self.log_scale[site_B].exp()[:, None]
        x_BD = (batch.x - shift_BD) / scale_B1
        target_BD = x_BD if batch.target is batch.x else (batch.target - shift_BD) / scale_B1
        weight_B = scale_B1.squeeze(1).square()
        out = self.inner.step(Batch(x_BD, target_BD, batch.site, weight_B, batch.label), context)
        x_hat_BD = out.x_hat * scale_B1 + shift_BD
        with torch.no_grad():  # the inner one is of weighted errors over unweighted variance
            fvu = batch_fvu(batch.target, reconstruction(batch.target, x_hat_BD))
        stats = {**out.stats, "fvu": fvu}
        return StepOut(out.loss_terms, x_hat_BD, out.fired, stats, out.state)

    def for_site(self, index: int) -> SAE:
        """The inner SAE on rows of the site, δ and γ folded in."""
        mean_D, scale = self.shift[index].detach(), self.log_scale[index].detach().exp()
        return self.inner.for_site(index).folded(mean_D, scale)

    def after_step(self, state: dict[str, Tensor]) -> None:
        self.inner.after_step(state)

    def warning(self, stats: Mapping[str, Any]) -> str | None:
        return self.inner.warning(stats)

    def normaliser(self, index: int, frozen: Normaliser) -> Normaliser:
        """From raw activations of a site to what the inner SAE sees, for its frozen normaliser."""
        shift_D, scale = self.shift[index].detach(), self.log_scale[index].detach().exp()
        return Normaliser(frozen.mean + frozen.scale * shift_D, frozen.scale * scale)
