"""How an SAE's experts share the work: load, confidence, domains, supports on the same tokens.

Shapes: N experts, R documents, B tokens of a batch, V visits (pairs of a token and an expert).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.experts import HasExperts, experts_of
from saeworks.measure import bootstrap
from saeworks.measure.banks import widest
from saeworks.measure.engine import Chunk, Measured, Reading, Study
from saeworks.measure.held_out import HeldOut
from saeworks.measure.known import Labels
from saeworks.measure.studies import information, overlap
from saeworks.measure.studies.geometry import matrix
from saeworks.measure.studies.reconstruction import Tally
from saeworks.results.figure import Figure, Trace
from saeworks.results.metric import Metric, Value
from saeworks.results.names import EXPERTS
from saeworks.results.records import plain
from saeworks.results.result import Result
from saeworks.results.series import CONFIDENCE, Domains, Histogram, Load, OverlapMatrix

_FINE, _COARSE = 2000, 40
"""Bins of confidence: for quantiles, and in the result."""
_QUANTILES = {"confidence_q05": 0.05, "confidence_q50": 0.5, "confidence_q95": 0.95}

METRICS = {
    EXPERTS: Metric("Experts", "N, how many the SAE has.", EXPERTS),
    "visits": Metric("Experts per token", "Mean number of experts that encode a token.", EXPERTS),
    "load_entropy": Metric(
        "Load entropy",
        "Entropy of the experts' shares of the visits / log N; 1 where all have as many.",
        better="higher",
    ),
    "busiest_load": Metric(
        "Busiest expert",
        "Largest share of the visits × N; 1 where all have as many.",
        better="lower",
    ),
    "unused_share": Metric(
        "Unused experts",
        "Share of experts that no evaluated token was sent to (no interval: on more tokens it can "
        "only fall).",
        better="lower",
    ),
    CONFIDENCE: Metric(
        "Confidence",
        "Mean over tokens of the probability that the router gives to the experts it chose (their "
        "sum where there are several; an expert that always is, has none).",
    ),
    "confidence_q05": Metric("Confidence, 5%", "Its 5% quantile over tokens."),
    "confidence_q50": Metric("Confidence, median", "Its median over tokens."),
    "confidence_q95": Metric("Confidence, 95%", "Its 95% quantile over tokens."),
    "router_entropy": Metric(
        "Router entropy",
        "Mean over tokens of the entropy of the router's probabilities / log of how many experts "
        "it chooses among; 0 where it is sure, 1 where it cannot tell them apart.",
    ),
}
_SUMS = ("n", "visits", CONFIDENCE, "entropy")


@dataclass
class ExpertWatch:
    """What the pass over the tokens leaves of one SAE.

    Attributes:
        visits: of each document to each expert.
        sums: by document; columns `_SUMS`.
        confidence: counts of tokens by confidence, `_FINE` bins.
        trust: sum of the probability of each visit, by expert.
        overlap: None where it is not asked for, or there is but one expert.
        seen: tokens so far, of which every `stride`-th is for the overlap.
    """

    experts: HasExperts
    visits: Float[Tensor, "R N"]
    sums: Float[Tensor, "R S"]
    confidence: Int[Tensor, " bins"]
    trust: Float[Tensor, " N"]
    overlap: overlap.Overlap | None
    stride: int
    seen: int = 0

    @classmethod
    def empty(
        cls, experts: HasExperts, held_out: HeldOut, sampled: int, device: torch.device
    ) -> "ExpertWatch":
        """Nothing seen yet."""
        count = experts.experts
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        asked = sampled > 0 and count > 1
        return cls(
            experts,
            zeros(held_out.rows, count),
            zeros(held_out.rows, len(_SUMS)),
            torch.zeros(_FINE, dtype=torch.int64, device=device),
            zeros(count),
            overlap.Overlap.empty(held_out.rows, count, device) if asked else None,
            max(1, held_out.kept // max(sampled, 1)),
        )

    def add(self, sae: SAE, x_BD: Float[Tensor, "B D"], row_B: Int[Tensor, " B"]) -> None:
        """Count tokens in; row_B is each token's document."""
        self._count(x_BD, row_B)
        if self.overlap is not None:
            first = -self.seen % self.stride
            picked = torch.arange(first, len(x_BD), self.stride, device=x_BD.device)
            if len(picked):
                self.overlap.add(sae, self.experts, x_BD[picked], row_B[picked])
        self.seen += len(x_BD)

    def _count(self, x_BD: Tensor, row_B: Tensor) -> None:
        routing, count = self.experts.route(x_BD), self.experts.experts
        expert_V, token_V = routing.expert.flatten(), overlap.visitors(routing, len(x_BD))
        flat = torch.bincount(row_B[token_V] * count + expert_V, minlength=self.visits.numel())
        self.visits += flat.view_as(self.visits)
        p_BR = routing.p.double()
        among = p_BR.shape[1]  # the last ones: an expert that always encodes comes first
        routed = expert_V >= count - among
        chosen_V = p_BR[token_V[routed], expert_V[routed] - (count - among)]
        self.trust.index_add_(0, expert_V[routed], chosen_V)
        zeros_B = torch.zeros(len(x_BD), dtype=torch.float64, device=x_BD.device)
        confidence_B = zeros_B.index_add(0, token_V[routed], chosen_V)
        visits_B = zeros_B.index_add(0, token_V, torch.ones_like(token_V, dtype=torch.float64))
        entropy_B = torch.special.entr(p_BR).sum(1) / (np.log(among) if among > 1 else 1.0)
        columns = (zeros_B + 1, visits_B, confidence_B, entropy_B)
        self.sums.index_add_(0, row_B, torch.stack(columns, 1))
        bin_B = (confidence_B * _FINE).long().clamp_(0, _FINE - 1)
        self.confidence += torch.bincount(bin_B, minlength=_FINE)


