"""Our SAE of a folder of SAELens 6."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.files.access import read_json, read_tensors
from saeworks.interop.saelens_config import (
    CONFIG,
    SCALE,
    WEIGHTS,
    SaelensConfig,
    read_config,
)
from saeworks.interop.tensors import (
    built,
    check,
    jumprelu,
    linear,
)


def read(folder: Path) -> tuple[SAE, dict[str, Any]]:
    """The SAE of a folder, on raw activations, and its metadata.

    Raises:
        UserError: if a file is missing or unreadable, the config is not one of SAELens 6,
            contradicts the tensors or asks for what has no counterpart here, or a tensor is
            missing, too many, ill-shaped, not of floats, or not finite.
    """
    config = read_config(folder)
    tensors = _tensors(folder, config)
    if config.selects and config.rescale_acts_by_decoder_norm:
        _fold_decoder_norms(tensors, folder)
    if config.normalize_activations == "expected_average_only_in":
        _fold_scale(tensors, folder)
    arch, options, parameters = _READERS[config.architecture](config, tensors)
    sae = built(arch, config.d_in, {"width": config.d_sae, **options}, parameters)
    return sae, config.metadata


def _tensors(folder: Path, config: SaelensConfig) -> dict[str, Tensor]:
    """The file's tensors in float32, exactly those that the config promises."""
    file, d, m = folder / WEIGHTS, config.d_in, config.d_sae
    tensors = read_tensors(file)
    if config.architecture == "jumprelu" and "log_threshold" in tensors:  # of early versions 6
        log_threshold = tensors.pop("log_threshold")
        if "threshold" in tensors:
            raise UserError(f"{file} has both threshold and log_threshold; save the SAE anew")
        tensors["threshold"] = log_threshold.exp()
    shapes = {"W_enc": (d, m), "W_dec": (m, d), "b_dec": (d,)}
    shapes |= dict.fromkeys(_BIASES[config.architecture], (m,))
    shapes |= {"topk_threshold": ()} if config.architecture.endswith("batchtopk") else {}
    because = f"d_in {d} and d_sae {m} of {CONFIG} make it"
    check(file, tensors, shapes, f"a {config.architecture}", because)
    for name, tensor in tensors.items():
        if name not in _PRECISE and tensor.dtype != _dtype(config):
            raise UserError(
                f"{file}: {name} is of {tensor.dtype}, but {CONFIG} says {config.dtype!r}"
            )
    return {name: tensor.float() for name, tensor in tensors.items()}


def _dtype(config: SaelensConfig) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


_PRECISE = ("threshold", "topk_threshold")
"""SAELens keeps these in more precision than `dtype` says."""

_BIASES: dict[str, tuple[str, ...]] = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
    "batchtopk": ("b_enc",),
    "matryoshka_batchtopk": ("b_enc",),
}


def _fold_decoder_norms(tensors: dict[str, Tensor], folder: Path) -> None:
    """Codes count in units of their decoder rows' norms there: (W_enc·n, b·n, W_dec/n)."""
    norm_M = tensors["W_dec"].norm(dim=1)
    if (norm_M == 0).any():
        raise UserError(f"{folder / WEIGHTS}: W_dec has rows of norm 0, by which SAELens divides")
    tensors["W_enc"] = tensors["W_enc"] * norm_M
    tensors["b_enc"] = tensors["b_enc"] * norm_M
    tensors["W_dec"] = tensors["W_dec"] / norm_M[:, None]


def _fold_scale(tensors: dict[str, Tensor], folder: Path) -> None:
    """A checkpoint of SAELens's training works on s·x; the factor s lies beside it."""
    file = folder / SCALE
    if not file.is_file():
        raise UserError(
            f"{folder / CONFIG}: normalize_activations = 'expected_average_only_in', but {SCALE} "
            "with its factor is not there; give a whole checkpoint, or the SAE of the end of a "
            "training, into which SAELens folds it"
        )
    data = read_json(file, "SAELens scale")
    scale = data.get("scaling_factor") if isinstance(data, dict) else None
    if not (isinstance(scale, float | int) and math.isfinite(scale) and scale > 0):
        raise UserError(f"{file}: scaling_factor = {scale!r}; it must be a positive number")
    tensors["W_enc"] = tensors["W_enc"] * scale
    tensors["W_dec"] = tensors["W_dec"] / scale
    tensors["b_dec"] = tensors["b_dec"] / scale


Read = tuple[str, dict[str, Any], dict[str, Tensor]]
"""Our architecture, its options besides width, its parameters."""


def _centre(config: SaelensConfig, tensors: Mapping[str, Tensor]) -> Tensor:
    """What subtracting b_dec from the input takes off the pre-activations: to be added to their
    biases where SAELens does not subtract it and our architecture does."""
    if config.apply_b_dec_to_input:
        return torch.zeros(config.d_sae)
    return (tensors["b_dec"].double() @ tensors["W_enc"].double()).float()


def _read_standard(config: SaelensConfig, tensors: dict[str, Tensor]) -> Read:
    parameters = {**linear(tensors), "b_enc": tensors["b_enc"]}
    return "relu", {"subtract_b_dec": config.apply_b_dec_to_input}, parameters


def _read_topk(config: SaelensConfig, tensors: dict[str, Tensor]) -> Read:
    b_enc = tensors["b_enc"] + _centre(config, tensors)
    return "topk", {"k": int(config.k or 0)}, {**linear(tensors), "b_enc": b_enc}


def _read_jumprelu(config: SaelensConfig, tensors: dict[str, Tensor]) -> Read:
    return "jumprelu", {"subtract_b_dec": config.apply_b_dec_to_input}, jumprelu(tensors)


def _read_batchtopk(config: SaelensConfig, tensors: dict[str, Tensor]) -> Read:
    threshold = tensors["topk_threshold"].expand(config.d_sae).clone()
    return _read_jumprelu(config, {**tensors, "threshold": threshold})


def _read_gated(config: SaelensConfig, tensors: dict[str, Tensor]) -> Read:
    centre = _centre(config, tensors)
    parameters = {
        **linear(tensors),
        "b_gate": tensors["b_gate"] + centre,
        "b_mag": tensors["b_mag"] + tensors["r_mag"].exp() * centre,
        "r_mag": tensors["r_mag"],
    }
    return "gated", {}, parameters


_READERS: dict[str, Callable[[SaelensConfig, dict[str, Tensor]], Read]] = {
    "standard": _read_standard,
    "topk": _read_topk,
    "jumprelu": _read_jumprelu,
    "gated": _read_gated,
    "batchtopk": _read_batchtopk,
    "matryoshka_batchtopk": _read_batchtopk,
}
