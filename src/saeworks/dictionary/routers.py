"""Routers: strategies that send each token to some of N experts.

A router sees its logits W_r(x − b_router) and answers with visits, pairs of a token and an expert,
each with a weight by which the expert's activations are multiplied. At inference a token's visits
depend on the token alone.

Shapes: B tokens, N experts, n experts per token, V visits, S sites.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saeworks.dictionary.base import Batch
from saeworks.dictionary.batch_selection import running_threshold
from saeworks.dictionary.experts import Routing
from saeworks.dictionary.kernels import counts
from saeworks.errors import UserError

RouterName = Literal[
    "switch", "heaviside", "shared", "top-n", "expert-choice", "bias", "layer", "supervised"
]


@dataclass(frozen=True)
class RouterOptions:
    """What a router is built from; the fields of `SwitchConfig` of the same names."""

    experts: int
    active: int
    balance: float
    bias_step: float
    labels: int | None
    supervision: float


class Router(nn.Module, ABC):
    """A strategy. Parameters and buffers are what it has beyond W_r and b_router.

    Attributes:
        per_token: experts that encode a token, on average.
    """

    balanced = True
    """Whether its loads are equalised by the balance loss."""
    assumed = ""
    """Why `per_token` is an estimate; empty where it is exact."""
    per_site: tuple[str, ...] = ()
    """Parameters and buffers that a group's router has once for every site."""

    def __init__(self, options: RouterOptions, per_token: float = 1.0) -> None:
        super().__init__()
        self.options, self.per_token = options, per_token

    @abstractmethod
    def route(self, logits_BN: Float[Tensor, "B N"], batch: Batch | None = None) -> Routing:
        """The visits of each token, whatever else is in the batch.

        Args:
            batch: in training, what the rows come from; experts may then choose among them.
        """

    @final
    def losses(self, routing: Routing, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`balance`, unless its coefficient is 0 or the router needs none; and its own."""
        terms = self.own_losses(routing, batch)
        if self.balanced and self.options.balance:
            first = self.options.experts - routing.p.shape[1]
            count_N = counts(routing.expert.flatten(), self.options.experts)[first:]
            loss = balance_loss(routing.p, count_N)
            terms = {"balance": self.options.balance * loss, **terms}
        return terms

    def own_losses(self, routing: Routing, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Losses that this router alone has."""
        return {}

    def initialise(self) -> None:
        """Forget what was learnt."""

    def after_step(self, state: dict[str, Tensor]) -> None:
        """Update what is not a gradient from `Routing.state`."""


def balance_loss(p_BN: Float[Tensor, "B N"], count_N: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """N · Σ_i f_i P_i, with f_i the share of visits at expert i (of their numbers), a constant, and
    P_i its mean probability; 1 where both are uniform, N where all tokens go to one expert with
    p = 1. (Fedus et al. 2022, Switch Transformers, eq. 4–6.)"""
    f_N = count_N.to(p_BN.dtype) / count_N.sum().clamp_min(1)
    return p_BN.shape[1] * (f_N @ (p_BN.sum(0) / max(p_BN.shape[0], 1)))


@final
class SwitchRouter(Router):
    """i* = argmax p with weight p_i*, p = softmax(logits) (Mudide et al. 2025, Efficient Dictionary
    Learning with Switch Sparse Autoencoders, §3; Fedus et al. 2022)."""

    def route(self, logits_BN: Float[Tensor, "B N"], batch: Batch | None = None) -> Routing:
        return _most_probable(logits_BN.softmax(1))


@final
class HeavisideRouter(Router):
    """i* = argmax p with weight 1: the router learns from the balance loss alone (Mudide et al.
    2025, the ablation of the softmax weight)."""

    def route(self, logits_BN: Float[Tensor, "B N"], batch: Batch | None = None) -> Routing:
        p_BN = logits_BN.softmax(1)
        expert_B1 = p_BN.argmax(1, keepdim=True)
        return Routing(expert_B1, torch.ones_like(expert_B1, dtype=p_BN.dtype), p_BN)


@final
class SharedRouter(Router):
    """Expert 0 for every token with weight 1, and argmax_{i>0} p with weight p, p = softmax over
    the N − 1 others; one joint TopK (DeepSeekMoE's shared expert, Dai et al. 2024; the public
    Switch code's `1on`)."""

    def __init__(self, options: RouterOptions) -> None:
        super().__init__(options, per_token=2.0)

    def route(self, logits_BN: Float[Tensor, "B N"], batch: Batch | None = None) -> Routing:
        p_BR = logits_BN[:, 1:].softmax(1)
        weight_B1, place_B1 = p_BR.max(1, keepdim=True)
        expert_B2 = torch.cat([torch.zeros_like(place_B1), place_B1 + 1], 1)
        weight_B2 = torch.cat([torch.ones_like(weight_B1), weight_B1], 1)
        return Routing(expert_B2, weight_B2, p_BR)


@final
class TopNRouter(Router):
    """The n experts of largest p, each with its own p, and one joint TopK over their union (Xu et
    al. 2025, Beyond Redundancy: Diverse and Specialized Multi-Expert Sparse Autoencoder, without
    its feature scaling)."""

    def __init__(self, options: RouterOptions) -> None:
        super().__init__(options, per_token=float(options.active))

    def route(self, logits_BN: Float[Tensor, "B N"], batch: Batch | None = None) -> Routing:
        p_BN = logits_BN.softmax(1)
        weight_Bn, expert_Bn = p_BN.topk(self.options.active, dim=1)
        return Routing(expert_Bn, weight_Bn, p_BN)


@final
class ExpertChoiceRouter(Router):
    """Every expert takes the ⌈n·B/N⌉ tokens of largest p_i (of the rows of each site its share);
    a token that none took goes to argmax p. Weight p, one joint TopK over a token's experts. (Zhou
    et al. 2022, Mixture-of-Experts with Expert Choice Routing, which drops such tokens; an SAE
    cannot.)

    At inference expert i takes a token where p_i > θ_i, θ_i being the running mean of the smallest
    p_i that it took in training, as BatchTopK's threshold; per site on a group. Until then θ = 1:
    argmax p alone.
    """

    balanced = False
    assumed = (
        "expert-choice: tokens that no expert chose, which go to one more each, are not counted"
    )
    per_site = ("threshold",)
    threshold: Tensor

    def __init__(self, options: RouterOptions) -> None:
        super().__init__(options, per_token=float(options.active))
        self.register_buffer("threshold", torch.ones(options.experts))

    def route(self, logits_BN: Float[Tensor, "B N"], batch: Batch | None = None) -> Routing:
        p_BN = logits_BN.softmax(1)
        if batch is None:
            floor_N = self.threshold.mean(0) if self._per_site else self.threshold
            return _visits(p_BN, p_BN > floor_N, {})
        taken_BN = torch.zeros_like(p_BN, dtype=torch.bool)
        smallest_SN = p_BN.new_full((self._sites(batch), self.options.experts), torch.nan)
        for site in range(len(smallest_SN)):
            rows = torch.arange(len(p_BN), device=p_BN.device)
            if batch.site is not None:
                rows = (batch.site == site).nonzero().squeeze(1)
            capacity = -(-self.options.active * len(rows) // self.options.experts)
            if capacity:
                best_CN, place_CN = p_BN.detach()[rows].topk(capacity, dim=0)
                taken_BN[rows] = taken_BN[rows].scatter(0, place_CN, True)
                smallest_SN[site] = best_CN[-1]
        smallest = smallest_SN if self._per_site else smallest_SN.nanmean(0)
        return _visits(p_BN, taken_BN, {"threshold": smallest})

    def initialise(self) -> None:
        self.threshold.fill_(1)

    def after_step(self, state: dict[str, Tensor]) -> None:
        """θ ← 0.95 θ + 0.05 · the smallest p; the first as it is, none changes nothing."""
        smallest = state["threshold"]
        first, without = self.threshold >= 1, smallest.isnan()
        self.threshold.copy_(running_threshold(self.threshold, smallest, first, without))

    @property
    def _per_site(self) -> bool:
        return self.threshold.dim() == 2

    def _sites(self, batch: Batch) -> int:
        if self._per_site:
            return len(self.threshold)
        if batch.site is None or not len(batch.site):
            return 1
        return int(batch.site.max()) + 1


@final
class BiasRouter(Router):
    """i* = argmax(p + c) with weight p_i*; after each step c_i += u · sign(V/N − load_i). No
    balance loss (Wang et al. 2024, Auxiliary-Loss-Free Load Balancing Strategy for
    Mixture-of-Experts; DeepSeek-V3; there p is a sigmoid)."""

    balanced = False
    bias: Tensor

    def __init__(self, options: RouterOptions) -> None:
        super().__init__(options)
        self.register_buffer("bias", torch.zeros(options.experts))

    def route(self, logits_BN: Float[Tensor, "B N"], batch: Batch | None = None) -> Routing:
        p_BN = logits_BN.softmax(1)
        expert_B1 = (p_BN + self.bias).argmax(1, keepdim=True)
        load_N = counts(expert_B1.flatten(), self.options.experts)
        return Routing(expert_B1, p_BN.gather(1, expert_B1), p_BN, state={"load": load_N})

    def initialise(self) -> None:
        self.bias.zero_()

    def after_step(self, state: dict[str, Tensor]) -> None:
        load_N = state["load"].to(self.bias.dtype)
        self.bias.add_(torch.sign(load_N.mean() - load_N), alpha=self.options.bias_step)


@final
class LayerRouter(Router):
    """As `switch`, with p = softmax(logits + a_s): for an SAE on several sites, of which the row's
    own, s, has a trained bias towards each expert. Where nobody says which site it is (`for_site`
    does), the mean of a. (Ours; the router of a group sees the layer.)"""

    per_site = ("site_logits",)
    site_logits: nn.Parameter

    def __init__(self, options: RouterOptions) -> None:
        super().__init__(options)
        self.site_logits = nn.Parameter(torch.zeros(options.experts))

    def route(self, logits_BN: Float[Tensor, "B N"], batch: Batch | None = None) -> Routing:
        logits: Tensor = self.site_logits
        if logits.dim() == 2:
            site_B = None if batch is None else batch.site
            logits = logits.mean(0) if site_B is None else logits[site_B]
        return _most_probable((logits_BN + logits).softmax(1))

    def initialise(self) -> None:
        self.site_logits.zero_()


@final
class SupervisedRouter(Router):
    """As `switch`, with the further loss −mean log Σ_{i ∈ E(l)} p_i over the rows with a label l:
    experts are dealt out to labels in equal runs, E(l) = {i : ⌊i·L/N⌋ = l}. Rows labelled −1 are
    unknown. At inference the router goes by x alone. (Gururangan et al. 2022, DEMix Layers, whose
    experts belong to domains; the loss is ours.)"""

    def route(self, logits_BN: Float[Tensor, "B N"], batch: Batch | None = None) -> Routing:
        return _most_probable(logits_BN.softmax(1))

    def own_losses(self, routing: Routing, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        labels = self.options.labels
        assert labels is not None  # the config's promise
        if batch.label is None:
            raise UserError(
                "router = supervised: it is trained on a label for every row (Batch.label), and"
                " there are none; give labels or choose another router"
            )
        known = (batch.label >= 0).nonzero().squeeze(1)
        label_R = batch.label[known]
        if len(label_R) and int(label_R.max()) >= labels:
            raise UserError(
                f"label {int(label_R.max())}: with labels = {labels} the last is {labels - 1}"
            )
        expert_N = torch.arange(self.options.experts, device=label_R.device)
        owner_N = expert_N * labels // self.options.experts
        inside_RN = torch.where(owner_N == label_R[:, None], routing.p[known], 0)
        log_R = inside_RN.sum(1).clamp_min(torch.finfo(routing.p.dtype).tiny).log()
        loss = -log_R.sum() / max(len(label_R), 1)
        return {"supervision": self.options.supervision * loss}


def _most_probable(p_BN: Float[Tensor, "B N"]) -> Routing:
    """One visit per token, to argmax p with weight p."""
    weight_B1, expert_B1 = p_BN.max(1, keepdim=True)
    return Routing(expert_B1, weight_B1, p_BN)


def _visits(p_BN: Tensor, taken_BN: Tensor, state: dict[str, Tensor]) -> Routing:
    """The visits of a mask, and of argmax p where a row has none."""
    lost_B1 = ~taken_BN.any(1, keepdim=True)
    best_B1 = p_BN.argmax(1, keepdim=True)
    taken_BN = taken_BN.scatter(1, best_B1, lost_B1 | taken_BN.gather(1, best_B1))
    place_V = taken_BN.flatten().nonzero().squeeze(1)
    offsets = nn.functional.pad(taken_BN.sum(1).cumsum(0), (1, 0))
    experts = p_BN.shape[1]
    return Routing(place_V % experts, p_BN.flatten()[place_V], p_BN, offsets, state)


ROUTERS: dict[str, Callable[[RouterOptions], Router]] = {
    "switch": SwitchRouter,
    "heaviside": HeavisideRouter,
    "shared": SharedRouter,
    "top-n": TopNRouter,
    "expert-choice": ExpertChoiceRouter,
    "bias": BiasRouter,
    "layer": LayerRouter,
    "supervised": SupervisedRouter,
}
