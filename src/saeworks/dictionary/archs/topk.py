"""The TopK SAE (Gao et al. 2024, Scaling and evaluating sparse autoencoders)."""

from typing import final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from saeworks.config import STRICT
from saeworks.dictionary.autograd import PairSort, decode_sparse, encode_topk
from saeworks.dictionary.auxk import auxk_terms
from saeworks.dictionary.base import SAE, Batch, Context, SparseCode, StepOut
from saeworks.dictionary.checks import check_coefficient, check_k, check_width
from saeworks.dictionary.flops import Phase
from saeworks.dictionary.initial import geometric_median, start_tied, unit_rows
from saeworks.dictionary.losses import batch_fvu, reconstruction
from saeworks.dictionary.normaliser import fold
from saeworks.dictionary.options import Options
from saeworks.dictionary.stages import stage


@dataclass(frozen=True, config=STRICT)
class TopKConfig(Options):
    """Options of a TopK SAE."""

    k: int
    """Active latents per token."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK, the loss that revives dead latents (Gao et al. 2024, A.2); 0 for none."""

    def __post_init__(self) -> None:
        check_width(self.width)
        check_k(self.k, self.width)
        check_coefficient("aux_coefficient", self.aux_coefficient)


@final
class TopK(SAE):
    """f = TopK_k(ReLU(W_enc(x − b_dec) + b_enc)),  x̂ = W_decᵀ f + b_dec.

    Loss: mean‖x − x̂‖²/D + aux_coefficient · min(1, dead/(D/2)) · AuxK, where AuxK is
    Σ_b min_{α ≥ 0} ‖e_b − α ê_b‖²/Σ‖e − ē‖² and ê = W_decᵀ TopK_min(D/2, dead) over the dead
    latents. Rows of W_dec have norm 1. (Gao et al. 2024, sections 2.3, 2.4 and A, where α = 1.)
    """

    Config = TopKConfig
    arch = "topk"
    unit_norm = ("w_dec",)
    per_latent = ("w_enc", "b_enc", "w_dec")
    stacks = ("w_enc", "b_enc", "w_dec", "b_dec")

    def __init__(self, d: int, config: TopKConfig) -> None:
        super().__init__(d, config)
        w_MD = unit_rows(config.width, d)
        self.w_enc = nn.Parameter(w_MD)
        self.b_enc = nn.Parameter(torch.zeros(config.width))
        self.w_dec = nn.Parameter(w_MD.clone())
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.phases = (Phase(1.0, float(config.k)),)

    @torch.no_grad()
    def initialise(self, x_BD: Float[Tensor, "B D"], generator: torch.Generator) -> None:
        """Random unit decoder rows, the encoder their clone, b_enc = 0, b_dec the geometric
        median of x."""
        start_tied(self.w_enc, self.w_dec, generator)
        self.b_enc.zero_()
        self.b_dec.copy_(geometric_median(x_BD))

    def encode_rows(self, x_BD: Float[Tensor, "B D"]) -> SparseCode:
        """The k largest pre-activations of each token, negative ones as zeros."""
        values, indices = encode_topk(x_BD, self.w_enc, self.b_enc, self.b_dec, self.config.k)
        return SparseCode(indices, values, self.width, (len(x_BD),))

    def step(self, batch: Batch, context: Context) -> StepOut:
        """One sort of the pairs serves all gradients; `auxk` is among the losses while there are
        dead latents."""
        sort = PairSort()
        encoder = (self.w_enc, self.b_enc, self.b_dec)
        values, indices = encode_topk(batch.x, *encoder, self.config.k, sort, context.precision)
        with stage("decode"):
            x_hat = decode_sparse(values, indices, self.w_dec, self.b_dec, sort=sort)
        with stage("loss"):
            loss_terms = {"reconstruction": reconstruction(batch.target, x_hat, batch.weight)}
        weights = (self.w_enc, self.b_enc, self.w_dec, self.b_dec)
        aux = self.config.aux_coefficient, context.dead
        loss_terms |= auxk_terms(*aux, batch.x, batch.target, x_hat, *weights, context.precision)
        with stage("statistics"), torch.no_grad():
            fired = self._fired(values, indices)
            tokens = max(values.shape[0], 1)
            stats = {
                "fvu": batch_fvu(batch.target, loss_terms["reconstruction"]),
                "l0": (values > 0).sum() / tokens,
            }
        return StepOut(loss_terms, x_hat, fired, stats)

    def folded(self, mean_D: Float[Tensor, " D"], scale: Float[Tensor, ""]) -> "TopK":
        """W_enc/s, W_dec·s, b_dec·s + μ: the same code from raw activations."""
        return fold(self, mean_D, scale)

    def _fired(self, values: Tensor, indices: Tensor) -> Tensor:
        """Latents with a positive value: those whose sum over the batch is, no value being
        negative."""
        total_M = values.new_zeros(self.width).index_add_(0, indices.view(-1), values.view(-1))
        return total_M > 0