@final
class Visits(Reading):
    """Where the routers send the tokens, of every SAE that has experts."""

    title = EXPERTS

    def __init__(self, tally: Tally, config: EvalConfig) -> None:
        self.held_out, self.beside = tally.held_out, tally
        self.banks = {
            name: having
            for name, bank in tally.banks.items()
            if (having := {site: sae for site, sae in bank.items() if experts_of(sae) is not None})
        }
        self.sites = {site for bank in self.banks.values() for site in bank}
        self.width = widest(self.banks)
        self.watches = {
            (name, site): ExpertWatch.empty(
                experts, self.held_out, config.overlap_tokens, sae.b_dec.device
            )
            for name, bank in self.banks.items()
            for site, sae in bank.items()
            if (experts := experts_of(sae)) is not None
        }

    def rows(self, site: str, chunk: Chunk) -> None:
        for name, bank in self.banks.items():
            if site in bank:
                self.watches[name, site].add(bank[site], chunk.x_ND, chunk.document_N)


OVER_LAYERS = ("load_entropy", "busiest_load", information.ADJUSTED)
"""Metrics that are drawn over the layers."""


@final
class Experts(Study):
    """Load, confidence, domains and supports of the experts, of every SAE that has some; banks
    without any are left out.

    Args:
        labels: of the documents; without them nothing is said of domains.
    """

    name = EXPERTS
    title = "How the experts share the work"
    metrics: ClassVar = METRICS
    figures = tuple(
        Figure(key.replace("_", "-"), "line", (Trace(metric=key),), lines="suites")
        for key in OVER_LAYERS
    )
    sentences: ClassVar = {
        "load": "Entropy {load_entropy} (1 is even). The busiest has {busiest_load} times an even "
        "share; {unused_share%} of the experts have no token.",
    }

    def __init__(self, config: EvalConfig, tally: Tally, labels: Labels | None = None) -> None:
        self.config, self.tally, self.labels = config, tally, labels
        self.visits = Visits(tally, config)
        self.readings = (self.visits,) if self.visits.banks else ()

    def results(self) -> dict[str, Measured]:
        measured = {}
        for name, bank in self.visits.banks.items():
            watches = {site: self.visits.watches[name, site] for site in bank}
            fired = {site: self.tally.tallies[name][site].fired for site in bank}
            result = _result(watches, fired, self.tally.held_out, self.config, self.labels)
            measured[name] = Measured(result)
        return measured


