"""Activations and reconstructions of arrays, and the same least squares done directly."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeworks.measure.audit import folds


def documents(tokens: int, length: int = 50) -> Tensor:
    """Documents of that many tokens."""
    return torch.arange(tokens) // length


def rows(tokens: int = 8000, d: int = 12, seed: int = 0) -> Tensor:
    """Correlated, far from the origin, float64."""
    generator = torch.Generator().manual_seed(seed)
    mix_DD = torch.randn(d, d, generator=generator, dtype=torch.float64)
    x_ND = torch.randn(tokens, d, generator=generator, dtype=torch.float64) @ mix_DD
    return x_ND + 3.0 * torch.randn(d, generator=generator, dtype=torch.float64)


def nonlinear(x_ND: Tensor, seed: int = 1, gain: float = 0.8) -> Tensor:
    """A map with a kink in every direction: what an SAE is like."""
    generator = torch.Generator().manual_seed(seed)
    d = x_ND.shape[1]
    w_MD = torch.randn(2 * d, d, generator=generator, dtype=torch.float64)
    w_MD /= w_MD.norm(dim=1, keepdim=True)
    centred_ND = x_ND - x_ND.mean(0)
    return gain * (centred_ND @ w_MD.T - 0.5).relu() @ w_MD + 0.9 * x_ND.mean(0)


@dataclass
class Direct:
    """The folds of arrays, and least squares on them by a library."""

    x: NDArray[np.float64]
    x_hat: NDArray[np.float64]
    fold: NDArray[np.int64]

    @classmethod
    def of(cls, x: Tensor, x_hat: Tensor, document: Tensor, seed: int = 0) -> "Direct":
        tokens_R = torch.bincount(document).numpy()
        fold_R = folds.assign(tokens_R, seed)
        return cls(x.numpy(), x_hat.numpy(), fold_R[document.numpy()])

    def at(self, name: str, fold: int) -> NDArray[np.float64]:
        chosen: NDArray[np.float64] = getattr(self, name)[self.fold == fold]
        return chosen

    def predict(
        self, x: NDArray[np.float64], y: NDArray[np.float64], at: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """OLS of y on x with bias, evaluated at other rows."""
        ones = np.ones((len(x), 1))
        weights, *_ = np.linalg.lstsq(np.hstack([x, ones]), y, rcond=None)
        predicted: NDArray[np.float64] = np.hstack([at, np.ones((len(at), 1))]) @ weights
        return predicted
