"""Muon: momentum whose matrices are made orthogonal before they are applied.

Reaches the same loss as Adam in about half the tokens on a model this small, which is what a
training on a few processor cores needs. (Jordan et al. 2024, "Muon: an optimizer for hidden
layers in neural networks".) Equal shapes are stacked and orthogonalised in one batched product.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(matrices_NRC: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
    """Every matrix with its singular values moved near 1, its singular vectors kept.

    X ← aX + (bA + cA²)X with A = XXᵀ, five times, from X = G/‖G‖ (Newton–Schulz iteration).
    """
    wide = matrices_NRC.shape[1] <= matrices_NRC.shape[2]
    x_NRC = matrices_NRC if wide else matrices_NRC.mT
    x_NRC = x_NRC / (x_NRC.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram_NRR = x_NRC @ x_NRC.mT
        x_NRC = a * x_NRC + (b * gram_NRR + c * gram_NRR @ gram_NRR) @ x_NRC
    result_NRC: Tensor = x_NRC if wide else x_NRC.mT
    return result_NRC


class Muon(torch.optim.Optimizer):
    """w ← (1 − lr·decay)·w − lr·√max(1, rows/columns)·orthogonalise(Nesterov momentum)."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        super().__init__(
            list(matrices),
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay},
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Any = None) -> float | None:
        """One update; closures are not supported."""
        assert closure is None
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                updates = orthogonalise(
                    torch.stack([self._nesterov(p, group["momentum"]) for p in parameters])
                )
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(updates.unbind()), alpha=-scale)
        return None

    def _nesterov(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum)
