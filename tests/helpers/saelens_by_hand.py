"""SAELens's format and arithmetic, written down from its definition and from nothing of ours."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

D, M = 16, 24
BIASES = {
    "standard": ["b_enc"],
    "topk": ["b_enc"],
    "jumprelu": ["b_enc", "threshold"],
    "gated": ["b_gate", "b_mag", "r_mag"],
}


def config(architecture: str, **changes: Any) -> dict[str, Any]:
    """A whole cfg.json."""
    options = {"k": 5, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}
    metadata = {
        "sae_lens_version": "6.54.12",
        "sae_lens_training_version": "6.54.12",
        "model_name": "embedded",
        "model_class_name": "HookedTransformer",
        "hook_name": "blocks.1.hook_resid_post",
        "hook_head_index": None,
        "context_size": 64,
        "prepend_bos": True,
        "dataset_path": "embedded",
        "seqpos_slice": [None],
    }
    return {
        "architecture": architecture,
        "d_in": D,
        "d_sae": M,
        "dtype": "float32",
        "device": "cuda",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
        **options,
        **changes,
    }


def tensors(architecture: str, d: int = D, seed: int = 0) -> dict[str, Tensor]:
    """Parameters none of which is trivial; decoder rows of many norms."""
    random = torch.Generator().manual_seed(seed)
    found = {
        "W_enc": torch.randn(d, M, generator=random),
        "W_dec": torch.randn(M, d, generator=random) * (0.2 + torch.rand(M, 1, generator=random)),
        "b_dec": torch.randn(d, generator=random),
    }
    for name in BIASES[architecture]:
        found[name] = 0.5 * torch.randn(M, generator=random)
    return found


def save(folder: Path, cfg: Any, weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(cfg if isinstance(cfg, str) else json.dumps(cfg))
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


def code(cfg: dict[str, Any], w: dict[str, Tensor], x: Tensor) -> Tensor:
    """f, as SAELens computes it."""
    centred = x - w["b_dec"] if cfg["apply_b_dec_to_input"] else x
    if cfg["architecture"] == "gated":
        gate = centred @ w["W_enc"] + w["b_gate"]
        magnitude = centred @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]
        return (gate > 0) * magnitude.relu()
    z = centred @ w["W_enc"] + w["b_enc"]
    if cfg["architecture"] == "topk":
        if cfg["rescale_acts_by_decoder_norm"]:
            z = z * w["W_dec"].norm(dim=1)
        top = z.topk(cfg["k"], dim=1)
        return torch.zeros_like(z).scatter(1, top.indices, top.values.relu())
    if cfg["architecture"] == "jumprelu":
        return z.relu() * (z > w["threshold"])
    return z.relu()


def reconstruction(cfg: dict[str, Any], w: dict[str, Tensor], f: Tensor) -> Tensor:
    if cfg.get("rescale_acts_by_decoder_norm"):
        f = f / w["W_dec"].norm(dim=1)
    return f @ w["W_dec"] + w["b_dec"]


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    cfg = json.loads((folder / "cfg.json").read_text())
    return cfg, load_file(folder / "sae_weights.safetensors")
