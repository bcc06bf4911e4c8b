"""The supports that experts would have on the same tokens: of those chosen, and of the others.

Shapes: B tokens, D model width, K active latents per token, N experts.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeworks.dictionary.base import SAE, SparseCode
from saeworks.dictionary.cosines import unit
from saeworks.dictionary.experts import HasExperts, Routing
from saeworks.results.metric import Metric

NEAR = 0.9
"""Two directions are near duplicates where their cosine is above this."""
_ELEMENTS = 2**23
"""Of gathered decoder rows in memory at once."""

METRICS = {
    "l0_all_experts": Metric(
        "L0 of all experts",
        "Latents that would be active on a token if every expert encoded it, each with its own "
        "TopK; L0 is what is active in the chosen ones.",
        "latents/token",
    ),
    "global_top_share": Metric(
        "Global TopK held",
        "Of the k largest activations (before weighting) over all experts, the share that is in "
        "the chosen ones; by chance, chosen / all experts.",
        better="higher",
    ),
    "support_overlap": Metric(
        "Support overlap",
        "Of the decoder rows that are active on a token, the share with a cosine above "
        f"{NEAR} with one of those that an expert that was not chosen would have active; mean over "
        "tokens and experts not chosen.",
        better="lower",
    ),
    "support_overlap_any": Metric(
        "Support overlap, any",
        "The same with those of all experts that were not chosen together.",
        better="lower",
    ),
}
SENTENCES = {
    "overlap": "Per token {support_overlap%} of the chosen expert's active latents are also active "
    "in another expert, on average.",
}
SUMS = ("sampled", "all", "top", "overlapping", "one", "any")
"""Columns of `Overlap.sums`."""


@dataclass
class Overlap:
    """Sums over the tokens seen.

    Attributes:
        sums: by document, float64; columns `SUMS`.
        hits: of active directions of the chosen expert i, those with a near duplicate among the
            active ones of j, not chosen.
        directions: active directions of i on tokens for which j was not chosen.
    """

    sums: Float[Tensor, "R S"]
    hits: Float[Tensor, "N N"]
    directions: Float[Tensor, "N N"]

    @classmethod
    def empty(cls, rows: int, experts: int, device: torch.device) -> "Overlap":
        """Nothing seen yet."""
        return cls(
            torch.zeros(rows, len(SUMS), dtype=torch.float64, device=device),
            torch.zeros(experts, experts, dtype=torch.float64, device=device),
            torch.zeros(experts, experts, dtype=torch.float64, device=device),
        )

    @property
    def matrix(self) -> Float[Tensor, "N N"]:
        """Share of i's active directions that are near those of j; NaN where there are none."""
        return self.hits / self.directions

    def add(
        self,
        sae: SAE,
        experts: HasExperts,
        x_BD: Float[Tensor, "B D"],
        row_B: Int[Tensor, " B"],
    ) -> None:
        """Run every expert on the tokens; row_B is each token's document."""
        code = sae.encode_sparse(x_BD)
        step = max(1, _ELEMENTS // max(1, code.indices.shape[-1] * sae.d))
        for start in range(0, len(x_BD), step):
            part = slice(start, start + step)
            self._add(sae, experts, x_BD[part], row_B[part])

    def _add(self, sae: SAE, experts: HasExperts, x_BD: Tensor, row_B: Tensor) -> None:
        code = sae.encode_sparse(x_BD)
        assert code.offsets is None  # experts have TopK
        chosen_BN = chosen(experts.route(x_BD), len(x_BD), experts.experts)
        own_BK = code.values > 0
        rows_BKD = unit(sae.w_dec[code.indices].flatten(0, 1)).view(*code.indices.shape, -1)
        owner_BK = code.indices // (sae.width // experts.experts)
        best_Bk, inside_Bk = None, None
        any_BK = torch.zeros_like(own_BK)
        one_B = x_BD.new_zeros(len(x_BD), dtype=torch.float64)
        active_B = torch.zeros_like(one_B)
        for expert in range(experts.experts):
            other = experts.encode_within(x_BD, expert)
            active_B += (other.values > 0).sum(1)
            best_Bk, inside_Bk = _largest(best_Bk, inside_Bk, other, chosen_BN[:, expert])
            asked_BK = own_BK & ~chosen_BN[:, expert, None]
            hit_BK = _near(rows_BKD, other, sae) & asked_BK
            any_BK |= hit_BK
            one_B += hit_BK.sum(1)
            for counts_NN, which_BK in ((self.hits, hit_BK), (self.directions, asked_BK)):
                counts_NN[:, expert] += torch.bincount(
                    owner_BK[which_BK], minlength=experts.experts
                )
        assert best_Bk is not None and inside_Bk is not None
        firing_Bk, own_B = best_Bk > 0, own_BK.sum(1)
        others_B = (~chosen_BN).sum(1)
        counted_B = (own_B > 0) & (others_B > 0)
        columns = (
            torch.ones_like(one_B),
            active_B,
            _ratio((inside_Bk & firing_Bk).sum(1), firing_Bk.sum(1)),
            counted_B,
            _ratio(one_B, own_B * others_B) * counted_B,
            _ratio(any_BK.sum(1), own_B) * counted_B,
        )
        self.sums.index_add_(0, row_B, torch.stack([c.double() for c in columns], 1))

    def per_document(self) -> dict[str, np.ndarray]:
        """The sums by document, by their names."""
        return dict(zip(SUMS, self.sums.cpu().numpy().T, strict=True))


STATISTICS = {
    "l0_all_experts": lambda s: s["all"] / s["sampled"],
    "global_top_share": lambda s: s["top"] / s["sampled"],
    "support_overlap": lambda s: s["one"] / s["overlapping"],
    "support_overlap_any": lambda s: s["any"] / s["overlapping"],
}
"""The metrics as functions of the sums."""


def chosen(routing: Routing, tokens: int, experts: int) -> Bool[Tensor, "B N"]:
    """Which experts encode each token."""
    owner_V = visitors(routing, tokens)
    mask_BN = torch.zeros(tokens, experts, dtype=torch.bool, device=owner_V.device)
    mask_BN[owner_V, routing.expert.flatten()] = True
    return mask_BN


def visitors(routing: Routing, tokens: int) -> Int[Tensor, " V"]:
    """The token of each visit."""
    token_B = torch.arange(tokens, device=routing.expert.device)
    if routing.offsets is None:
        return token_B.repeat_interleave(routing.expert.shape[-1])
    return token_B.repeat_interleave(routing.offsets.diff())


def _largest(
    best_Bk: Tensor | None, inside_Bk: Tensor | None, other: SparseCode, chosen_B: Tensor
) -> tuple[Tensor, Tensor]:
    """The k largest activations so far, and whether each is of a chosen expert."""
    k = other.values.shape[1]
    inside = chosen_B[:, None].expand_as(other.values)
    if best_Bk is None or inside_Bk is None:
        return other.values, inside
    best = torch.cat([best_Bk, other.values], 1)
    values, at = best.topk(k, dim=1)
    return values, torch.cat([inside_Bk, inside], 1).gather(1, at)


def _near(rows_BKD: Float[Tensor, "B K D"], other: SparseCode, sae: SAE) -> Bool[Tensor, "B K"]:
    """Whether each row is a near duplicate of one that is active in the other code."""
    theirs_BkD = unit(sae.w_dec[other.indices].flatten(0, 1)).view(*other.indices.shape, -1)
    cosine_BKk = torch.bmm(rows_BKD, theirs_BkD.transpose(1, 2))
    cosine_BKk.masked_fill_((other.values <= 0)[:, None, :], -1.0)
    return cosine_BKk.amax(2) > NEAR


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b is 0."""
    return a.double() / b.double().clamp_min(1)
