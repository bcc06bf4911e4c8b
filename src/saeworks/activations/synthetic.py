"""Activations whose dictionary is known, for tests of recovery.

Shapes: B tokens, D width, F features (ground-truth directions).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.activations.base import ActivationBatch, ActivationSource
from saeworks.activations.seeds import generator
from saeworks.errors import UserError

_DOCUMENT = 128  # rows that pass for one document


@dataclass(frozen=True)
class SyntheticConfig:
    """What the rows are made of."""

    d: int = 64
    """D, the width of the rows."""
    features: int = 256
    """F, the number of ground-truth directions."""
    active: int = 5
    """Features active in every row."""
    exponent: float = 0.5
    """a of the power law: feature i (from 1) fires in proportion to i^-a; 0 for equal rates."""
    coefficients: Literal["uniform", "exponential", "constant"] = "uniform"
    """Activation of an active feature: U(0.5, 1.5), Exp(1), or 1."""
    correlation: float = 0.0
    """Strength with which the features of one cluster fire together (0: independent)."""
    cluster: int = 8
    """Features in a cluster."""
    noise: float = 0.0
    """Standard deviation of the Gaussian noise in each coordinate."""
    sites: tuple[str, ...] = ("synthetic",)
    """Planes; each has directions of its own and the same coefficients."""


class SyntheticSource(ActivationSource):
    """x = Σ_i c_i·w_i + noise, with `active` features i in every row and unit directions w_i.

    The active features are the first `active` to ring of F exponential clocks with rates
    −log(1 − p_i), where p_i is proportional to i^-a and sums to `active`; so feature i fires in
    about a share p_i of the rows. With correlation s, the rates of a cluster are multiplied by a
    log-normal exp(s·z) that the cluster shares in each row.

    Attributes:
        dictionary: [F, D], the directions of the first plane; `dictionaries` has all.
        frequencies: [F], p.

    Raises:
        UserError: if `active` is not in 1..features.
    """

    vetted = True

    def __init__(self, config: SyntheticConfig, batch: int, seed: int) -> None:
        if not 1 <= config.active <= config.features:
            raise UserError(
                f"active = {config.active}: it must be between 1 and features = {config.features}"
            )
        self.planes = dict.fromkeys(config.sites, config.d)
        self.batch, self.config, self._seed = batch, config, seed
        self.dictionaries: dict[str, Tensor] = {}
        for site in config.sites:
            w_FD = torch.randn(
                config.features, config.d, generator=generator(seed, "directions", site)
            )
            self.dictionaries[site] = w_FD / w_FD.norm(dim=1, keepdim=True)
        self.frequencies = power_law(config.features, config.active, config.exponent)
        self._batches = 0

    @property
    def dictionary(self) -> Float[Tensor, "F D"]:
        return self.dictionaries[self.config.sites[0]]

    def __next__(self) -> ActivationBatch:
        self._batches += 1
        return self._make(self._batches - 1)

    def head(self, plane: str, tokens: int) -> Float[Tensor, "N D"]:
        batches = range(-(-tokens // self.batch))
        return torch.cat([self._make(i).x[plane] for i in batches])[:tokens]

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._batches = int(state["batches"])

    def describe(self) -> dict[str, Any]:
        """Sizes; rows that pass for documents are counted as such."""
        per_batch = -(-self.batch // _DOCUMENT)
        return {
            "source": "synthetic",
            "batch": self.batch,
            "documents_per_batch": per_batch,
        }

    def coefficients(self, number: int) -> Float[Tensor, "B F"]:
        """The sparse ground-truth activations of a batch, dense."""
        return self._code(generator(self._seed, "rows", number))

    def _make(self, number: int) -> ActivationBatch:
        random = generator(self._seed, "rows", number)
        c_BF = self._code(random)
        x = {}
        for site, w_FD in self.dictionaries.items():
            x_BD = c_BF @ w_FD
            if self.config.noise:
                x_BD += self.config.noise * torch.randn(x_BD.shape, generator=random)
            x[site] = x_BD
        row = torch.arange(number * self.batch, (number + 1) * self.batch)
        return ActivationBatch(x, row // _DOCUMENT, row % _DOCUMENT)

    def _code(self, random: torch.Generator) -> Float[Tensor, "B F"]:
        config, (batch, features) = self.config, (self.batch, self.config.features)
        clocks_BF = torch.empty(batch, features).exponential_(generator=random)
        clocks_BF /= -torch.log1p(-self.frequencies)
        if config.correlation:
            clusters = -(-features // config.cluster)
            z_BC = torch.randn(batch, clusters, generator=random)
            shared = torch.exp(-config.correlation * z_BC)
            clocks_BF *= shared.repeat_interleave(config.cluster, dim=1)[:, :features]
        active_BK = clocks_BF.topk(config.active, dim=1, largest=False).indices
        c_BK = torch.ones(active_BK.shape)
        if config.coefficients == "uniform":
            c_BK.uniform_(0.5, 1.5, generator=random)
        elif config.coefficients == "exponential":
            c_BK.exponential_(generator=random)
        return torch.zeros(batch, features).scatter_(1, active_BK, c_BK)


def power_law(features: int, total: float | int, exponent: float | int) -> Float[Tensor, " F"]:
    """Frequencies p_i ∝ i^-a with Σp = total, none above 0.99.

    What the cap takes from the first is given to the others.
    """
    weights_F = torch.arange(1, features + 1, dtype=torch.float64) ** -exponent
    p_F = weights_F * (total / weights_F.sum())
    for _ in range(features):
        capped = p_F >= 0.99
        rest = total - 0.99 * float(capped.sum())
        scaled = weights_F * (rest / weights_F[~capped].sum()) if not capped.all() else p_F
        p_F = torch.where(capped, torch.full_like(p_F, 0.99), scaled)
        if not bool((p_F > 0.99).any()):
            break
    return p_F.float()
