"""What BatchTopK and its descendants have in common: a selection that spans the batch while they
are trained, a threshold afterwards."""

import copy
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saeworks.dictionary.auxk import auxk_of_dead
from saeworks.dictionary.base import (
    SAE,
    Batch,
    Context,
    SparseCode,
    StepOut,
)
from saeworks.dictionary.flops import (
    Flops,
    Phase,
    probed,
    sparse_step,
)
from saeworks.dictionary.initial import geometric_median, unit_rows
from saeworks.dictionary.losses import auxk_latents, batch_fvu
from saeworks.dictionary.preactivations import AtPairs, at_pairs, preactivations_above
from saeworks.dictionary.select_batch import PROBE_ROWS, select_batch
from saeworks.dictionary.stages import stage

DECAY = 0.95
"""Of the threshold's running mean. dictionary_learning takes 0.999 and begins at step 1000, for
runs of 10⁵ steps; here a run may have some hundred, and the smallest value falls throughout. A mean
over about 20 batches follows it (after 300 steps on synthetic data L0 is within 1% of k; 16% below
k with 0.99), and a batch's smallest value varies little: it is a quantile of B·M numbers."""


class BatchSelection(SAE):
    """z = ReLU(W_enc(x − b_dec) + b_enc). In training, f keeps the B·k largest z of the batch
    (n·k of the n rows of each site); in inference, f = z · 1[z > θ].

    θ is the running mean of the smallest selected z, so that L0 is k on average (Bussmann et al.
    2024, BatchTopK Sparse Autoencoders, §3); 0 before the first training step. On a group of sites
    there is one per site, so that L0 is k at each. Subclasses say how x̂ is compared with the
    target.
    """

    unit_norm: ClassVar[tuple[str, ...]] = ("w_dec",)
    threshold: Tensor

    def __init__(self, d: int, config: Any) -> None:
        super().__init__(d, config)
        w_MD = unit_rows(config.width, d)
        self.w_enc = nn.Parameter(w_MD)
        self.b_enc = nn.Parameter(torch.zeros(config.width))
        self.w_dec = nn.Parameter(w_MD.clone())
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.register_buffer("threshold", torch.zeros(()))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """k per token, on average, from the first step to the last."""
        return (Phase(1.0, float(self.config.k)),)

    def flops(self, active: float, rows: int) -> Flops:
        """As TopK's, and some rows encoded twice; not counted is a second pass of the encoder, in
        the rare step whose floor let too few through."""
        step = sparse_step(self.d, self.width, active, rows)
        return probed(step, self.d, self.width, rows, PROBE_ROWS)

    @torch.no_grad()
    def initialise(self, x_BD: Float[Tensor, "B D"], generator: torch.Generator) -> None:
        """Random unit decoder rows, the encoder their clone, b_enc = 0, b_dec the geometric
        median of x, θ = 0."""
        self.w_dec.copy_(unit_rows(self.width, self.d, generator))
        self.w_enc.copy_(self.w_dec)
        self.b_enc.zero_()
        self.b_dec.copy_(geometric_median(x_BD))
        self.threshold.zero_()

    def encode_rows(self, x_BD: Float[Tensor, "B D"]) -> SparseCode:
        """Each token's pre-activations above θ: the path of inference. Where there is a θ per site
        and nobody says which (`for_site` does), their mean."""
        floor = self.threshold.mean().clamp_min(0)
        z = preactivations_above(x_BD, self.w_enc, self.b_enc, floor, self.b_dec)
        return z.code(z.z)

    def training_code(self, batch: Batch) -> SparseCode:
        """The B·k largest z of the batch, positive ones only; n·k of the n rows of each site."""
        z, _ = self._selected(batch)
        return z.code(z.z)

    def step(self, batch: Batch, context: Context) -> StepOut:
        """On the batch's selection; `auxk` is among the losses while there are dead latents."""
        z, smallest = self._selected(batch)
        x_hat, loss_terms = self._reconstruct(batch, z)
        dead = context.dead if self.config.aux_coefficient else context.dead[:0]
        k_aux, weight = auxk_latents(self.d, dead.shape[0])
        if k_aux:
            with stage("auxk"):
                x_BD, error_BD = batch.x - self.b_dec, batch.target - x_hat
                auxk = auxk_of_dead(x_BD, error_BD, self.w_enc, self.b_enc, self.w_dec, dead, k_aux)
                loss_terms["auxk"] = self.config.aux_coefficient * weight * auxk
        with stage("statistics"), torch.no_grad():
            stats = {
                "fvu": batch_fvu(batch.target, loss_terms["reconstruction"]),
                "l0": z.l0(z.z),
                "threshold": smallest,
            }
            fired = z.fired(z.z)
        return StepOut(loss_terms, x_hat, fired, stats)

    def share(self, sites: int) -> None:
        """A threshold per site."""
        if sites > 1:
            self.threshold = self.threshold.new_zeros(sites)

    def for_site(self, index: int) -> SAE:
        """A copy with the site's own threshold."""
        if self.threshold.dim() == 0:
            return self
        own = copy.deepcopy(self)
        own.threshold = self.threshold[index].clone()
        return own

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor]) -> None:
        """θ ← 0.95 θ + 0.05 · the smallest selected z; the first is taken as it is, and a batch
        without any changes nothing (selected z are positive, so 0 says that there was none)."""
        smallest = stats["threshold"]
        mean = torch.where(
            self.threshold > 0, torch.lerp(smallest, self.threshold, DECAY), smallest
        )
        self.threshold.copy_(torch.where(smallest > 0, mean, self.threshold))

    @abstractmethod
    def _reconstruct(
        self, batch: Batch, z: AtPairs
    ) -> tuple[Float[Tensor, "B D"], dict[str, Float[Tensor, ""]]]:
        """x̂ of the selected pairs, and the losses that compare with the target: `reconstruction`
        (of x̂) and any others."""

    def _selected(self, batch: Batch) -> tuple[AtPairs, Tensor]:
        weights = (self.w_enc, self.b_enc, self.b_dec)
        sites = len(self.threshold) if self.threshold.dim() else None
        pairs = select_batch(batch.x, *weights, self.config.k, batch.site, sites)
        z = at_pairs(batch.x, *weights, pairs.z, pairs.indices, pairs.offsets)
        return z, pairs.smallest
