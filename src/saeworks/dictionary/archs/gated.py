"""The Gated SAE (Rajamanoharan et al. 2024, Improving dictionary learning with gated SAEs)."""

from typing import final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from saeworks.config import STRICT
from saeworks.dictionary.base import Batch, Context, SparseCode, StepOut
from saeworks.dictionary.checks import check_share, check_steering, check_width
from saeworks.dictionary.initial import geometric_median, start_tied, unit_rows
from saeworks.dictionary.losses import l1, reconstruction
from saeworks.dictionary.options import Options
from saeworks.dictionary.penalised import Penalised
from saeworks.dictionary.preactivations import Preactivations, preactivations, preactivations_above
from saeworks.dictionary.stages import stage


@dataclass(frozen=True, config=STRICT)
class GatedConfig(Options):
    """Options of a Gated SAE."""

    l1: float = 0.1
    """Coefficient of the L1 penalty on the gates; with `target_l0` where the controller starts."""
    target_l0: float | None = None
    """Active latents per token that the penalty's coefficient is steered to; `null` to leave the
    coefficient fixed."""
    sparsity_warmup: float = 0.05
    """Share of the run over which the coefficient rises from 0."""

    def __post_init__(self) -> None:
        check_width(self.width)
        check_steering("l1", self.l1, self.target_l0, self.width)
        check_share("sparsity_warmup", self.sparsity_warmup)


@final
class Gated(Penalised):
    """f = H(z) · ReLU(exp(r_mag) · W_enc(x − b_dec) + b_mag) with the gate
    z = W_enc(x − b_dec) + b_gate,  x̂ = W_decᵀ f + b_dec.

    Loss: mean‖x − x̂‖²/D + λ · mean Σ_m ReLU(z_m)/√D + mean‖x − x̂_frozen(ReLU(z))‖²/D, where
    x̂_frozen decodes with a copy of W_dec and b_dec that is a constant to the gradient. H has none,
    so the last two terms alone train b_gate: which latents are active is learnt under the penalty,
    how strongly is not. Rows of W_dec have norm 1. (Rajamanoharan et al. 2024, §3.2.)
    """

    Config = GatedConfig
    arch = "gated"
    unit_norm = ("w_dec",)
    betas = (0.0, 0.999)
    gate = "b_gate"
    per_latent = ("w_enc", "b_gate", "b_mag", "r_mag", "w_dec")

    def __init__(self, d: int, config: GatedConfig) -> None:
        super().__init__(d, config, config.l1, shifted=True, decodes=2)
        w_MD = unit_rows(config.width, d)
        self.w_enc = nn.Parameter(w_MD)
        self.b_gate = nn.Parameter(torch.zeros(config.width))
        self.b_mag = nn.Parameter(torch.zeros(config.width))
        self.r_mag = nn.Parameter(torch.zeros(config.width))
        self.w_dec = nn.Parameter(w_MD.clone())
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.lr_scales = {"b_gate": d**0.5, "b_mag": d**0.5}

    @torch.no_grad()
    def initialise(self, x_BD: Float[Tensor, "B D"], generator: torch.Generator) -> None:
        """Random unit decoder rows, the encoder their clone, gate and magnitude equal, b_dec the
        geometric median of x."""
        start_tied(self.w_enc, self.w_dec, generator)
        for parameter in (self.b_gate, self.b_mag, self.r_mag):
            parameter.zero_()
        self.b_dec.copy_(geometric_median(x_BD))
        self._restart()

    def encode_rows(self, x_BD: Float[Tensor, "B D"]) -> SparseCode:
        """The latents of each token whose gate is open; a magnitude below 0 is a zero."""
        closed = self.b_gate.new_zeros(())
        z = preactivations_above(x_BD, self.w_enc, self.b_gate, closed, self.b_dec)
        return z.code(self._activations(z))

    def step(self, batch: Batch, context: Context) -> StepOut:
        """Dense while many gates are open, sparse afterwards."""
        closed = self.b_gate.new_zeros(())
        weights = (self.w_enc, self.b_gate)
        z = preactivations(batch.x, *weights, closed, self.b_dec, context.precision)
        f, gate = self._activations(z), z.z.relu()
        x_hat = z.decode(f, self.w_dec, self.b_dec)
        frozen = z.decode(gate, self.w_dec.detach(), self.b_dec.detach())
        with stage("loss"):
            losses = {
                "reconstruction": reconstruction(batch.target, x_hat, batch.weight),
                "sparsity": l1(gate, z.tokens, self.d),
                "auxiliary": reconstruction(batch.target, frozen, batch.weight),
            }
        return self._finish(batch, context, z, f, x_hat, losses)

    def _activations(self, z: Preactivations) -> Float[Tensor, "*places"]:
        """H(z) · ReLU(exp(r_mag)(z − b_gate) + b_mag)."""
        shared = z.z - z.at(self.b_gate)
        magnitude = z.at(self.r_mag.exp()) * shared + z.at(self.b_mag)
        return magnitude.relu() * (z.z > 0)
