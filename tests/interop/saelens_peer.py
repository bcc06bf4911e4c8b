"""Run by the Python that has sae-lens: loads our exports and writes its own.

    python saelens_peer.py read|hook|write FOLDER

`read`: FOLDER/x.safetensors holds activations by the name of a folder in FOLDER; leaves the code
and reconstruction of each in FOLDER/peer.safetensors. `hook`: runs the models that the SAEs in
FOLDER name on FOLDER/tokens.safetensors and leaves what they hook in FOLDER/peer.safetensors.
`write`: saves an SAE of every kind, for the activations x of FOLDER/x.safetensors.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKSAE,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.load_model import load_model
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file

M = 96


@torch.no_grad()
def read(folder: Path) -> None:
    out = {}
    for name, x in load_file(folder / "x.safetensors").items():
        sae = SAE.load_from_disk(folder / name)
        code = sae.encode(x)
        out[f"{name}/code"], out[f"{name}/x_hat"] = code, sae.decode(code)
    save_file(out, folder / "peer.safetensors")


@torch.no_grad()
def hook(folder: Path) -> None:
    tokens, out = load_file(folder / "tokens.safetensors")["tokens"], {}
    for place in sorted(config.parent for config in folder.glob("*/cfg.json")):
        metadata = SAE.load_from_disk(place).cfg.metadata
        model = load_model(
            metadata.model_class_name,
            metadata.model_name,
            device="cpu",
            model_from_pretrained_kwargs=metadata.model_from_pretrained_kwargs,
            hook_names=[metadata.hook_name],
        )
        _, cache = model.run_with_cache(tokens, names_filter=[metadata.hook_name])
        out[place.name] = cache[metadata.hook_name].clone()
    save_file(out, folder / "peer.safetensors")


INFERENCE: dict[str, tuple[type, type, dict[str, Any]]] = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": 7}),
    "topk_rescaled": (TopKSAE, TopKSAEConfig, {"k": 7, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
}
TRAINING: dict[str, tuple[type, type, dict[str, Any]]] = {
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig, {}),
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": 7}),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, {}),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig, {}),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": 6.5}),
    "batchtopk_raw": (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        {"k": 7, "rescale_acts_by_decoder_norm": False},
    ),
    "matryoshka": (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        {"k": 7, "matryoshka_widths": [M // 4, M]},
    ),
}


@torch.no_grad()
def write(folder: Path) -> None:
    torch.manual_seed(0)
    x = load_file(folder / "x.safetensors")["x"]
    out = {}
    for name, (cls, config, options) in INFERENCE.items():
        for subtracts in (True, False):
            sae = build(cls, config, x, {**options, "apply_b_dec_to_input": subtracts})
            place = f"inference/{name}-{subtracts}"
            sae.save_model(folder / place)
            code = sae.encode(x)
            out[f"{place}/code"], out[f"{place}/x_hat"] = code, sae.decode(code)
    for name, (cls, config, options) in TRAINING.items():
        sae = build(cls, config, x, options)
        sae.save_model(folder / f"unfinished/{name}")
        sae.save_inference_model(folder / f"finished/{name}")
        finished = SAE.load_from_disk(folder / f"finished/{name}")
        code = finished.encode(x)
        for place in (f"unfinished/{name}", f"finished/{name}"):
            out[f"{place}/code"], out[f"{place}/x_hat"] = code, finished.decode(code)
    save_file({name: tensor.clone() for name, tensor in out.items()}, folder / "peer.safetensors")


def build(cls: type, config: type, x: torch.Tensor, options: dict[str, Any]) -> SAE:
    """An SAE none of whose parameters is trivial, of sensible sparsity on x."""
    metadata = SAEMetadata(
        model_name="embedded",
        model_class_name="AutoModelForCausalLM",
        hook_name="blocks.1.hook_resid_post",
        context_size=64,
        prepend_bos=True,
        dataset_path="embedded",
    )
    sae = cls(config(d_in=x.shape[1], d_sae=M, metadata=metadata, **options))
    scale = x.std()
    sae.W_dec.mul_(0.5 + torch.rand(M, 1)).add_(0.05 * torch.randn_like(sae.W_dec))
    sae.W_enc.add_(0.05 * torch.randn_like(sae.W_enc))
    sae.b_dec.copy_(x.mean(0) + 0.1 * scale * torch.randn_like(sae.b_dec))
    for name in ("b_enc", "b_gate", "b_mag"):
        if getattr(sae, name, None) is not None:
            getattr(sae, name).copy_(0.3 * scale * torch.randn(M))
    if hasattr(sae, "r_mag"):
        sae.r_mag.copy_(0.3 * torch.randn(M))
    if hasattr(sae, "threshold"):
        sae.threshold.copy_(scale * (torch.rand(M) - 0.1))
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(float(scale))
    return sae


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"read": read, "hook": hook, "write": write}[sys.argv[1]](Path(sys.argv[2]))
