"""A folder of SAELens 6 of our SAE."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.files.access import write_json, write_tensors
from saeworks.interop.saelens_config import CONFIG, WEIGHTS

VERSION = "6.54.12"
"""The SAELens whose format is written, and with which it is tested."""


def write(folder: Path, sae: SAE, metadata: Mapping[str, Any]) -> None:
    """Write the folder of an SAE that is on raw activations.

    Raises:
        UserError: if SAELens has no such architecture.
    """
    if sae.arch not in _WRITERS:
        raise UserError(
            f"SAELens has no counterpart of the architecture {sae.arch!r}; it has those of "
            f"{', '.join(_WRITERS)}"
        )
    architecture, options, extra = _WRITERS[sae.arch](sae)
    state = sae.state_dict()
    tensors = {"W_enc": state["w_enc"].T, "W_dec": state["w_dec"], "b_dec": state["b_dec"]}
    config = {
        "architecture": architecture,
        "d_in": sae.d,
        "d_sae": sae.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **options,
        "metadata": {"sae_lens_version": VERSION, **metadata},
    }
    floats = {name: tensor.float() for name, tensor in {**tensors, **extra}.items()}
    write_tensors(folder / WEIGHTS, floats)
    write_json(folder / CONFIG, config)


Write = tuple[str, dict[str, Any], dict[str, Tensor]]
"""SAELens's architecture, its options, its tensors besides W_enc, W_dec, b_dec."""


def _write_topk(sae: SAE) -> Write:
    options = {"k": sae.config.k, "rescale_acts_by_decoder_norm": False}
    return "topk", options, {"b_enc": sae.state_dict()["b_enc"]}


def _write_relu(sae: SAE) -> Write:
    options = {"apply_b_dec_to_input": sae.config.subtract_b_dec}
    return "standard", options, {"b_enc": sae.state_dict()["b_enc"]}


def _write_jumprelu(sae: SAE) -> Write:
    state = sae.state_dict()
    if (state["threshold"] < 0).any():
        raise UserError("a jumprelu SAE with a threshold below 0 has no counterpart in SAELens")
    options = {"apply_b_dec_to_input": sae.config.subtract_b_dec}
    return "jumprelu", options, {"b_enc": state["b_enc"], "threshold": state["threshold"]}


def _write_batchtopk(sae: SAE) -> Write:
    state = sae.state_dict()
    threshold_M = state["threshold"].expand(sae.width)
    return "jumprelu", {}, {"b_enc": state["b_enc"], "threshold": threshold_M}


def _write_gated(sae: SAE) -> Write:
    state = sae.state_dict()
    return "gated", {}, {name: state[name] for name in ("b_gate", "b_mag", "r_mag")}


_WRITERS: dict[str, Callable[[SAE], Write]] = {
    "topk": _write_topk,
    "relu": _write_relu,
    "jumprelu": _write_jumprelu,
    "gated": _write_gated,
    "batchtopk": _write_batchtopk,
    "matryoshka": _write_batchtopk,
}
