"""Activations whose dictionary is known, for tests of recovery.

Shapes: B tokens, D width, F features (ground-truth directions).
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.activations.base import ActivationBatch, ActivationSource
from saeworks.activations.seeds import generator

SITE = "synthetic"
_DOCUMENT = 128  # rows that pass for one document


class SyntheticSource(ActivationSource):
    """x = Σ_i c_i·w_i + noise, with `active` features i in every row and unit directions w_i.

    The active features are the first `active` to ring of F exponential clocks with rates
    −log(1 − p_i), p_i ∝ i^-½ with Σp = active: feature i fires in about a share p_i of the rows.

    Args:
        exponential: coefficients are Exp(1) instead of U(0.5, 1.5).
        noise: standard deviation of the Gaussian noise in each coordinate.

    Attributes:
        dictionary: [F, D], the directions.
        frequencies: [F], p.
    """

    vetted = True

    def __init__(
        self,
        batch: int,
        *,
        d: int,
        features: int,
        active: int,
        exponential: bool = False,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.planes, self.batch = {SITE: d}, batch
        w_FD = torch.randn(features, d, generator=generator(seed, "directions", SITE))
        self.dictionary = w_FD / w_FD.norm(dim=1, keepdim=True)
        weight_F = torch.arange(1, features + 1, dtype=torch.float64) ** -0.5
        self.frequencies = (weight_F * (active / weight_F.sum())).float()
        self._rate_F = -torch.log1p(-self.frequencies)
        self._active, self._exponential, self._noise = active, exponential, noise
        self._seed, self._batches = seed, 0

    def __next__(self) -> ActivationBatch:
        self._batches += 1
        return self._batch(self._batches - 1)

    def head(self, plane: str, tokens: int) -> Float[Tensor, "N D"]:
        batches = range(-(-tokens // self.batch))
        return torch.cat([self._batch(number).x[plane] for number in batches])[:tokens]

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._batches = int(state["batches"])

    def describe(self) -> dict[str, Any]:
        return {"source": SITE, "batch": self.batch}

    def _batch(self, number: int) -> ActivationBatch:
        random = generator(self._seed, "rows", number)
        x_BD = self._code(random) @ self.dictionary
        if self._noise:
            x_BD += self._noise * torch.randn(x_BD.shape, generator=random)
        row = torch.arange(number * self.batch, (number + 1) * self.batch)
        return ActivationBatch({SITE: x_BD}, row // _DOCUMENT, row % _DOCUMENT)

    def _code(self, random: torch.Generator) -> Float[Tensor, "B F"]:
        clock_BF = torch.empty(self.batch, len(self._rate_F)).exponential_(generator=random)
        active_BK = (clock_BF / self._rate_F).topk(self._active, dim=1, largest=False).indices
        c_BK = torch.empty(active_BK.shape)
        if self._exponential:
            c_BK.exponential_(generator=random)
        else:
            c_BK.uniform_(0.5, 1.5, generator=random)
        return torch.zeros(clock_BF.shape).scatter_(1, active_BK, c_BK)
