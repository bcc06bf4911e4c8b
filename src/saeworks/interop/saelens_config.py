"""cfg.json of SAELens 6, strictly: what an SAE computes hangs on it."""

import math
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT, from_mapping
from saeworks.errors import UserError
from saeworks.files.access import read_json
from saeworks.interop.base import pickle_hint

CONFIG, WEIGHTS, SCALE = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"

TRAINING_ONLY = frozenset({
    "decoder_init_norm", "l1_coefficient", "lp_norm", "l1_warm_up_steps", "l0_coefficient",
    "l0_warm_up_steps", "target_l0", "pre_act_loss_coefficient", "jumprelu_init_threshold",
    "jumprelu_bandwidth", "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale",
    "jumprelu_ste_to_input", "use_sparse_activations", "aux_loss_coefficient",
    "topk_threshold_lr", "matryoshka_widths", "use_matryoshka_aux_loss",
})  # fmt: skip
"""Keys of cfg.json that cannot change what a finished SAE computes; any other unknown key might."""


@dataclass(frozen=True, config=STRICT)
class SaelensConfig:
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
        if self.normalize_activations not in {"none", "expected_average_only_in"}:
            raise UserError(
                f"normalize_activations = {self.normalize_activations!r} cannot be folded into the "
                "weights here; 'none' needs no folding, and 'expected_average_only_in' is folded"
            )
        if min(self.d_in, self.d_sae) < 1:
            raise UserError(f"d_in = {self.d_in}, d_sae = {self.d_sae}: both must be positive")
        if self.architecture == "topk" and not self._is_k(self.k):
            raise UserError(f"k = {self.k}: it must be a whole number from 1 to d_sae {self.d_sae}")

        if not self.selects and (self.k is not None or self.rescale_acts_by_decoder_norm):
            key = "k" if self.k is not None else "rescale_acts_by_decoder_norm"
            raise UserError(
                f"{key} goes with an architecture that selects k latents, not with "
                f"{self.architecture!r}: the file contradicts itself; leave one of them out"
            )

    def _is_k(self, k: float | None) -> bool:
        return k is not None and math.isfinite(k) and k == int(k) and 1 <= k <= self.d_sae

    @property
    def selects(self) -> bool:
        """Whether a number of latents is selected, so that decoder norms may take part."""
        return self.architecture.endswith("topk")


def is_folder(path: Path) -> bool:
    """Whether it looks like one SAE of SAELens."""
    return (path / CONFIG).is_file() or (path / WEIGHTS).is_file()


def read_config(folder: Path) -> SaelensConfig:
    """The config of a folder, checked as far as it can be without the tensors.

    Raises:
        UserError: if a file is missing, or it is no config of SAELens 6, or has a key that might
            change what the SAE computes.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} has no {WEIGHTS}{pickle_hint(folder)}; save it with SAELens 6")
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
    if isinstance(kept.get("dtype"), str):
        kept["dtype"] = kept["dtype"].removeprefix("torch.")
    config = from_mapping(SaelensConfig, kept, str(file))
    if config.architecture.endswith("batchtopk") and "rescale_acts_by_decoder_norm" not in kept:
        return replace(config, rescale_acts_by_decoder_norm=True)  # SAELens's own default there
    return config
