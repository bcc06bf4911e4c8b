"""The Switch SAE (Mudide et al. 2025, Efficient Dictionary Learning with Switch Sparse
Autoencoders)."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float, Int
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from saeworks.config import STRICT
from saeworks.dictionary.autograd import PairSort, decode_sparse
from saeworks.dictionary.auxk import auxk_of_experts
from saeworks.dictionary.base import SAE, Batch, Context, SparseCode, StepOut
from saeworks.dictionary.checks import check_coefficient, check_k, check_width
from saeworks.dictionary.dispatch import (
    Dispatch,
    Picked,
    dispatch,
    pick,
    picked_pre_activations,
    reorder,
    select_within,
)
from saeworks.dictionary.experts import Routing
from saeworks.dictionary.flops import Phase, StepWork
from saeworks.dictionary.initial import geometric_median, start_tied, unit_rows
from saeworks.dictionary.losses import batch_fvu, reconstruction
from saeworks.dictionary.normaliser import fold
from saeworks.dictionary.options import Options
from saeworks.dictionary.routers import ROUTERS, Router, RouterName, RouterOptions
from saeworks.dictionary.selection import Precision
from saeworks.dictionary.stages import stage
from saeworks.errors import UserError


@dataclass(frozen=True, config=STRICT)
class SwitchConfig(Options):
    """Options of a Switch SAE."""

    width: int
    """M, the number of latents of all experts together."""
    k: int
    """Active latents per token."""
    experts: int = 16
    """N; each has M/N latents."""
    router: RouterName = "switch"
    """How tokens are sent to experts: `switch` (the most probable one, times its probability),
    `heaviside` (the same, times 1), `shared` (the first expert always, and one of the others),
    `top-n` (the `active` most probable), `expert-choice` (experts choose tokens, `active` per token
    on average), `bias` (balanced by a bias instead of a loss), `layer` (also by the site a row is
    from), `supervised` (also trained on the labels of the text)."""
    active: int = 1
    """n, experts per token, of the routers `top-n` and `expert-choice`."""
    balance: float = 0.03
    """α of the balance loss α · N · Σ f_i P_i; α = 3 of the paper, on raw GPT-2 activations, is
    about 0.03 here. The routers `expert-choice` and `bias` have none."""
    bias_step: float = 0.001
    """u, by which the router `bias` moves an expert's bias in each step."""
    labels: int | None = None
    """Number of labels, of the router `supervised`."""
    supervision: float = 0.1
    """Weight of the cross-entropy of the router `supervised`."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK, the loss that revives dead latents (Gao et al. 2024, A.2), inside each
    expert; 0 for none."""

    def __post_init__(self) -> None:
        check_width(self.width)
        _check_experts(self.experts, self.width)
        check_k(self.k, self.width)
        _check_k_of_expert(self.k, self.width, self.experts)
        _check_router(self.router, self.experts, self.active, self.labels)
        for name in ("balance", "bias_step", "supervision", "aux_coefficient"):
            check_coefficient(name, getattr(self, name))


def _check_experts(experts: int, width: int) -> None:
    if experts < 1:
        raise UserError(f"experts = {experts}: there must be at least one")
    if experts > width:
        raise UserError(
            f"experts = {experts} is more than width = {width}: every expert needs a latent; lower"
            " experts or raise width"
        )
    if width % experts:
        near = width // experts * experts
        raise UserError(
            f"width = {width} is not divisible by experts = {experts}: all experts have as many"
            f" latents; width {near} or {near + experts} is"
        )


def _check_k_of_expert(k: int, width: int, experts: int) -> None:
    if k > width // experts:
        raise UserError(
            f"k = {k} is more than the {width // experts} latents of an expert (width {width} /"
            f" experts {experts}); lower k or experts, or raise width"
        )


def _check_router(router: str, experts: int, active: int, labels: int | None) -> None:
    if active < 1:
        raise UserError(f"active = {active}: a token needs at least one expert")
    if active > experts:
        raise UserError(
            f"active = {active} is more than experts = {experts}: a token cannot have more experts"
            " than there are; lower active"
        )
    if active > 1 and router not in ("top-n", "expert-choice"):
        raise UserError(
            f"active = {active}: the router {router!r} has its own number of experts per token;"
            " leave it out, or choose top-n or expert-choice"
        )
    if router == "shared" and experts < 2:
        raise UserError(
            "experts = 1: the router 'shared' needs an expert besides the shared one; give 2 or"
            " more"
        )
    if router == "supervised" and labels is None:
        raise UserError(
            "router = supervised needs labels, how many different ones the text's documents have"
            " (5 for the domains of the embedded text)"
        )
    if router != "supervised" and labels is not None:
        raise UserError(
            f"labels = {labels}: only the router 'supervised' has labels, and this is {router!r};"
            " leave them out"
        )
    if labels is not None and not 1 <= labels <= experts:
        raise UserError(
            f"labels = {labels}: every label has an expert of its own, so there must be 1 to"
            f" {experts} (experts)"
        )


