"""What a language model is, whatever it is called: the same under every version of its library."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_BETWEEN = "-"
"""Stands between the two parts of a fingerprint. One without is of an earlier version."""

_CHUNK = 1 << 22
"""Elements that are widened to 64 bits at once."""
_VOLATILE = {
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
_NOT_COMPUTED_WITH = {*_VOLATILE, "id2label", "label2id", "tie_word_embeddings", "model_type"}


def fingerprint(model: Any) -> str:
    """SHA-256 of a model's weights, and that of the settings that it computes with, shortened.

    No name is in it, and nothing that a version of transformers adds, renames, moves or stacks:

    - of all tensors with rows of n elements and one precision, the n sums over their rows of the
      elements' bits read as integers: exact, so independent of the order of summing and the
      number of threads, and changed by any one changed bit. They do not tell the order of rows;
    - of the settings that the configuration's class has, the values (of switches, with the name)
      that are not the class's own defaults.

    In about 0.5 s per GB on one core.
    """
    sums: dict[tuple[str, int], Tensor] = {}
    for tensor in _tensors(model):
        key = (str(tensor.dtype), tensor.shape[-1] if tensor.dim() else 1)
        sums_of = _column_sums(tensor)
        sums[key] = sums[key] + sums_of if key in sums else sums_of
    weights = hashlib.sha256()
    for (dtype, width), columns in sorted(sums.items()):
        if bool(columns.any()):
            weights.update(f"{dtype} {width}".encode() + columns.numpy().tobytes())
    settings = hashlib.sha256(json.dumps(_settings(model.config)).encode())
    return weights.hexdigest()[:48] + _BETWEEN + settings.hexdigest()[:15]


def unlike(recorded: object, model: Any, fingerprint: str) -> str | None:
    """Why a recorded fingerprint is not the model's `own`; None where it is."""
    if recorded == fingerprint:
        return None
    if not isinstance(recorded, str):
        return "none is recorded"
    if _BETWEEN not in recorded:
        if recorded == _earlier(model):
            return None
        return (
            "it is of an earlier version of saeworks, whose fingerprints hold under one version of "
            "transformers only, so that it may be the same model or not"
        )
    if recorded.partition(_BETWEEN)[0] != fingerprint.partition(_BETWEEN)[0]:
        return "its weights have changed"
    return "its config has changed, or this version of transformers reads it otherwise"


def _tensors(model: Any) -> Iterator[Tensor]:
    """The state's tensors, each once, without masks and indices, which versions add and drop."""
    seen = set()
    for value in model.state_dict().values():
        for tensor in _plain(value):
            key = (tensor.data_ptr(), tensor.shape)
            if tensor.dtype not in (torch.bool, torch.int64) and key not in seen:
                seen.add(key)
                yield tensor


def _plain(value: Any) -> Iterator[Tensor]:
    """The ordinary tensors in an entry of a state; quantised weights are made of several."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from _plain(part)
    elif isinstance(value, Tensor) and value.is_quantized:
        yield value.int_repr()
        per_channel = value.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        yield value.q_per_channel_scales() if per_channel else torch.tensor(value.q_scale())
    elif isinstance(value, Tensor) and hasattr(value, "__tensor_flatten__"):
        for name in value.__tensor_flatten__()[0]:
            yield from _plain(getattr(value, name))
    elif isinstance(value, Tensor):
        yield value.detach()


def _column_sums(tensor: Tensor) -> Tensor:
    """Σ over rows of the elements' bits, [n] int64, on the CPU."""
    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    rows = tensor.reshape(-1, tensor.shape[-1] if tensor.dim() else 1).contiguous()
    bits = rows.view(kinds[rows.element_size()])
    step = max(1, _CHUNK // max(1, bits.shape[1]))
    total = torch.zeros(bits.shape[1], dtype=torch.int64)
    for start in range(0, len(bits), step):
        total += bits[start : start + step].sum(0, dtype=torch.int64).cpu()
    return total


def _settings(config: Any) -> list[str]:
    """Kind of model, and its settings' values as far as they are not the defaults, sorted."""
    text = config.get_text_config()
    try:
        usual = type(text)().to_dict()
    except Exception:  # a configuration that cannot be made from nothing
        usual = dict.fromkeys(text.to_dict())
    settings = {f"kind {text.model_type}"}
    for key, value in text.to_dict().items():
        if key in usual and key not in _NOT_COMPUTED_WITH and not key.endswith(("_id", "_ids")):
            settings |= _leaves(key, value) - _leaves(key, usual[key])
    return sorted(settings)


def _leaves(key: str, value: Any) -> set[str]:
    if isinstance(value, Mapping):
        parts = value.items()
        return {leaf for name, part in parts for leaf in _leaves(str(name), part)}
    if isinstance(value, list | tuple):
        return {leaf for part in value for leaf in _leaves(key, part)}
    if isinstance(value, bool):
        return {f"{key} {value}"}
    if isinstance(value, int | float):
        return {repr(float(value))}
    return set() if value is None else {str(value)}


def _earlier(model: Any) -> str | None:
    """The fingerprint of earlier versions: of all names and settings, so it changes with the
    version of transformers. None where they had none."""
    settings = {
        key: value
        for key, value in model.config.to_dict().items()
        if key not in _VOLATILE and value is not None
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    try:
        for name, tensor in sorted(model.state_dict().items()):
            bits = _as_integers(tensor.detach())
            sample = bits[:: max(1, bits.numel() // 1024)].cpu().numpy()
            about = f"{name} {tensor.dtype} {list(tensor.shape)} {int(bits.sum())}"
            digest.update(about.encode() + sample.tobytes())
    except (AttributeError, RuntimeError):  # quantised weights
        return None
    return digest.hexdigest()


def _as_integers(tensor: Tensor) -> Tensor:
    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
    flat = tensor.contiguous().flatten()
    if flat.dtype == torch.bool:
        return flat.to(torch.uint8)
    return flat.view(kinds[flat.element_size()])