def _result(
    watches: Mapping[str, ExpertWatch],
    fired: Mapping[str, Int[Tensor, " M"]],
    held_out: HeldOut,
    config: EvalConfig,
    labels: Labels | None,
) -> Result:
    overlapping = any(watch.overlap is not None for watch in watches.values())
    return Experts.result(
        config,
        held_out,
        {site: _values(watch, config, labels) for site, watch in watches.items()},
        {site: _series(watch, fired[site], labels) for site, watch in watches.items()},
        METRICS
        | (overlap.METRICS if overlapping else {})
        | (information.METRICS if labels is not None else {}),
        {
            "intervals": bootstrap.describe(held_out.documents, config.bootstrap, config.seed),
            "near": overlap.NEAR,
        },
        Experts.sentences
        | (overlap.SENTENCES if overlapping else {})
        | (information.SENTENCES if labels is not None else {}),
    )


def _values(watch: ExpertWatch, config: EvalConfig, labels: Labels | None) -> dict[str, Value]:
    visits_RN, count = watch.visits.cpu().numpy(), watch.experts.experts
    sums = dict(zip(_SUMS, watch.sums.cpu().numpy().T, strict=True))
    drawing = (config.bootstrap, config.seed)
    loads = bootstrap.resampled(
        {expert: visits_RN[:, expert] for expert in range(count)}, sums["n"] > 0, *drawing
    )
    load_DN = np.stack([loads.sums[expert] for expert in range(count)], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        even_D = information.entropy(load_DN) / np.log2(count)
        busiest_D = load_DN.max(1) * count / load_DN.sum(1)
    values = {
        EXPERTS: Value(float(count)),
        "load_entropy": loads.interval(even_D),
        "busiest_load": loads.interval(busiest_D),
        "unused_share": Value(float((visits_RN.sum(0) == 0).mean())),
        **bootstrap.estimate(sums, _STATISTICS, *drawing),
        **{name: _quantile(watch.confidence, share) for name, share in _QUANTILES.items()},
    }
    if watch.overlap is not None:
        overlaps = watch.overlap.per_document()
        values |= bootstrap.estimate(
            overlaps | {"n": overlaps["sampled"]}, overlap.STATISTICS, *drawing
        )
    if labels is not None:
        values |= information.domain_information(
            visits_RN, labels.label_R, len(labels.names), *drawing
        )
    return values


_STATISTICS: dict[str, bootstrap.Statistic] = {
    "visits": lambda s: s["visits"] / s["n"],
    CONFIDENCE: lambda s: s[CONFIDENCE] / s["n"],
    "router_entropy": lambda s: s["entropy"] / s["n"],
}


def _quantile(counts: Int[Tensor, " bins"], share: float) -> Value:
    """A quantile of a histogram, exact to half a bin."""
    reached = counts.cumsum(0).double() >= share * counts.sum()
    return Value((int(reached.int().argmax()) + 0.5) / len(counts))


def _series(watch: ExpertWatch, fired_M: Tensor, labels: Labels | None) -> dict[str, Any]:
    visits_N, count = watch.visits.sum(0), watch.experts.experts
    live_N = (fired_M > 0).view(count, -1).sum(1)
    series: dict[str, Any] = {
        "load": Load(
            [round(x, 6) for x in (visits_N / visits_N.sum()).tolist()],
            [None if not x > 0 else round(x, 4) for x in (watch.trust / visits_N).tolist()],
            live_N.tolist(),
        ),
        CONFIDENCE: Histogram(
            np.linspace(0, 1, _COARSE + 1).round(4).tolist(),
            watch.confidence.view(_COARSE, -1).sum(1).tolist(),
        ),
    }
    if watch.overlap is not None:
        series["overlap"] = OverlapMatrix(matrix(watch.overlap.matrix))
    if labels is not None:
        series["domains"] = _domains(watch.visits.cpu().numpy(), labels)
    return {name: plain(record) for name, record in series.items()}


def _domains(visits_RN: Float[np.ndarray, "R N"], labels: Labels) -> Domains:
    """Where the visits of each label's documents go."""
    one_hot_RL = labels.label_R[:, None] == np.arange(len(labels.names))
    joint_LN = one_hot_RL.T.astype(np.float64) @ visits_RN
    share_LN = joint_LN / np.maximum(joint_LN.sum(1, keepdims=True), 1)
    return Domains(list(labels.names), share_LN.round(5).tolist(), one_hot_RL.sum(0).tolist())
