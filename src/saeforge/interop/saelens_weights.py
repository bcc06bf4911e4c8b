"""SAELens 6: a folder with `cfg.json` and `sae_weights.safetensors`, both ways.

Shapes there: W_enc [D, M], W_dec [M, D], b_dec [D], and b_enc [M]; jumprelu has also
threshold [M]; gated has b_gate, b_mag, r_mag [M] and no b_enc. With x' = x − b_dec, or x if
`apply_b_dec_to_input` is false:

- standard: f = ReLU(x'W_enc + b_enc)
- topk: f = ReLU(TopK_k(x'W_enc + b_enc))
- jumprelu: f = z·1[z > threshold], z = ReLU(x'W_enc + b_enc)
- gated: f = 1[x'W_enc + b_gate > 0]·ReLU(exp(r_mag)·x'W_enc + b_mag)
- batchtopk, matryoshka_batchtopk (unfinished training only): one `topk_threshold`; used as the
  jumprelu that SAELens makes of them at the end.

Every form is linear around its activation, so each conversion is exact up to rounding.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from saeforge.config import STRICT, from_mapping
from saeforge.dictionary.base import SAE
from saeforge.dictionary.registry import build_sae
from saeforge.errors import UserError
from saeforge.files import read_json, read_tensors, write_json, write_tensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
VERSION = "6.54.12"
"""The SAELens whose format is written, and with which it is tested."""

TRAINING_ONLY = frozenset({
    "decoder_init_norm", "l1_coefficient", "lp_norm", "l1_warm_up_steps", "l0_coefficient",
    "l0_warm_up_steps", "target_l0", "pre_act_loss_coefficient", "jumprelu_init_threshold",
    "jumprelu_bandwidth", "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale",
    "jumprelu_ste_to_input", "use_sparse_activations", "aux_loss_coefficient",
    "topk_threshold_lr", "matryoshka_widths", "use_matryoshka_aux_loss",
})  # fmt: skip
"""Keys of cfg.json that cannot change what a finished SAE computes; any other unknown key might."""


@dataclass(frozen=True, config=STRICT)
class Config:
    """The keys of cfg.json that say what an SAE computes."""

    architecture: Literal[
        "standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk"
    ]
    d_in: int
    d_sae: int
    dtype: Literal["float32", "float64", "float16", "bfloat16"] = "float32"
    device: str = "cpu"
    apply_b_dec_to_input: bool = True
    normalize_activations: Literal[
        "none",
        "expected_average_only_in",
        "constant_norm_rescale",
        "layer_norm",
        "covariance_whitening",
    ] = "none"
    reshape_activations: Literal["none", "hook_z"] = "none"
    metadata: dict[str, Any] = field(default_factory=dict)
    k: float | None = None
    rescale_acts_by_decoder_norm: bool = False

    def __post_init__(self) -> None:
        if self.normalize_activations != "none":
            raise UserError(
                f"normalize_activations = {self.normalize_activations!r} cannot be represented "
                "(its factor is not in the file, or it is not affine); only 'none' can, which is "
                "what SAELens saves when training ends"
            )
        if min(self.d_in, self.d_sae) < 1:
            raise UserError(f"d_in = {self.d_in}, d_sae = {self.d_sae}: both must be positive")
        if self.architecture == "topk" and not self._is_k(self.k):
            raise UserError(f"k = {self.k}: it must be a whole number from 1 to d_sae {self.d_sae}")

    def _is_k(self, k: float | None) -> bool:
        return k is not None and math.isfinite(k) and k == int(k) and 1 <= k <= self.d_sae

    def subtracts(self) -> bool:
        return self.apply_b_dec_to_input


def is_folder(path: Path) -> bool:
    """Whether it looks like one SAE of SAELens."""
    return (path / CONFIG).is_file() or (path / WEIGHTS).is_file()


def read(folder: Path) -> tuple[SAE, dict[str, Any]]:
    """The SAE of a folder, on raw activations, and its metadata.

    Raises:
        UserError: if a file is missing or unreadable, the config is not one of SAELens 6,
            contradicts the tensors or asks for what has no counterpart here, or a tensor is
            missing, too many, ill-shaped, not of floats, or not finite.
    """
    config = _config(folder)
    tensors = _tensors(folder, config)
    if config.rescale_acts_by_decoder_norm:
        _fold_decoder_norms(tensors, folder)
    arch, options, parameters = _READERS[config.architecture](config, tensors)
    sae = build_sae(arch, config.d_in, width=config.d_sae, **options)
    with torch.no_grad():
        sae.load_state_dict({**sae.state_dict(), **parameters})
    return sae.requires_grad_(False).eval(), config.metadata


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


def _config(folder: Path) -> Config:
    if not (folder / WEIGHTS).is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in {".pt", ".pth", ".bin"})
        hint = f"; {pickles[0]} is a pickle, which is never opened" if pickles else ""
        raise UserError(f"{folder} has no {WEIGHTS}{hint}; save the SAE with SAELens 6")
    file = folder / CONFIG
    data = read_json(file, "SAELens config")
    if not isinstance(data, dict):
        raise UserError(f"{file} must hold a JSON object, not a {type(data).__name__}")
    metadata = data.get("metadata")
    version = metadata.get("sae_lens_version") if isinstance(metadata, dict) else None
    if not (isinstance(version, str) and version.partition(".")[0].isdecimal()):
        raise UserError(f"{file} has no metadata.sae_lens_version; save the SAE with SAELens 6")
    if int(version.partition(".")[0][:6]) != 6:
        raise UserError(f"{file} is of SAELens {version[:20]}; save the SAE with SAELens 6")
    kept = {key: value for key, value in data.items() if key not in TRAINING_ONLY}
    config = from_mapping(Config, kept, str(file))
    if config.architecture.endswith("batchtopk") and "rescale_acts_by_decoder_norm" not in kept:
        return replace(config, rescale_acts_by_decoder_norm=True)  # SAELens's own default there
    return config


def _tensors(folder: Path, config: Config) -> dict[str, Tensor]:
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
    for name in sorted(shapes.keys() - tensors.keys()):
        raise UserError(f"{file} lacks {name}, which a {config.architecture} SAE has")
    for name in sorted(tensors.keys() - shapes.keys()):
        raise UserError(f"{file} has {name!r}, which a {config.architecture} SAE has not")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise UserError(
                f"{file}: {name} is of shape {list(tensor.shape)}, but d_in {d} and d_sae {m} of "
                f"{CONFIG} make it {list(shapes[name])}"
            )
        if tensor.dtype not in _FLOATS:
            raise UserError(f"{file}: {name} is of {tensor.dtype}; it must be of floats")
        if name not in _PRECISE and tensor.dtype != _dtype(config):
            raise UserError(
                f"{file}: {name} is of {tensor.dtype}, but {CONFIG} says {config.dtype!r}"
            )
        if not torch.isfinite(tensor.float()).all():
            raise UserError(f"{file}: {name} has NaN or infinite values")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _dtype(config: Config) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
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


Read = tuple[str, dict[str, Any], dict[str, Tensor]]
"""Our architecture, its options besides width, its parameters."""


def _shared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"w_enc": tensors["W_enc"].T, "w_dec": tensors["W_dec"], "b_dec": tensors["b_dec"]}


def _centre(config: Config, tensors: Mapping[str, Tensor]) -> Tensor:
    """What subtracting b_dec from the input takes off the pre-activations: to be added to their
    biases where SAELens does not subtract it and our architecture does."""
    if config.subtracts():
        return torch.zeros(config.d_sae)
    return (tensors["b_dec"].double() @ tensors["W_enc"].double()).float()


def _read_standard(config: Config, tensors: dict[str, Tensor]) -> Read:
    parameters = {**_shared(tensors), "b_enc": tensors["b_enc"]}
    return "relu", {"subtract_b_dec": config.subtracts()}, parameters


def _read_topk(config: Config, tensors: dict[str, Tensor]) -> Read:
    b_enc = tensors["b_enc"] + _centre(config, tensors)
    return "topk", {"k": int(config.k or 0)}, {**_shared(tensors), "b_enc": b_enc}


def _read_jumprelu(config: Config, tensors: dict[str, Tensor]) -> Read:
    """A negative threshold is one of 0 there, because of the ReLU."""
    parameters = {
        **_shared(tensors),
        "b_enc": tensors["b_enc"],
        "threshold": tensors["threshold"].clamp(min=0),
    }
    return "jumprelu", {"subtract_b_dec": config.subtracts()}, parameters


def _read_batchtopk(config: Config, tensors: dict[str, Tensor]) -> Read:
    threshold = tensors["topk_threshold"].expand(config.d_sae).clone()
    return _read_jumprelu(config, {**tensors, "threshold": threshold})


def _read_gated(config: Config, tensors: dict[str, Tensor]) -> Read:
    centre = _centre(config, tensors)
    parameters = {
        **_shared(tensors),
        "b_gate": tensors["b_gate"] + centre,
        "b_mag": tensors["b_mag"] + tensors["r_mag"].exp() * centre,
        "r_mag": tensors["r_mag"],
    }
    return "gated", {}, parameters


_READERS: dict[str, Callable[[Config, dict[str, Tensor]], Read]] = {
    "standard": _read_standard,
    "topk": _read_topk,
    "jumprelu": _read_jumprelu,
    "gated": _read_gated,
    "batchtopk": _read_batchtopk,
    "matryoshka_batchtopk": _read_batchtopk,
}

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
