"""EleutherAI's sparsify, read: a folder per hookpoint, `cfg.json` and `sae.safetensors`.

Shapes there: encoder.weight [M, D], encoder.bias [M], W_dec [M, D], b_dec [D]. With
`activation` topk,

    f = TopK_k(ReLU((x − b_dec)·encoder.weightᵀ + encoder.bias)),  x̂ = f·W_dec + b_dec,

which is our `topk`. The folder is named as the module, relative to the base model, whose output x
is; several seeds are folders `seed0`, … within it. The run's `config.json` lies beside the
hookpoints. Checked against eai-sparsify 1.3.
"""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from saeworks.config import (
    STRICT,
    ModelConfig,
    TextConfig,
    from_mapping,
)
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.files.access import read_json, read_tensors
from saeworks.interop.base import Foreign
from saeworks.interop.tensors import built, check

CONFIG, WEIGHTS, RUN = "cfg.json", "sae.safetensors", "config.json"

TRAINING_ONLY = frozenset(
    {"normalize_decoder", "multi_topk", "lookup_max_order", "gram_table_hash"}
)
"""Keys of cfg.json that cannot change what a finished SAE computes; any other unknown key might."""

LARGEST = 2**31
"""No size is larger: products of sizes can be written in a message."""


@dataclass(frozen=True, config=STRICT)
class SparsifyConfig:
    """The keys of cfg.json that say what an SAE computes."""

    d_in: int
    k: int
    num_latents: int = 0
    expansion_factor: int = 0
    activation: Literal["topk", "groupmax"] = "topk"
    transcode: bool = False
    skip_connection: bool = False
    signed: bool = False
    embed_skip: bool = False
    gram_lookup: bool = False

    def __post_init__(self) -> None:
        if self.activation != "topk":
            raise UserError(f"activation = {self.activation!r} has no counterpart here; 'topk' has")
        for key in ("transcode", "skip_connection", "signed", "embed_skip", "gram_lookup"):
            if getattr(self, key):
                raise UserError(f"{key} = true has no counterpart here; give an SAE without it")
        sizes = (self.d_in, self.num_latents, self.expansion_factor)
        if not (self.d_in > 0 and self.width > 0 and min(sizes) >= 0 and max(sizes) < LARGEST):
            raise UserError(
                "d_in and num_latents (or, where that is 0, expansion_factor) must be positive "
                "and below 2³¹"
            )
        if not 1 <= self.k <= self.width:
            raise UserError(
                f"k = {self.k}: it must be a whole number from 1 to num_latents, {self.width}"
            )

    @property
    def width(self) -> int:
        """M."""
        return self.num_latents or self.d_in * self.expansion_factor


def is_folder(path: Path) -> bool:
    """Whether it looks like one SAE of sparsify."""
    return (path / WEIGHTS).is_file()


def load(folder: Path) -> Foreign:
    """The SAE of a folder, on raw activations, with what its name and its run's config say.

    Raises:
        UserError: if a file is missing or unreadable, the config contradicts the tensors or asks
            for what has no counterpart here, or a tensor is missing, too many, ill-shaped, not of
            floats, or not finite.
    """
    sae = _read(folder)
    place = Path(os.path.abspath(folder))  # `.` has no name
    hookpoint = place.parent if re.fullmatch(r"seed\d+", place.name) else place
    model, text = _run(hookpoint.parent / RUN)
    return Foreign(
        folder, sae, variant="sparsify-topk", model=model, hook=hookpoint.name, text=text
    )


def _read(folder: Path) -> SAE:
    config = _config(folder / CONFIG)
    d, m = config.d_in, config.width
    tensors = read_tensors(folder / WEIGHTS)
    shapes = {
        "encoder.weight": (m, d),
        "encoder.bias": (m,),
        "W_dec": (m, d),
        "b_dec": (d,),
    }
    because = f"d_in {d} and num_latents {m} of {CONFIG} make it"
    check(folder / WEIGHTS, tensors, shapes, "a sparsify", because)
    parameters = {ours: tensors[theirs].float() for ours, theirs in _NAMES.items()}
    return built("topk", d, {"width": m, "k": config.k}, parameters)


_NAMES = {
    "w_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "w_dec": "W_dec",
    "b_dec": "b_dec",
}


def _config(file: Path) -> SparsifyConfig:
    data = read_json(file, "sparsify config")
    if not isinstance(data, dict):
        raise UserError(f"{file} must hold a JSON object, not a {type(data).__name__}")
    kept = {key: value for key, value in data.items() if key not in TRAINING_ONLY}
    return from_mapping(SparsifyConfig, kept, str(file))


def _run(file: Path) -> tuple[ModelConfig | None, TextConfig | None]:
    """The language model and the text of a run's config, None where there is no such file."""
    data = read_json(file, "sparsify run config") if file.is_file() else None
    if not (isinstance(data, dict) and isinstance(data.get("sae"), dict)):
        return None, None  # another program's config.json
    options = {ours: data[theirs] for ours, theirs in _TEXT.items() if data.get(theirs) is not None}
    text = from_mapping(TextConfig, {"source": "", **options}, f"{file}: text")
    if text.source.endswith(".bin"):  # tokens, not text
        text = replace(text, source="")
    if data.get("model") is None:
        return None, text
    named = {"name": data["model"], "revision": data.get("revision")}
    return from_mapping(ModelConfig, named, f"{file}: model"), text


_TEXT = {"source": "dataset", "split": "split", "column": "text_column", "context": "ctx_len"}
