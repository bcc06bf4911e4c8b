"""The BatchTopK SAE (Bussmann et al. 2024, BatchTopK Sparse Autoencoders), and what its descendants
share with it: a selection that spans the batch in training, a threshold in use."""

from abc import abstractmethod
from typing import Any, Self, final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from saeworks.config import STRICT
from saeworks.dictionary.auxk import auxk_terms
from saeworks.dictionary.base import SAE, Batch, Context, SparseCode, StepOut
from saeworks.dictionary.batch_selection import running_threshold, select_batch
from saeworks.dictionary.checks import check_coefficient, check_k, check_width
from saeworks.dictionary.flops import Phase, StepWork
from saeworks.dictionary.initial import geometric_median, start_tied, unit_rows
from saeworks.dictionary.losses import batch_fvu, reconstruction
from saeworks.dictionary.normaliser import fold
from saeworks.dictionary.options import Options
from saeworks.dictionary.preactivations import AtPairs, at_pairs, preactivations_above
from saeworks.dictionary.selection import PROBE_ROWS, Precision
from saeworks.dictionary.stages import stage


class BatchSelection(SAE):
    """z = ReLU(W_enc(x − b_dec) + b_enc). In training, f keeps the B·k largest z of the batch
    (n·k of the n rows of each site); in inference, f = z · 1[z > θ].

    θ is the running mean of the smallest selected z, so that L0 is k on average (Bussmann et al.
    2024, BatchTopK Sparse Autoencoders, §3); 0 before the first training step. On a group of sites
    there is one per site, so that L0 is k at each. Subclasses say how x̂ is compared with the
    target.
    """

    unit_norm = ("w_dec",)
    per_latent = ("w_enc", "b_enc", "w_dec")
    per_site = ("threshold",)
    threshold: Tensor

    def __init__(self, d: int, config: Any) -> None:
        super().__init__(d, config)
        w_MD = unit_rows(config.width, d)
        self.w_enc = nn.Parameter(w_MD)
        self.b_enc = nn.Parameter(torch.zeros(config.width))
        self.w_dec = nn.Parameter(w_MD.clone())
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.register_buffer("threshold", torch.zeros(()))
        self.phases = (Phase(1.0, float(config.k)),)
        # not counted is a second pass of the encoder, in the rare step whose floor lets few through
        self.work = StepWork(probe_rows=PROBE_ROWS)

    @final
    @torch.no_grad()
    def initialise(self, x_BD: Float[Tensor, "B D"], generator: torch.Generator) -> None:
        """Random unit decoder rows, the encoder their clone, b_enc = 0, b_dec the geometric
        median of x, θ = 0."""
        start_tied(self.w_enc, self.w_dec, generator)
        self.b_enc.zero_()
        self.b_dec.copy_(geometric_median(x_BD))
        self.threshold.zero_()

    @final
    def encode_rows(self, x_BD: Float[Tensor, "B D"]) -> SparseCode:
        """Each token's pre-activations above θ; above the mean of θ where there is one per site and
        nobody says which site it is (`for_site` does)."""
        floor = self.threshold.mean().clamp_min(0)
        z = preactivations_above(x_BD, self.w_enc, self.b_enc, floor, self.b_dec)
        return z.code(z.z)

    @final
    def training_code(self, batch: Batch) -> SparseCode:
        """What `step` trains: the B·k largest z of the batch, positive ones only; n·k of the n rows
        of each site."""
        z, _ = self._selected(batch, "float32")
        return z.code(z.z)

    @final
    def step(self, batch: Batch, context: Context) -> StepOut:
        """On the batch's selection; `auxk` is among the losses while there are dead latents."""
        z, smallest = self._selected(batch, context.precision)
        x_hat, loss_terms = self._reconstruct(batch, z)
        weights = (self.w_enc, self.b_enc, self.w_dec, self.b_dec)
        aux = self.config.aux_coefficient, context.dead
        loss_terms |= auxk_terms(*aux, batch.x, batch.target, x_hat, *weights, context.precision)
        with stage("statistics"), torch.no_grad():
            stats = {
                "fvu": batch_fvu(batch.target, loss_terms["reconstruction"]),
                "l0": z.l0(z.z),
                "threshold": smallest,
            }
            fired = z.fired(z.z)
        return StepOut(loss_terms, x_hat, fired, stats, {"threshold": smallest})

    @final
    @torch.no_grad()
    def after_step(self, state: dict[str, Tensor]) -> None:
        """θ ← 0.95 θ + 0.05 · the smallest selected z; the first is taken as it is, and a batch
        without any changes nothing (selected z are positive, so 0 says that there was none)."""
        smallest = state["threshold"]
        first, without = self.threshold <= 0, ~(smallest > 0)  # also where it is NaN
        self.threshold.copy_(running_threshold(self.threshold, smallest, first, without))

    @final
    def folded(self, mean_D: Float[Tensor, " D"], scale: Float[Tensor, ""]) -> Self:
        """W_enc/s, W_dec·s, b_dec·s + μ, θ as it is: the same code from raw activations."""
        return fold(self, mean_D, scale)

    @abstractmethod
    def _reconstruct(
        self, batch: Batch, z: AtPairs
    ) -> tuple[Float[Tensor, "B D"], dict[str, Float[Tensor, ""]]]:
        """x̂ of the selected pairs, and the losses that compare with the target: `reconstruction`
        (of x̂) and any others."""

    @final
    def _selected(self, batch: Batch, precision: Precision) -> tuple[AtPairs, Tensor]:
        weights = (self.w_enc, self.b_enc, self.b_dec)
        sites = self.sites if self.sites > 1 else None
        pairs = select_batch(batch.x, *weights, self.config.k, batch.site, sites, precision)
        z = at_pairs(batch.x, *weights, pairs.z, pairs.indices, pairs.offsets)
        return z, pairs.smallest


@dataclass(frozen=True, config=STRICT)
class BatchTopKConfig(Options):
    """Options of a BatchTopK SAE."""

    k: int
    """Active latents per token, on average."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK, the loss that revives dead latents (Gao et al. 2024, A.2); 0 for none."""

    def __post_init__(self) -> None:
        check_width(self.width)
        check_k(self.k, self.width)
        check_coefficient("aux_coefficient", self.aux_coefficient)


@final
class BatchTopK(BatchSelection):
    """z = ReLU(W_enc(x − b_dec) + b_enc),  x̂ = W_decᵀ f + b_dec; in training f keeps the B·k
    largest z of the batch, in inference f = z · 1[z > θ].

    Loss: mean‖x − x̂‖²/D + aux_coefficient · min(1, dead/(D/2)) · AuxK, as TopK's. Rows of W_dec
    have norm 1. (Bussmann et al. 2024, BatchTopK Sparse Autoencoders, §3.)
    """

    Config = BatchTopKConfig
    arch = "batchtopk"

    def _reconstruct(
        self, batch: Batch, z: AtPairs
    ) -> tuple[Float[Tensor, "B D"], dict[str, Float[Tensor, ""]]]:
        x_hat = z.decode(z.z, self.w_dec, self.b_dec)
        with stage("loss"):
            return x_hat, {"reconstruction": reconstruction(batch.target, x_hat, batch.weight)}
