"""Tensors of other libraries' files: checked before anything believes them, and made an SAE."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError
from saeworks.files.access import check_finite


def check(
    file: Path,
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    kind: str,
    because: str,
) -> None:
    """Refuse any tensors but those of `shapes`, of finite floats.

    Args:
        file: where they are from.
        kind: of SAE, with its article, for messages.
        because: what says the shapes, for messages; such as `"d_in 16 of cfg.json makes it"`.

    Raises:
        UserError: if a tensor is missing, too many, ill-shaped, not of floats, or not finite.
    """
    for name in sorted(shapes.keys() - tensors.keys()):
        raise UserError(f"{file} lacks {name}, which {kind} SAE has")
    for name in sorted(tensors.keys() - shapes.keys()):
        raise UserError(f"{file} has {name[:80]!r}, which {kind} SAE has not")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise UserError(
                f"{file}: {name} is of shape {list(tensor.shape)}, but {because} "
                f"{list(shapes[name])}"
            )
        if tensor.dtype not in _FLOATS:
            raise UserError(f"{file}: {name} is of {tensor.dtype}; it must be of floats")
    check_finite(file, tensors)


_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def built(arch: str, d: int, options: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> SAE:
    """Our SAE with these parameters, frozen."""
    sae = build_sae(arch, d, **options)
    with torch.no_grad():
        sae.load_state_dict({**sae.state_dict(), **parameters})
    return sae.requires_grad_(False).eval()


def linear(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names of W_enc [D, M], W_dec [M, D] and b_dec."""
    return {"w_enc": tensors["W_enc"].T, "w_dec": tensors["W_dec"], "b_dec": tensors["b_dec"]}


def jumprelu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of f = z·1[z > threshold], z = ReLU(x'W_enc + b_enc): a threshold below 0 is one
    of 0, because of the ReLU."""
    threshold = tensors["threshold"].clamp(min=0)
    return {**linear(tensors), "b_enc": tensors["b_enc"], "threshold": threshold}
