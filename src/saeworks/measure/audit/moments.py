"""Streaming second moments in float64: memory O(D²), whatever the number of tokens.

Everything is accumulated around the first chunk's mean, so that centring at the end loses no
digits to a large mean.
"""

import torch
from jaxtyping import Float
from torch import Tensor


class Gram:
    """n, Σx and Σ(x − s)(x − s)ᵀ of rows x.

    Attributes:
        n: rows seen.
        shift_D: s, the first chunk's mean.
    """

    def __init__(self, d: int, device: torch.device) -> None:
        self.n = 0
        self.shift_D = torch.zeros(d, dtype=torch.float64, device=device)
        self._sum_D = torch.zeros_like(self.shift_D)
        self._product_DD = torch.zeros(d, d, dtype=torch.float64, device=device)

    def add(self, x_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Count rows in; returns them shifted, for products with other things."""
        if self.n == 0 and len(x_ND):
            self.shift_D = x_ND.mean(dim=0)
        shifted_ND = x_ND - self.shift_D
        self.n += len(x_ND)
        self._sum_D += shifted_ND.sum(dim=0)
        self._product_DD.addmm_(shifted_ND.T, shifted_ND)
        return shifted_ND

    @property
    def offset_D(self) -> Float[Tensor, " D"]:
        """Mean of x − s."""
        return self._sum_D / max(self.n, 1)

    @property
    def mean_D(self) -> Float[Tensor, " D"]:
        """x̄."""
        return self.shift_D + self.offset_D

    @property
    def scatter_DD(self) -> Float[Tensor, "D D"]:
        """Σ(x − x̄)(x − x̄)ᵀ."""
        return self._product_DD - self.n * torch.outer(self.offset_D, self.offset_D)


class Cross:
    """Σ(x − s)(y − t)ᵀ of rows x, whose `Gram` is kept elsewhere, with targets y; and Σy, Σy²."""

    def __init__(self, d: int, targets: int, device: torch.device) -> None:
        self.n = 0
        self.shift_V = torch.zeros(targets, dtype=torch.float64, device=device)
        self._sum_V = torch.zeros_like(self.shift_V)
        self._square_V = torch.zeros_like(self.shift_V)
        self._product_DV = torch.zeros(d, targets, dtype=torch.float64, device=device)

    def add(self, shifted_ND: Float[Tensor, "N D"], y_NV: Float[Tensor, "N V"]) -> None:
        """Count rows in; `shifted_ND` is what `Gram.add` returned for them."""
        if self.n == 0 and len(y_NV):
            self.shift_V = y_NV.mean(dim=0)
        y_NV = y_NV - self.shift_V
        self.n += len(y_NV)
        self._sum_V += y_NV.sum(dim=0)
        self._square_V += y_NV.square().sum(dim=0)
        self._product_DV.addmm_(shifted_ND.T, y_NV)

    @property
    def mean_V(self) -> Float[Tensor, " V"]:
        """ȳ."""
        return self.shift_V + self._sum_V / max(self.n, 1)

    @property
    def variance_V(self) -> Float[Tensor, " V"]:
        """Σ(y − ȳ)², of each column."""
        return self._square_V - self._sum_V.square() / max(self.n, 1)

    def centred_DV(self, gram: Gram) -> Float[Tensor, "D V"]:
        """Σ(x − x̄)(y − ȳ)ᵀ; the Gram must have seen the same rows."""
        assert gram.n == self.n, (gram.n, self.n)
        return self._product_DV - torch.outer(gram.offset_D, self._sum_V)
