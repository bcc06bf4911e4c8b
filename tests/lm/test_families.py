"""Aliases mean what is added to the residual stream, in families that do it differently, or are
refused; what is no site is named; what is no causal language model is refused."""

import importlib.util
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from helpers.toys import saved_llama
from saeworks.config import ModelConfig
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel

ROOT = Path(__file__).resolve().parents[2]
VARIED = (
    "gpt2",
    "bloom",
    "gptj",
    "falcon",
    "gemma2",
    "olmo2",
    "glm4",
    "granite",
    "opt",
    "openai-gpt",
    "llama4_text",
    "gemma3n_text",
    "gemma4_text",
    "mamba",
    "falcon_h1",
    "lfm2",
    "qwen3_moe",
    "hrm_text",
    "bert",
)


def of_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("families", ROOT / "docs" / "families.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


families = of_docs()


def built(family: str, **options: Any) -> LanguageModel:
    lm: LanguageModel = families.tiny(families.configuration(family, **options))
    return lm


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(8, 100, (2, 11), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", VARIED)
def test_the_page_says_what_is_found(family: str) -> None:
    page = families.PAGE.read_text(encoding="utf-8").splitlines()
    for name, cells in families.rows([family]):
        assert families.line(name, cells) in page


@pytest.mark.parametrize(
    ("family", "attn", "mlp"),
    [
        ("bloom", "self_attention.dense", "mlp.dense_4h_to_h"),
        ("gptj", "attn", "mlp"),
        ("olmo2", "post_attention_layernorm", "post_feedforward_layernorm"),
        ("exaone4", "post_attention_layernorm", "post_feedforward_layernorm"),
        ("glm4", "post_self_attn_layernorm", "post_mlp_layernorm"),
        ("xglm", "self_attn", "fc2"),
        ("lfm2_moe", "self_attn", "feed_forward"),
    ],
)
def test_an_alias_is_what_is_added(family: str, attn: str, mlp: str, tokens: Tensor) -> None:
    lm = built(family)
    block = lm.blocks[1]
    assert lm.sites(["1@attn", "1@mlp"]) == [f"{block}.{attn}", f"{block}.{mlp}"]
    x = lm.capture(tokens, [block, f"{block}@in", f"{block}.{attn}", f"{block}.{mlp}"])
    added = x[f"{block}.{attn}"] + x[f"{block}.{mlp}"]
    torch.testing.assert_close(x[block], x[f"{block}@in"] + added)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("granite", "1 × its input + 0.22 × self_attn + 0.22 × mlp"),
        ("openai-gpt", "what its ln_2 does, which stands behind the sum"),
        ("falcon_h1", "the block adds three: self_attn, feed_forward and mamba"),
        ("doge", "does not give its input plus"),
        ("hrm_text", "runs 6 times in one pass"),
        ("gemma3n_text", "gives [4, 3, 7, 32] for 3 × 7 tokens"),
    ],
)
def test_an_alias_that_is_not_what_is_added_is_refused(
    family: str, reason: str, tokens: Tensor
) -> None:
    lm = built(family)
    for pattern in ("1@attn", "*@attn", "*@mlp"):
        with pytest.raises(UserError, match=re.escape(reason)) as error:
            lm.sites([pattern])
        assert repr(pattern) not in str(error.value).partition("use ")[2]
        assert "\n" not in str(error.value)
    if family == "granite":
        assert "'layers.*.mlp'" in str(error.value)
        assert lm.capture(tokens, ["layers.1.mlp"])["layers.1.mlp"].shape == (2, 11, 32)


