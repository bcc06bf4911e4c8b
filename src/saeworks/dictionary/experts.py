"""What an SAE of several experts tells of them, to whoever studies experts."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from saeworks.dictionary.base import SAE, SparseCode
from saeworks.dictionary.routing import Routing


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
