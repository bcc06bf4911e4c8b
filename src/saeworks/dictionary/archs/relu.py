"""The ReLU SAE with an L1 penalty (Conerly et al. 2024, Update on how we train SAEs)."""

from typing import final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from saeworks.config import STRICT
from saeworks.dictionary.base import Batch, Context, SparseCode, StepOut
from saeworks.dictionary.checks import check_share, check_steering, check_width
from saeworks.dictionary.initial import start_tied, unit_rows
from saeworks.dictionary.losses import annealed_lp, l1, reconstruction
from saeworks.dictionary.options import Options
from saeworks.dictionary.penalised import Penalised
from saeworks.dictionary.preactivations import AtPairs, preactivations, preactivations_above
from saeworks.dictionary.stages import stage
from saeworks.errors import UserError


@dataclass(frozen=True, config=STRICT)
class ReLUConfig(Options):
    """Options of a ReLU SAE."""

    l1: float = 0.08
    """Coefficient of the L1 penalty (λ = 5 at D ≈ 4000 in Conerly et al. 2024); with `target_l0`
    where the controller starts."""
    target_l0: float | None = None
    """Active latents per token that the penalty's coefficient is steered to; `null` to leave the
    coefficient fixed."""
    sparsity_warmup: float = 0.05
    """Share of the run over which the coefficient rises from 0."""
    p_end: float = 1.0
    """p of the L_p penalty at the end of the run, falling from 1 after the warm-up (p-annealing,
    Karvonen et al. 2024, who end at 0.2); 1 for plain L1."""
    subtract_b_dec: bool = False
    """Subtract b_dec from the encoder's input (Bricken et al. 2023 did, Conerly et al. 2024 do
    not)."""

    def __post_init__(self) -> None:
        check_width(self.width)
        check_steering("l1", self.l1, self.target_l0, self.width)
        check_share("sparsity_warmup", self.sparsity_warmup)
        if not 0 < self.p_end <= 1:
            raise UserError(f"p_end = {self.p_end}: it must be above 0 and at most 1")


@final
class ReLU(Penalised):
    """f = ReLU(W_enc x + b_enc),  x̂ = W_decᵀ f + b_dec.

    Loss: mean‖x − x̂‖²/D + λ · mean Σ_m f_m‖w_dec,m‖/√D. The decoder is not constrained: the norm
    in the penalty is what keeps it from growing. (Conerly et al. 2024, Update on how we train SAEs;
    the recipe of Anthropic's April 2024 update.)
    """

    Config = ReLUConfig
    arch = "relu"

    def __init__(self, d: int, config: ReLUConfig) -> None:
        super().__init__(d, config, config.l1, shifted=config.subtract_b_dec)
        w_MD = unit_rows(config.width, d)
        self.w_enc = nn.Parameter(0.1 * w_MD)
        self.b_enc = nn.Parameter(torch.zeros(config.width))
        self.w_dec = nn.Parameter(0.1 * w_MD)
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.lr_scales = {"b_enc": d**0.5}

    @torch.no_grad()
    def initialise(self, x_BD: Float[Tensor, "B D"], generator: torch.Generator) -> None:
        """Random decoder rows of norm 0.1, the encoder their clone, biases 0."""
        start_tied(self.w_enc, self.w_dec, generator, norm=0.1)
        self.b_enc.zero_()
        self.b_dec.zero_()
        self._restart()

    def encode_rows(self, x_BD: Float[Tensor, "B D"]) -> SparseCode:
        """The positive pre-activations of each token."""
        zero = self.b_enc.new_zeros(())
        z = preactivations_above(x_BD, self.w_enc, self.b_enc, zero, self._shift)
        return z.code(z.z)

    def step(self, batch: Batch, context: Context) -> StepOut:
        """Dense while many latents are active, sparse afterwards."""
        zero = self.b_enc.new_zeros(())
        weights = (self.w_enc, self.b_enc)
        z = preactivations(batch.x, *weights, zero, self._shift, context.precision)
        f = z.z if isinstance(z, AtPairs) else z.z.relu()
        x_hat = z.decode(f, self.w_dec, self.b_dec)
        with stage("loss"):
            norms = f * z.at(torch.linalg.vector_norm(self.w_dec, dim=1))
            p = self._p(context.progress)
            penalty = (
                l1(norms, z.tokens, self.d)
                if p == 1
                else annealed_lp(norms[norms > 0], z.tokens, self.d, p)
            )
            error = reconstruction(batch.target, x_hat, batch.weight)
            losses = {"reconstruction": error, "sparsity": penalty}
        return self._finish(batch, context, z, f, x_hat, losses)

    def _p(self, progress: float) -> float:
        start = self.config.sparsity_warmup
        share = max(0.0, progress - start) / (1 - start) if start < 1 else 0.0
        return float(1 + (self.config.p_end - 1) * share)
