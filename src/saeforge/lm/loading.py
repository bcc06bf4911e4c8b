"""Loading a Hugging Face model and tokenizer: quietly, without remote code, errors on one line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from saeforge.config import ModelConfig
from saeforge.errors import UserError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(config: ModelConfig) -> tuple[Any, Any]:
    """The causal language model and the tokenizer that `config` names, on the CPU.

    A folder is read without the network. Code from the model's repository is never run. With
    `random_weights` only the model's config and tokenizer are read.

    Raises:
        UserError: if there is no such model, or it cannot be read whole.
    """
    if config.name == "embedded":
        from saeforge.lm import embedded

        with quiet():
            model, tokenizer = embedded.load()
            if config.random_weights is not None:
                model = _random(model.config, config.random_weights)
        return torch.nn.Module.to(model, _DTYPES[config.dtype]), tokenizer
    folder = Path(config.name).expanduser()
    if not folder.is_dir() and _looks_like_path(config.name):
        raise UserError(
            f"model {config.name!r}: no such folder; give a folder, an id or 'embedded'"
        )
    with quiet():
        return _from_pretrained(config, folder)


def source(name: str) -> str:
    """What Hugging Face's `from_pretrained` loads the model from."""
    if name != "embedded":
        return name
    from saeforge.lm import embedded

    return str(embedded.MODEL_DIR)


def _from_pretrained(config: ModelConfig, folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    local = folder.is_dir()
    name = str(folder) if local else config.name
    common: dict[str, Any] = {
        "revision": config.revision or "main",
        "trust_remote_code": False,
        "local_files_only": local,
    }
    load: Any = AutoModelForCausalLM.from_pretrained  # its type forgets the loading info
    try:
        if config.random_weights is not None:
            made = _random(AutoConfig.from_pretrained(name, **common), config.random_weights)
            tokenizer = AutoTokenizer.from_pretrained(name, **common)
            return torch.nn.Module.to(made, _DTYPES[config.dtype]), tokenizer
        model, info = load(name, dtype=_DTYPES[config.dtype], output_loading_info=True, **common)
        _check_whole(config.name, sorted(info["missing_keys"]))
        return model, AutoTokenizer.from_pretrained(name, **common)
    except UserError:
        raise
    except Exception as error:  # outside files: whatever they make the library raise is bad input
        raise UserError(
            f"model {config.name!r} could not be loaded: {one_line(error)}; give a folder with a "
            "causal language model, a Hugging Face id (with network access) or 'embedded'"
        ) from error


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


def one_line(error: BaseException, limit: int = 240) -> str:
    """An exception's text on one line, at most about `limit` characters of it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) > limit:
        text = text[:limit].rsplit(" ", 1)[0] + " …"
    return text.rstrip(".;: ")


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
