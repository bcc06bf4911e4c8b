"""The error of trained SAEs as activations: what SAEs on e, ℓ and u are trained on."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.activations.base import ActivationBatch, ActivationSource
from saeworks.activations.feed import PassageReader
from saeworks.dictionary.base import SAE

Component = Literal["e", "l", "u"]
Linear = Callable[[Float[Tensor, "N D"]], Float[Tensor, "N D"]]
"""x → B*x + c in float64."""
Fit = Callable[[Callable[[float], None]], Mapping[str, Linear]]
"""Called once, with where its progress goes; → ℓ by plane."""

ROWS = 4096
"""That go through an SAE at once."""


def component(
    name: Component, x_ND: Tensor, sae: SAE, linear: Linear | None
) -> Float[Tensor, "N D"]:
    """e = x − x̂, ℓ = B*x + c or u = e − ℓ of rows x (Engels et al. 2024, section 3), float32.

    Args:
        sae: on raw activations.
        linear: ℓ(x); not needed for e.
    """
    parts = []
    with torch.no_grad():
        for rows_ND in torch.split(x_ND, ROWS):
            if name == "l":
                assert linear is not None
                parts.append(linear(rows_ND.double()).float())
                continue
            e_ND = rows_ND.double() - sae.decode(sae.encode_sparse(rows_ND)).double()
            if name == "u":
                assert linear is not None
                e_ND = e_ND - linear(rows_ND.double())
            parts.append(e_ND.float())
    return torch.cat(parts)


class ErrorSource(ActivationSource):
    """Another source's batches with every plane's x replaced by a part of its SAE's error.

    It has no state of its own: ℓ is fitted anew, to the same bytes, when a run is resumed.

    Args:
        source: the activations.
        bank: plane → its SAE on raw activations.
        name: which part.
        fit: of ℓ, called when the first rows are asked for; not for e.
    """

    def __init__(
        self, source: ActivationSource, bank: Mapping[str, SAE], name: Component, fit: Fit
    ) -> None:
        self.source, self.bank, self.name = source, bank, name
        self.planes, self.batch = source.planes, source.batch
        self._fit, self._linear = fit, None if name != "e" else dict[str, Linear]()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "tick":  # it is the inner source that is long at work
            self.source.tick = value
        super().__setattr__(name, value)

    def read_in(self, reading: PassageReader) -> None:
        self.source.read_in(reading)

    def __next__(self) -> ActivationBatch:
        batch = next(self.source)
        return replace(batch, x={plane: self.of(plane, x_BD) for plane, x_BD in batch.x.items()})

    def of(self, plane: str, x_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The part of the error of rows x that this source gives."""
        return component(self.name, x_ND, self.bank[plane], self.linear().get(plane))

    def linear(self) -> Mapping[str, Linear]:
        """ℓ by plane, fitted if that was not done; none for e."""
        if self._linear is None:
            self._linear = dict(self._fit(self.tick))
        return self._linear

    @property
    def limits(self) -> Mapping[str, float]:
        return self.source.limits

    @property
    def epoch(self) -> int | None:
        return self.source.epoch

    def head(self, plane: str, tokens: int) -> Float[Tensor, "N D"]:
        return self.of(plane, self.source.head(plane, tokens))

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.source.load_state_dict(state)

    def describe(self) -> dict[str, Any]:
        return {**self.source.describe(), "error": self.name}
