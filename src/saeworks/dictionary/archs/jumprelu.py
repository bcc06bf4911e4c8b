"""The JumpReLU SAE (Rajamanoharan et al. 2024, Jumping ahead)."""

from typing import Any, final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from saeworks.config import STRICT
from saeworks.dictionary.autograd import apply
from saeworks.dictionary.base import Batch, Context, SparseCode, StepOut
from saeworks.dictionary.checks import (
    check_coefficient,
    check_positive,
    check_share,
    check_steering,
    check_width,
)
from saeworks.dictionary.initial import start_tied, unit_rows
from saeworks.dictionary.losses import reconstruction
from saeworks.dictionary.options import Options
from saeworks.dictionary.penalised import Penalised
from saeworks.dictionary.preactivations import preactivations, preactivations_above
from saeworks.dictionary.stages import stage


@dataclass(frozen=True, config=STRICT)
class JumpReLUConfig(Options):
    """Options of a JumpReLU SAE."""

    l0_coefficient: float = 1.0
    """Squared error, out of D, that one more active latent per token costs; with `target_l0` where
    the controller starts."""
    target_l0: float | None = None
    """Active latents per token that the coefficient is steered to; `null` to leave the coefficient
    fixed."""
    sparsity_warmup: float = 0.05
    """Share of the run over which the coefficient rises from 0."""
    bandwidth: float = 0.01
    """ε of the straight-through kernel, in units of √D, the norm of x. (Rajamanoharan et al. 2024
    have 0.001, for much longer runs; a wider one lets more tokens say where θ should be.)"""
    threshold: float = 0.001
    """θ of every latent at the start, in units of √D (as in the paper, whose x has norm 1)."""
    subtract_b_dec: bool = False
    """Subtract b_dec from the encoder's input; Gemma Scope and the paper do not."""

    def __post_init__(self) -> None:
        check_width(self.width)
        check_steering("l0_coefficient", self.l0_coefficient, self.target_l0, self.width)
        check_share("sparsity_warmup", self.sparsity_warmup)
        check_positive("bandwidth", self.bandwidth)
        check_coefficient("threshold", self.threshold)


@final
class JumpReLU(Penalised):
    """f = z · H(z − θ) with z = W_enc x + b_enc,  x̂ = W_decᵀ f + b_dec.

    Loss: mean‖x − x̂‖²/D + λ · mean Σ_m H(z_m − θ_m)/D. Neither H has a gradient in θ; with the
    rectangle r(u) = 1[|u| < ½] in its place (straight through, §3),

        ∂f/∂θ = −(θ/ε) · r((z − θ)/ε),   ∂H/∂θ = −(1/ε) · r((z − θ)/ε),

    and z has the gradient of f alone. θ ≥ 0. Rows of W_dec have norm 1. (Rajamanoharan et al. 2024,
    Jumping ahead, §3 and A.)
    """

    Config = JumpReLUConfig
    arch = "jumprelu"
    unit_norm = ("w_dec",)
    betas = (0.0, 0.999)
    per_latent = ("w_enc", "b_enc", "threshold", "w_dec")

    def __init__(self, d: int, config: JumpReLUConfig) -> None:
        super().__init__(
            d, config, config.l0_coefficient, shifted=config.subtract_b_dec, signed=True
        )
        w_MD = unit_rows(config.width, d)
        self.w_enc = nn.Parameter(w_MD)
        self.b_enc = nn.Parameter(torch.zeros(config.width))
        self.threshold = nn.Parameter(torch.full((config.width,), config.threshold * d**0.5))
        self.w_dec = nn.Parameter(w_MD.clone())
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.lr_scales = {"threshold": d**0.5}  # not b_enc: measured, docs/decisions.md

    @torch.no_grad()
    def initialise(self, x_BD: Float[Tensor, "B D"], generator: torch.Generator) -> None:
        """Random unit decoder rows, the encoder their clone, biases 0, θ as configured."""
        start_tied(self.w_enc, self.w_dec, generator)
        self.b_enc.zero_()
        self.b_dec.zero_()
        self.threshold.fill_(self.config.threshold * self.d**0.5)
        self._restart()

    def encode_rows(self, x_BD: Float[Tensor, "B D"]) -> SparseCode:
        """Each token's pre-activations above θ, and, where gradients are wanted, zeros for those
        within ε/2 below it."""
        floor_M = self._floor if torch.is_grad_enabled() else self.threshold
        z = preactivations_above(x_BD, self.w_enc, self.b_enc, floor_M, self._shift)
        return z.code(_jump(z.z, z.at(self.threshold), self._epsilon))

    def step(self, batch: Batch, context: Context) -> StepOut:
        """Dense while many latents are active, sparse afterwards."""
        weights = (self.w_enc, self.b_enc)
        z = preactivations(batch.x, *weights, self._floor, self._shift, context.precision)
        theta = z.at(self.threshold)
        f = _jump(z.z, theta, self._epsilon)
        x_hat = z.decode(f, self.w_dec, self.b_dec)
        with stage("loss"):
            losses = {
                "reconstruction": reconstruction(batch.target, x_hat, batch.weight),
                "sparsity": z.mean_sum(_step(z.z, theta, self._epsilon)) / self.d,
            }
        return self._finish(batch, context, z, f, x_hat, losses)

    def _constrain(self) -> None:
        """θ ≥ 0."""
        self.threshold.clamp_min_(0)

    @property
    def _epsilon(self) -> float:
        return float(self.config.bandwidth * self.d**0.5)

    @property
    def _floor(self) -> Tensor:
        """Below it a pair has neither value nor gradient."""
        return self.threshold.detach() - self._epsilon / 2


def _jump(z: Tensor, theta: Tensor, epsilon: float) -> Tensor:
    """z · H(z − θ)."""
    f: Tensor = apply(_JumpReLU, z, theta, epsilon)
    return f


def _step(z: Tensor, theta: Tensor, epsilon: float) -> Tensor:
    """H(z − θ), with a gradient in θ only."""
    above: Tensor = apply(_Heaviside, z, theta, epsilon)
    return above


def _rectangle(z: Tensor, theta: Tensor, epsilon: float) -> Tensor:
    """1[|z − θ| < ε/2]."""
    return (z - theta).abs() < epsilon / 2


class _JumpReLU(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.epsilon = epsilon
        return z * (z > theta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        z, theta = ctx.saved_tensors
        near = _rectangle(z, theta, ctx.epsilon)
        return grad * (z > theta), -grad * theta / ctx.epsilon * near, None


class _Heaviside(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.epsilon = epsilon
        return (z > theta).to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        z, theta = ctx.saved_tensors
        return None, -grad / ctx.epsilon * _rectangle(z, theta, ctx.epsilon), None
