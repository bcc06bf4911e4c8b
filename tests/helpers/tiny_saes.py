"""A small SAE of every architecture, and activations for it."""

from typing import Any

import torch
from torch import Tensor

from saeworks.dictionary.base import SAE, Batch, Context, SparseCode, StepOut
from saeworks.dictionary.registry import build_sae

D = 12
TINY: dict[str, dict[str, Any]] = {
    "topk": {"width": 40, "k": 5},
    "batchtopk": {"width": 40, "k": 5},
    "matryoshka": {"width": 40, "k": 5, "sizes": (7, 16, 40)},
    "relu": {"width": 40, "l1": 0.5},
    "jumprelu": {"width": 40, "l0_coefficient": 2.0, "bandwidth": 0.1, "threshold": 0.2},
    "gated": {"width": 40, "l1": 0.5},
    "switch": {"width": 40, "k": 5, "experts": 4},
    "switch: heaviside": {"width": 40, "k": 5, "experts": 4, "router": "heaviside"},
    "switch: shared": {"width": 40, "k": 5, "experts": 4, "router": "shared"},
    "switch: top-n": {"width": 40, "k": 5, "experts": 4, "router": "top-n", "active": 3},
    "switch: expert-choice": {"width": 40, "k": 5, "experts": 5, "router": "expert-choice"},
    "switch: bias": {"width": 40, "k": 5, "experts": 8, "router": "bias"},
    "switch: layer": {"width": 40, "k": 5, "experts": 2, "router": "layer"},
}
"""A small configuration of each architecture, and of what its options make of it; one that is
missing fails `test_every_…`."""


def name(arch: str) -> str:
    return arch.partition(":")[0]


def build(arch: str, dtype: torch.dtype = torch.float32) -> SAE:
    torch.manual_seed(0)
    sae = build_sae(name(arch), d=D, **TINY[arch])
    sae.initialise(rows(64), torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():  # away from encoder = decoder and zero biases
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return sae.to(dtype)


def rows(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)).to(dtype)


def context(sae: SAE, dead: int = 0) -> Context:
    return Context(torch.arange(dead), 0.5)


def loss(out: StepOut) -> Tensor:
    """What is minimised."""
    return torch.stack(list(out.loss_terms.values())).sum()


def training_code(sae: SAE, batch: Batch) -> SparseCode:
    """The code that a step trains: that of inference, unless the architecture says otherwise."""
    selected = getattr(sae, "training_code", None)
    code: SparseCode = sae.encode_rows(batch.x) if selected is None else selected(batch)
    return code
