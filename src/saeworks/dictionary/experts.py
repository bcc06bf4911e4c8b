"""What an SAE of several experts has to say of them, to whoever studies experts.

Shapes: B tokens, D model width, M latents, N experts of E = M/N latents, n experts per token,
V visits (of a token to an expert).
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from saeworks.dictionary.base import SAE, SparseCode


@dataclass(frozen=True)
class Routing:
    """Visits: n per token, [B, n] with `offsets` None; or [V], row b's being
    `offsets[b]:offsets[b + 1]`, at least one.

    Attributes:
        expert: of each visit; those of one token differ.
        weight: of each visit; differentiable.
        p: softmax of the logits, over the experts that are routed to.
        offsets: int64 [B + 1], or None.
        state: what the router's `after_step` needs, detached.
    """

    expert: Int[Tensor, "*visits"]
    weight: Float[Tensor, "*visits"]
    p: Float[Tensor, "B routed"]
    offsets: Int[Tensor, " rows_plus_1"] | None = None
    state: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class HasExperts(Protocol):
    """An SAE of N experts of E = M/N latents: expert i has the latents iE to (i + 1)E."""

    @property
    def experts(self) -> int:
        """N."""

    def route(self, x_BD: Float[Tensor, "B D"]) -> Routing:
        """Which experts encode each token, and how sure the router is."""

    def encode_within(self, x_BD: Float[Tensor, "B D"], expert: int) -> SparseCode:
        """The code that one expert would give of every token, whomever the router would choose,
        with weight 1."""


def experts_of(sae: SAE) -> HasExperts | None:
    """The SAE as one of several experts, or None where it has none."""
    return sae if isinstance(sae, HasExperts) else None