def test_a_scaled_residual_stream_is_noticed(tokens: Tensor) -> None:
    """A buffer that is 1 when a model is made and something else when it is trained."""
    model = AutoModelForCausalLM.from_config(
        families.configuration("gemma4_text", hidden_size_per_layer_input=0)
    )
    lm = LanguageModel.wrap(model, None)
    assert lm.sites(["1@attn"]) == ["layers.1.post_attention_layernorm"]
    with torch.no_grad():
        model.model.layers[1].layer_scalar.fill_(0.5)
    lm = LanguageModel.wrap(model, None)
    assert lm.sites(["0@attn"]) == ["layers.0.post_attention_layernorm"]
    with pytest.raises(UserError, match=r"gives 0.5 × its input \+ 0.5 ×"):
        lm.sites(["1@attn"])
    assert lm.sites(["*@mlp"]) == [f"layers.{i}.post_feedforward_layernorm" for i in (0, 2)]
    assert "1@mlp (layers.1: the block gives 0.5" in str(lm.left_out(["*@mlp"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_check_holds_in_every_precision(dtype: torch.dtype) -> None:
    model = built("gemma2").model.to(dtype)
    lm = LanguageModel.wrap(model, None)
    assert lm.sites(["1@mlp"]) == ["layers.1.post_feedforward_layernorm"]


def test_an_unknown_alias_is_not_its_own_hint() -> None:
    lm = built("opt")
    assert lm.sites(["1@attn"]) == ["decoder.layers.1.self_attn"]
    with pytest.raises(UserError, match=r"decoder.layers.0.fc2, but it gives \[21, 32\]") as error:
        lm.sites(["*@mlp"])
    assert "use decoder.layers.*, *@resid" in str(error.value)


def test_shared_and_oddly_shaped_modules_are_no_sites(tokens: Tensor) -> None:
    lm = built("gpt2")
    with pytest.raises(UserError, match=r"'wpe' cannot be used: it gives \[1, 7, 32\] for 3 × 7"):
        lm.sites(["wpe"])
    with pytest.raises(UserError, match=r"'wte@in' cannot be used: it gives .* of int64"):
        lm.width("wte@in")
    assert lm.sites(["*"]) == ["wte", "drop", "ln_f"]
    assert "wpe (it gives [1, 7, 32]" in str(lm.left_out(["*"])) and lm.left_out(["h.*"]) is None
    shared = built("openai-gpt")  # all its blocks have one activation module
    assert shared.width("h.1") == 32
    with pytest.raises(UserError, match=r"runs 3 times in one pass .it is h.0.mlp.act, too"):
        shared.sites(["h.1.mlp.act"])
    with pytest.raises(UserError, match=r"selects only what is no site, such as 'h.0.mlp.act'"):
        shared.sites(["h.*.mlp.act"])


class _Odd(nn.Module):
    """In the place of an MLP: one that gives no tensor, or something else on other tokens."""

    def __init__(self, inner: nn.Module, kind: str) -> None:
        super().__init__()
        self.inner, self.kind, self.outer = inner, kind, nn.Identity()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.kind == "twice, later" and self.calls > 1:
            self.outer(x)
        given = {"empty": (), "none": (None, x), "dict": {"x": x}, "integer": x.long()}
        self.outer(given.get(self.kind, x))
        return self.inner(x)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "it gives no tensor"),
        ("none", "it gives no tensor"),
        ("dict", "it gives a dict"),
        ("integer", "of int64"),
        ("twice, later", "runs more than once in one pass"),
    ],
)
def test_what_is_no_tensor_is_named(kind: str, reason: str, tokens: Tensor) -> None:
    model = built("llama").model
    model.model.layers[1].mlp = _Odd(model.model.layers[1].mlp, kind)
    lm = LanguageModel.wrap(model, None)
    with pytest.raises(UserError, match=reason) as error:
        lm.run(tokens, {"layers.1.mlp.outer": lambda x: None}, logits=True)
    assert "layers.1.mlp.outer" in str(error.value)
    assert lm.sites(["1@mlp"]) == ["layers.1.mlp"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "xlnet", "cpmant"])
def test_what_sees_later_tokens_is_refused(family: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(families.configuration(family)).to(dtype)
    with pytest.raises(UserError, match="'custom': its predictions depend on tokens that come"):
        LanguageModel.wrap(model, None)


def test_a_model_that_wants_more_than_tokens_is_refused() -> None:
    model = built("xmod", default_language="en_XX", is_decoder=True).model
    model.config.default_language = None
    with pytest.raises(UserError, match="does not run on tokens alone: Input language unknown"):
        LanguageModel.wrap(model, None)


def test_quantised_weights(tokens: Tensor) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(families.configuration("llama"))
    with warnings.catch_warnings(action="ignore"):  # torch means to move this elsewhere
        small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    lm = LanguageModel.wrap(small, None)
    assert lm.sites(["1@attn", "1@mlp"]) == ["layers.1.self_attn", "layers.1.mlp"]
    assert lm.capture(tokens, ["layers.1"])["layers.1"].shape == (2, 11, 32)
    assert lm.fingerprint != LanguageModel.wrap(model, None).fingerprint


def test_folders_that_hold_no_causal_model(tmp_path: Path) -> None:
    from transformers import BartConfig, ViTConfig

    folders = {name: tmp_path / name for name in ("bart", "vit", "adapter", "code")}
    BartConfig(d_model=16).save_pretrained(folders["bart"])
    ViTConfig(hidden_size=16).save_pretrained(folders["vit"])
    for name in ("adapter", "code"):
        saved_llama(folders[name])
    (folders["adapter"] / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "meta-llama/Llama-3.2-1B", "peft_type": "LORA"}'
    )
    (folders["code"] / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", '
        '"AutoModelForCausalLM": "mine.M"}}'
    )
    reasons = {
        "bart": r"is an encoder-decoder \(bart\)",
        "vit": "is of the kind 'vit', of which transformers has no causal language model",
        "adapter": "is an adapter of 'meta-llama/Llama-3.2-1B' .* merge the two",
        "code": "needs Python code from its own repository, which is never run",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as error:
            LanguageModel.load(ModelConfig(name=str(folders[name])))
        assert "\n" not in str(error.value)
    (folders["adapter"] / "config.json").unlink()  # as adapters are published
    with pytest.raises(UserError, match=reasons["adapter"]):
        LanguageModel.load(ModelConfig(name=str(folders["adapter"])))