class _Encoded(NamedTuple):
    """A batch's active latents, rows in the order of `picked`."""

    values: Float[Tensor, "B K"]
    picked: Picked
    routing: Routing
    sent: Dispatch
    shifted: Float[Tensor, "B D"]
    sort: PairSort


@final
class Switch(SAE):
    """p = softmax(W_r(x − b_router)), i* = argmax p,
    f = p_i* · TopK_k(ReLU(W_enc^i*(x − b_dec))), x̂ = W_decᵀ f + b_dec.

    N experts of E = M/N latents, expert i the rows iE to (i + 1)E of w_enc and w_dec; no encoder
    bias, no capacity limit, no dropped token. Tokens are sorted by expert and only the chosen
    experts are computed. A token's other routers and their weights: `router`.

    Loss: mean‖x − x̂‖²/D + α · N · Σ_i f_i P_i (f_i the share of tokens at expert i, P_i its mean
    probability) + aux_coefficient · AuxK inside each expert. Rows of W_dec have norm 1. (Mudide et
    al. 2025, Efficient Dictionary Learning with Switch Sparse Autoencoders, §3.)
    """

    Config = SwitchConfig
    arch = "switch"
    unit_norm = ("w_dec",)

    def __init__(self, d: int, config: SwitchConfig) -> None:
        super().__init__(d, config)
        w_MD = unit_rows(config.width, d)
        self.w_enc = nn.Parameter(w_MD)
        self.w_dec = nn.Parameter(w_MD.clone())
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.w_router = nn.Parameter(_uniform(config.experts, d))
        self.b_router = nn.Parameter(torch.zeros(d))
        options = RouterOptions(
            config.experts,
            config.active,
            config.balance,
            config.bias_step,
            config.labels,
            config.supervision,
        )
        self.router: Router = ROUTERS[config.router](options)
        self.labels = config.labels
        self.per_site = tuple(f"router.{name}" for name in self.router.per_site)
        self.phases = (Phase(1.0, float(config.k), self.router.assumed),)
        encoded = self.router.per_token / config.experts
        self.work = StepWork(encoded=encoded, routed=config.experts)

    @torch.no_grad()
    def initialise(self, x_BD: Float[Tensor, "B D"], generator: torch.Generator) -> None:
        """Random unit decoder rows, the encoder their clone; W_r uniform in ±1/√D; b_dec and
        b_router, two tensors, the geometric median of x."""
        start_tied(self.w_enc, self.w_dec, generator)
        self.b_dec.copy_(geometric_median(x_BD))
        self.w_router.copy_(_uniform(self.config.experts, self.d, generator))
        self.b_router.copy_(self.b_dec)
        self.router.initialise()

    def logits(self, x_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B N"]:
        """W_r(x − b_router)."""
        return torch.addmm(-(self.w_router @ self.b_router), x_BD, self.w_router.T)

    @property
    def experts(self) -> int:
        """N."""
        return int(self.config.experts)

    def route(self, x_BD: Float[Tensor, "B D"]) -> Routing:
        """Each token's experts at inference."""
        return self.router.route(self.logits(self.rows(x_BD)))

    @torch.no_grad()
    def encode_within(self, x_BD: Float[Tensor, "B D"], expert: int) -> SparseCode:
        """TopK_k(ReLU(W_enc^i(x − b_dec))) of the expert i given, whichever the router chooses."""
        token_B = torch.arange(len(x_BD), device=x_BD.device)
        later = torch.arange(self.experts + 1, device=x_BD.device) > expert
        sent = Dispatch(token_B, token_B, later * len(x_BD))
        shifted_BD = self.rows(x_BD) - self.b_dec
        values, indices = select_within(shifted_BD, self.w_enc, sent, self.config.k)
        return SparseCode(indices, values, self.width, (len(x_BD),))

    def encode_rows(self, x_BD: Float[Tensor, "B D"]) -> SparseCode:
        """The k largest activations of each token's experts, times the experts' weights."""
        with stage("routing"):
            routing = self.router.route(self.logits(x_BD))
        return self._code(self._encoded(x_BD, routing))

    def training_code(self, batch: Batch) -> SparseCode:
        """What `step` trains: as in inference, but where experts choose among the batch, or see the
        site."""
        routing = self.router.route(self.logits(batch.x), batch)
        return self._code(self._encoded(batch.x, routing))

    def step(self, batch: Batch, context: Context) -> StepOut:
        """On tokens in the order of their experts; `auxk` is among the losses while there are dead
        latents, `balance` and `supervision` where the router has them."""
        with stage("routing"):
            routing = self.router.route(self.logits(batch.x), batch)
        encoded = self._encoded(batch.x, routing, context.precision)
        with stage("decode"):
            rows_BD = decode_sparse(
                encoded.values, encoded.picked.indices, self.w_dec, self.b_dec, sort=encoded.sort
            )
            x_hat = reorder(rows_BD, encoded.picked.order)
        with stage("loss"):
            terms = {"reconstruction": reconstruction(batch.target, x_hat, batch.weight)}
            terms |= self.router.losses(routing, batch)
        if self.config.aux_coefficient and len(context.dead):
            with stage("auxk"):
                auxk = self._auxk(encoded, batch.target - x_hat, context.dead)
                terms["auxk"] = self.config.aux_coefficient * auxk
        with stage("statistics"), torch.no_grad():
            values, tokens = encoded.values, max(len(encoded.values), 1)
            total_M = values.new_zeros(self.width)
            total_M.index_add_(0, encoded.picked.indices.view(-1), values.view(-1))
            load_N = encoded.sent.starts.diff()
            stats = {
                "fvu": batch_fvu(batch.target, terms["reconstruction"]),
                "l0": (values > 0).sum() / tokens,
                "busiest": load_N.max() / load_N.sum().clamp_min(1),
                "used": (load_N > 0).sum(),
                "confidence": routing.p.detach().amax(1).sum() / tokens,
            }
        return StepOut(terms, x_hat, total_M > 0, stats, routing.state)

    @torch.no_grad()
    def after_step(self, state: dict[str, Tensor]) -> None:
        """The router's thresholds or biases."""
        self.router.after_step(state)

    def warning(self, stats: Mapping[str, Any]) -> str | None:
        """Where all tokens went to the same experts, though there are more."""
        used, experts = int(stats["used"]), self.config.experts
        if used == 0 or used > self.router.per_token or used == experts:
            return None
        same = "one expert" if used == 1 else f"the same {used} experts"
        return (
            f"all tokens of the step went to {same} of {experts}, and the others learn nothing; "
            "raise balance, or choose another router"
        )

    @torch.no_grad()
    def folded(self, mean_D: Float[Tensor, " D"], scale: Float[Tensor, ""]) -> "Switch":
        """W_enc/s, W_dec·s, b_dec·s + μ, W_r/s, b_router·s + μ: the same code from raw
        activations."""
        folded = fold(self, mean_D, scale)
        folded.w_router.div_(scale)
        folded.b_router.mul_(scale).add_(mean_D)
        return folded

    def _encoded(
        self, x_BD: Float[Tensor, "B D"], routing: Routing, precision: Precision = "float32"
    ) -> _Encoded:
        with stage("routing"):
            sent = dispatch(routing, self.config.experts)
            single = routing.offsets is None and routing.expert.shape[-1] == 1
            ordered_BD = x_BD[sent.token] if single else x_BD
            shifted_BD = (ordered_BD - self.b_dec).detach()
        picked = pick(shifted_BD, self.w_enc, routing, sent, self.config.k, precision)
        sort = PairSort()
        z_BK = picked_pre_activations(x_BD, shifted_BD, self.w_enc, self.b_dec, picked, sort)
        values_BK = z_BK * routing.weight.flatten()[picked.visit]
        return _Encoded(values_BK, picked, routing, sent, shifted_BD, sort)

    def _code(self, encoded: _Encoded) -> SparseCode:
        values, indices, order = encoded.values, encoded.picked.indices, encoded.picked.order
        if order is not None:
            back = torch.empty_like(order)
            back[order] = torch.arange(len(order), device=order.device)
            values, indices = values[back], indices[back]
        return SparseCode(indices, values, self.width, (len(values),))

    def _auxk(
        self, encoded: _Encoded, error_BD: Float[Tensor, "B D"], dead: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        sent, in_order = encoded.sent, encoded.picked.order is not None
        x_VD = encoded.shifted if in_order else encoded.shifted[sent.token]
        return auxk_of_experts(x_VD, error_BD, self.w_enc, self.w_dec, sent, dead)


def _uniform(
    rows: int, d: int, generator: torch.Generator | None = None
) -> Float[Tensor, "rows D"]:
    """Between ±1/√D, as torch's linear layers begin."""
    return (2 * torch.rand(rows, d, generator=generator) - 1) / math.sqrt(d)
