"""Loading a Hugging Face model and tokenizer: quietly, without remote code, errors on one line."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from saeworks.config import ModelConfig
from saeworks.errors import UserError, one_line
from saeworks.files.access import what_is

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(config: ModelConfig) -> tuple[Any, Any]:
    """The causal language model and the tokenizer that `config` names, on the CPU.

    A folder is read without the network. Code from the model's repository is never run. With
    `random_weights` only the model's config and tokenizer are read.

    Raises:
        UserError: if there is no such model, or it cannot be read whole.
    """
    if config.name == "embedded":
        from saeworks import embedded

        with quiet():
            model, tokenizer = embedded.load()
            if config.random_weights is not None:
                model = _random(model.config, config.random_weights)
        return torch.nn.Module.to(model, _DTYPES[config.dtype]), tokenizer
    folder = Path(config.name).expanduser()
    kind = what_is(folder)
    if kind in ("file", "other") or (kind == "none" and _looks_like_path(config.name)):
        problem = "no such folder" if kind == "none" else "not a folder"
        raise UserError(f"model {config.name!r}: {problem}; give a folder, an id or 'embedded'")
    if kind == "folder":
        _check_regular(folder)
    with quiet():
        return _from_pretrained(config, folder)


def source(name: str) -> str:
    """What Hugging Face's `from_pretrained` loads the model from."""
    if name != "embedded":
        return name
    from saeworks import embedded

    return str(embedded.MODEL_DIR)


def _from_pretrained(config: ModelConfig, folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local = what_is(folder) == "folder"
    name = str(folder) if local else config.name
    common: dict[str, Any] = {
        "revision": config.revision or "main",
        "trust_remote_code": False,
        "local_files_only": local,
    }
    load: Any = AutoModelForCausalLM.from_pretrained  # its type forgets the loading info
    hint = (
        "give a folder with a causal language model, a Hugging Face id (with network access) or "
        "'embedded'"
    )
    try:
        _check_no_adapter(config.name, name, common)
        settings = _causal_config(config.name, name, common)
        if how := getattr(settings, "quantization_config", None):
            hint = f"it is quantised ({_method(how)}); install what that needs, or use the original"
        if config.random_weights is not None:
            made = _random(settings, config.random_weights)
            tokenizer = AutoTokenizer.from_pretrained(name, **common)
            return torch.nn.Module.to(made, _DTYPES[config.dtype]), tokenizer
        model, info = load(name, dtype=_DTYPES[config.dtype], output_loading_info=True, **common)
        _check_whole(config.name, sorted(info["missing_keys"]))
        return model, AutoTokenizer.from_pretrained(name, **common)
    except UserError:
        raise
    except Exception as error:  # outside files: whatever they make the library raise is bad input
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model {config.name!r} needs Python code from its own repository, which is never "
                "run; choose a model of a kind that transformers has itself"
            ) from error
        raise UserError(
            f"model {config.name!r} could not be loaded: {one_line(error)}; {hint}"
        ) from error


def _check_no_adapter(shown: str, name: str, common: dict[str, Any]) -> None:
    """An adapter is not a model, and would be ignored beside one."""
    from transformers.utils.peft_utils import find_adapter_config_file

    where = {key: common[key] for key in ("revision", "local_files_only")}
    adapter = find_adapter_config_file(name, **where)
    if adapter is None:
        return
    base = json.loads(Path(adapter).read_text(encoding="utf-8")).get("base_model_name_or_path")
    of = f" of {str(base)[:100]!r}" if base else ""
    raise UserError(
        f"model {shown!r} is an adapter{of} (it has an adapter_config.json), not a whole model; "
        "merge the two (merge_and_unload of peft), save that, and give its folder"
    )


def _causal_config(shown: str, name: str, common: dict[str, Any]) -> Any:
    """The model's config, if it is a causal language model's."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(name, **common)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"model {shown!r} is an encoder-decoder ({config.model_type}), whose decoder alone is "
            "no language model; choose a causal (decoder-only) one"
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"model {shown!r} is of the kind {config.model_type!r}, of which transformers has no "
            "causal language model; choose a causal (decoder-only) one"
        )
    return config


def _method(quantisation: Any) -> str:
    is_plain = isinstance(quantisation, dict)
    method = quantisation.get("quant_method") if is_plain else quantisation.quant_method
    return str(getattr(method, "value", method))


def _check_regular(folder: Path) -> None:
    """Refuse a folder with a pipe or a device in it, which would be waited for without end."""
    for path in sorted(folder.iterdir()):
        if what_is(path) == "other":
            raise UserError(
                f"model {str(folder)!r}: {path.name!r} is a pipe or a device; remove it"
            )


def _random(config: Any, seed: int) -> Any:
    """A model of this config with its own initialiser's weights; the global random state stays."""
    from transformers import AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config, dtype=torch.float32)


def _check_whole(name: str, missing: list[str]) -> None:
    """Transformers would fill missing weights with random numbers and a notice."""
    if missing:
        raise UserError(
            f"model {name!r} lacks {len(missing)} weights ({', '.join(missing[:3])}); "
            "restore its files or choose another model"
        )


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the Hugging Face libraries' notices and the bars of reading weights.

    Bars of downloads stay: they are the only sign of life during minutes.
    """
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging as transformers_logging

    transformers: Any = transformers_logging  # without types
    before, hub_before = transformers.get_verbosity(), hub.get_verbosity()
    bars = transformers.is_progress_bar_enabled()
    transformers.set_verbosity(logging.CRITICAL)
    hub.set_verbosity(logging.CRITICAL)
    transformers.disable_progress_bar()
    try:
        yield
    finally:
        transformers.set_verbosity(before)
        hub.set_verbosity(hub_before)
        if bars:
            transformers.enable_progress_bar()
