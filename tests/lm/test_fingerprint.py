"""A model's fingerprint is its own, whatever its library calls its parts."""

from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from helpers.threads import torch_threads
from helpers.toy_suites import written_suite
from helpers.toys import saved_llama, tiny_llama
from saeworks.config import ModelConfig
from saeworks.errors import UserError
from saeworks.lm.fingerprint import (
    _earlier,
    _settings,
    fingerprint,
    unlike,
)
from saeworks.lm.model import LanguageModel
from saeworks.measure.asked import check_fingerprint
from saeworks.suite import load_suite

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def build(config: Any = None) -> Any:
    torch.manual_seed(0)
    made: Any = AutoModelForCausalLM.from_config(config or LlamaConfig(**SIZES))
    return made


class Renamed(nn.Module):
    """The weights of a model under other names, with masks and indices beside them, as other
    versions of transformers keep them."""

    def __init__(self, model: nn.Module, tied: bool = False) -> None:
        super().__init__()
        self.config: Any = deepcopy(model.config)
        for number, parameter in enumerate(reversed(list(model.parameters()))):
            self.register_parameter(f"weight_{number}", nn.Parameter(parameter.detach().clone()))
        self.register_buffer("mask", torch.ones(4, 4, dtype=torch.bool).tril())
        self.register_buffer("position_ids", torch.arange(32))
        if tied:
            self.again = self.weight_0


class Stacked(nn.Module):
    """The same with the matrices of a width one above the other, as experts are stacked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.config: Any = model.config
        by_width: dict[tuple[int, int], list[Tensor]] = {}
        for parameter in model.parameters():
            by_width.setdefault((parameter.dim(), parameter.shape[-1]), []).append(parameter)
        for (dim, width), parts in by_width.items():
            whole = torch.cat(parts) if dim > 1 else torch.stack(parts)
            self.register_parameter(f"stack_{dim}_{width}", nn.Parameter(whole.detach()))


def test_no_name_and_no_stacking_is_in_it() -> None:
    model = build()
    assert fingerprint(Renamed(model)) == fingerprint(Renamed(model, tied=True))
    assert fingerprint(Renamed(model)) == fingerprint(Stacked(model)) == fingerprint(model)


def test_any_changed_bit_changes_it() -> None:
    model = build()
    first = fingerprint(model)
    for parameter in (model.model.layers[1].mlp.up_proj.weight, model.model.norm.weight):
        row = parameter.detach().flatten()
        before = row[3].clone()
        row[3] = torch.nextafter(before, torch.tensor(9.0))
        assert unlike(first, model, fingerprint(model)) == "its weights have changed"
        row[3] = before
    assert fingerprint(model) == first
    parameter = model.model.layers[0].mlp.down_proj.weight.detach()
    parameter[:, [0, 1]] = parameter[:, [1, 0]]
    assert fingerprint(model) != first
    assert fingerprint(model.bfloat16()) != fingerprint(model.float())


def test_settings_of_the_config_are_in_it_and_others_are_not() -> None:
    model = build()
    first = fingerprint(model)
    settings = {"rms_norm_eps": 1e-3, "hidden_act": "gelu", "attention_bias": True}
    for key, value in settings.items():
        other = deepcopy(model)
        setattr(other.config, key, value)
        reason = unlike(first, other, fingerprint(other))
        assert (
            reason == "its config has changed, or this version of transformers reads it otherwise"
        )
    other = deepcopy(model)
    other.config.rope_parameters = {"rope_type": "default", "rope_theta": 77.0}
    assert fingerprint(other) != first
    other = deepcopy(model)
    other.config.unknown_here = 5  # what another version writes, and this one does not read
    other.config.pad_token_id = 7
    other.config.transformers_version = "5.0.0"
    assert fingerprint(other) == first


class Before:
    """A configuration in one version of transformers."""

    model_type = "mine"
    defaults: ClassVar[dict[str, Any]] = {"rotary_pct": 0.25, "heads": 4, "parallel": True}

    def __init__(self, **settings: Any) -> None:
        self.settings = {**self.defaults, **settings}

    def to_dict(self) -> dict[str, Any]:
        return self.settings

    def get_text_config(self) -> "Before":
        return self


class After(Before):
    """In the next: one setting has moved into another, one has a new name, one is new."""

    defaults: ClassVar[dict[str, Any]] = {
        "rope_parameters": {"rope_type": "default", "factor": 0.25},
        "num_heads": 4,
        "parallel": True,
        "clamp": 7.0,
        "layer_types": ["full", "full"],
    }


def test_a_setting_may_move() -> None:
    assert _settings(Before()) == _settings(After()) == ["kind mine"]
    old = _settings(Before(rotary_pct=0.5, heads=8, parallel=False, transformers_version="5"))
    rope = {"rope_type": "default", "factor": 0.5}
    assert old == _settings(After(rope_parameters=rope, num_heads=8, parallel=False, other=3))
    assert old == ["0.5", "8.0", "kind mine", "parallel False"]
    assert old != _settings(After(rope_parameters=rope, num_heads=8, parallel=False, clamp=6))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_matter(threads: int) -> None:
    with torch_threads(threads):
        assert fingerprint(build()) == LanguageModel.wrap(build(), None).fingerprint


def test_those_of_earlier_versions_are_recognised() -> None:
    lm = tiny_llama()
    old = _earlier(lm.model)
    assert old is not None and "-" not in old
    assert lm.unlike(old) is None and lm.unlike(lm.fingerprint) is None
    assert "may be the same model or not" in str(lm.unlike("0" * 64))
    assert lm.unlike(None) == "none is recorded"


def test_a_suite_of_an_earlier_version_is_known(tmp_path: Path) -> None:
    saved_llama(tmp_path / "model")
    suite = load_suite(written_suite(tmp_path / "suite", tmp_path / "model"))
    lm = LanguageModel.load(ModelConfig(name=str(tmp_path / "model")))
    check_fingerprint(suite, lm)
    recorded: Any = suite.meta["model"]
    recorded["fingerprint"] = _earlier(lm.model)
    check_fingerprint(suite, lm)
    recorded["fingerprint"] = "0" * 64
    with pytest.raises(UserError, match=r"fingerprint 000000000000, but .* an earlier version"):
        check_fingerprint(suite, lm)
