"""Capture, early stop and splice in six families of tiny random models."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers.families import FAMILIES, LAYERS, VOCABULARY, D, build
from helpers.toys import saved_llama
from saeworks.config import ModelConfig
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError
from saeworks.lm.fingerprint import fingerprint
from saeworks.lm.model import LanguageModel, next_token_nats

MEANING = {
    "gpt2": ("h.1", "h.1.attn", "h.1.mlp"),
    "neox-parallel": ("layers.1", "layers.1.attention", "layers.1.mlp"),
    "neox-serial": ("layers.1", "layers.1.attention", "layers.1.mlp"),
    "llama": ("layers.1", "layers.1.self_attn", "layers.1.mlp"),
    "gpt-neo": ("h.1", "h.1.attn", "h.1.mlp"),
    "gemma-2": (
        "layers.1",
        "layers.1.post_attention_layernorm",
        "layers.1.post_feedforward_layernorm",
    ),
    "qwen-2": ("layers.1", "layers.1.self_attn", "layers.1.mlp"),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lm(family: str) -> LanguageModel:
    return build(family)


@pytest.fixture(scope="module")
def llama() -> LanguageModel:
    return build("llama")


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))


def test_aliases_mean_the_same_in_every_family(lm: LanguageModel, family: str) -> None:
    resid, attn, mlp = MEANING[family]
    assert lm.sites(["1@resid"]) == [resid]
    assert lm.sites(["1@attn"]) == [attn]
    assert lm.sites(["1@mlp"]) == [mlp]
    stem = resid.partition(".")[0]
    blocks = [f"{stem}.{layer}" for layer in range(LAYERS)]
    assert lm.sites(["*@resid"]) == lm.sites([f"{stem}.*"]) == blocks
    assert lm.sites(["1@mlp@in"]) == [f"{stem}.1.mlp@in"]
    assert lm.sites(["1@resid@in"]) == [f"{stem}.1@in"]
    assert [lm.width(site) for site in blocks] == [D] * LAYERS


def test_residual_stream_is_the_sum_of_what_is_added(
    lm: LanguageModel, tokens: torch.Tensor
) -> None:
    sites = lm.sites(["*@resid", "*@resid@in", "*@attn", "*@mlp"])
    x = lm.capture(tokens, sites)
    for layer in range(LAYERS):
        resid, attn, mlp = (lm.sites([f"{layer}@{kind}"])[0] for kind in ("resid", "attn", "mlp"))
        before = x[f"{resid}@in"]
        torch.testing.assert_close(x[resid], before + x[attn] + x[mlp])
        if layer:
            assert torch.equal(before, x[lm.sites([f"{layer - 1}@resid"])[0]])


def test_capture_equals_hidden_states(lm: LanguageModel, tokens: torch.Tensor) -> None:
    blocks = lm.sites(["*@resid"])
    hidden = lm.model(tokens, output_hidden_states=True).hidden_states
    found = lm.capture(tokens, blocks)
    for layer in range(LAYERS - 1):  # the last one is given after the final norm
        torch.testing.assert_close(found[blocks[layer]], hidden[layer + 1])


def test_capture_stops_right_after_the_last_needed_module(
    lm: LanguageModel, tokens: torch.Tensor
) -> None:
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda _m, _a, _o, name=name: ran.append(name))
        for name, module in lm.base.named_modules()
        if name
    ]
    blocks, head = lm.sites(["*@resid"]), lm.model.get_output_embeddings()
    handles.append(head.register_forward_hook(lambda *_: ran.append("head")))
    lm.capture(tokens, blocks[:2])
    assert [name for name in ran if name in blocks] == blocks[:2]
    assert not [name for name in ran if name.startswith(blocks[2]) or name == "head"]
    ran.clear()
    lm.capture(tokens, [f"{blocks[1]}@in"])
    assert not [name for name in ran if name.startswith(blocks[1])]
    ran.clear()
    lm.run(tokens, {blocks[0]: lambda x: None}, logits=True)
    assert [name for name in ran if name in blocks] == blocks and "head" in ran
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("kind", ["resid", "attn", "mlp", "resid@in", "attn@in", "mlp@in"])
def test_splices(lm: LanguageModel, tokens: torch.Tensor, kind: str) -> None:
    site = lm.sites([f"1@{kind}"])[0]
    clean = lm.run(tokens, logits=True)
    x = lm.capture(tokens, [site])[site]
    assert clean is not None
    itself = lm.run(tokens, {site: lambda x: x.clone()}, logits=True)
    observed = lm.run(tokens, {site: lambda x: None}, logits=True)
    assert torch.equal(clean, itself) and torch.equal(clean, observed)  # type: ignore[arg-type]
    for other in (torch.zeros_like(x), x.mean((0, 1)).expand_as(x)):
        spliced = lm.run(tokens, {site: partial(lambda other, _x: other, other)}, logits=True)
        assert spliced is not None and (spliced - clean).abs().max() > 1e-4
    last = lm.run(tokens, logits=True)
    assert last is not None and torch.equal(last, clean)  # no hook stays behind


@pytest.mark.parametrize("kind", ["resid", "attn", "mlp"])
def test_a_reconstruction_with_its_error_is_the_clean_pass(
    lm: LanguageModel, tokens: torch.Tensor, kind: str
) -> None:
    """Splicing x̂ + (x − x̂) leaves the logits as they were, to rounding."""
    site = lm.sites([f"1@{kind}"])[0]
    x = lm.capture(tokens, [site])[site]
    x_hat = x + x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    clean = lm.run(tokens, logits=True)
    both = lm.run(tokens, {site: lambda x: x_hat + (x - x_hat)}, logits=True)
    alone = lm.run(tokens, {site: lambda x: x_hat}, logits=True)
    torch.testing.assert_close(both, clean, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone, clean, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


def test_gradients_flow_through_a_splice(lm: LanguageModel, tokens: torch.Tensor) -> None:
    site = lm.sites(["1@resid"])[0]
    x_hat = lm.capture(tokens, [site])[site].requires_grad_()

    def score(change: torch.Tensor | float) -> torch.Tensor:
        logits = lm.run(tokens, {site: lambda _x: x_hat + change}, logits=True)
        assert logits is not None
        return (logits[:, :-1].double() ** 2).sum()

    score(0.0).backward()
    gradient = x_hat.grad
    assert gradient is not None and gradient.norm() > 0
    assert gradient[:, -1].abs().max() == 0  # the last position is not in the score
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        rise = (score(step) - score(-step)) / 2
    torch.testing.assert_close(float((gradient * step).sum()), float(rise), rtol=0.01, atol=0.0)


def test_a_clean_pass_builds_no_graph(llama: LanguageModel, tokens: torch.Tensor) -> None:
    logits = llama.run(tokens, logits=True)
    assert logits is not None and not logits.requires_grad
    assert not llama.model.training


def test_cross_entropy(llama: LanguageModel, tokens: torch.Tensor) -> None:
    logits = llama.model(tokens).logits
    expected = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(llama.cross_entropy(tokens), expected)
    torch.testing.assert_close(next_token_nats(logits, tokens, rows=5), expected)
    wide = next_token_nats(logits.bfloat16(), tokens)
    assert wide.dtype == torch.float32


def test_attention_mask_hides_padding_on_the_left(
    llama: LanguageModel, tokens: torch.Tensor
) -> None:
    pad = torch.full((2, 3), 7)
    mask = torch.cat([torch.zeros(2, 3), torch.ones(2, 12)], 1).long()
    site = llama.sites(["2@resid"])[0]
    padded = torch.cat([pad, tokens], 1)
    alone = llama.capture(tokens, [site])[site]
    masked = llama.capture(padded, [site], attention_mask=mask)[site][:, 3:]
    torch.testing.assert_close(masked, alone, rtol=1e-3, atol=1e-4)
    unmasked = llama.capture(padded, [site])[site][:, 3:]
    assert (unmasked - alone).abs().max() > 1e-3


def test_patterns(llama: LanguageModel) -> None:
    assert llama.sites(["layers.*.mlp"]) == [f"layers.{i}.mlp" for i in range(LAYERS)]
    assert llama.sites(["layers.*@in"]) == [f"layers.{i}@in" for i in range(LAYERS)]
    assert llama.sites(["layers.2", "0@resid", "layers.2"]) == ["layers.0", "layers.2"]
    mixed = llama.sites(["1@resid", "1@mlp", "1@resid@in", "embed_tokens"])
    assert mixed == ["embed_tokens", "layers.1@in", "layers.1.mlp", "layers.1"]
    assert all(name.count(".") == 1 for name in llama.sites(["layers.*"]))


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("layer.1", "layers.1"),
        ("h.*", "layers.*"),
        ("7@resid", "2@resid"),
        ("layers.1.mpl", "layers.1.mlp"),
        ("zzz", "*@resid"),
        ("1@router", "*@resid"),
        ("", "*@resid"),
        ("layers", "of each, say layers.*"),
    ],
)
def test_unknown_pattern_lists_the_nearest(llama: LanguageModel, pattern: str, near: str) -> None:
    with pytest.raises(UserError, match="nearest") as error:
        llama.sites([pattern])
    assert near in str(error.value) and repr(pattern) in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_input_to_a_pass(llama: LanguageModel, tokens: torch.Tensor) -> None:
    with pytest.raises(UserError, match="longer than the 32"):
        llama.run(torch.zeros(1, 33, dtype=torch.long), logits=True)
    with pytest.raises(UserError, match="token 50 is outside the vocabulary of 50"):
        llama.run(torch.full((1, 2), 50), logits=True)
    with pytest.raises(
        UserError, match=r"'embed_tokens@in' cannot be used: it gives \[3, 7\] of int64"
    ):
        llama.capture(tokens, ["embed_tokens@in"])
    with pytest.raises(UserError, match=r"shape \[1\], not \[2, 12, 16\]"):
        llama.run(tokens, {"layers.0": lambda x: torch.zeros(1)}, logits=True)
    with pytest.raises(UserError, match="is a pattern"):
        llama.run(tokens, {"layers.*": lambda x: None})
    with pytest.raises(UserError, match=r"'layers.\*' is \d+ sites .*give \['layers.\*'\]"):
        llama.capture(tokens, "layers.*")
    with pytest.raises(UserError, match="no tokenizer"):
        llama.capture("w1", "layers.0")


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([[1, -100]], "token -100 is outside the vocabulary of 50"),
        ([1, 2], r"\[2\] of int64 is no token ids"),
        ([[1.0, 2.0]], r"\[1, 2\] of float32 is no token ids"),
        ([[True, False]], r"\[1, 2\] of bool is no token ids"),
        ([[1, 2], [3]], "a list is no tensor of token ids"),
        ([[], []], r"\[2, 0\]"),
        (None, "None is no tensor of token ids"),
    ],
)
def test_what_is_no_token_ids_is_refused(llama: LanguageModel, tokens: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        llama._checked(tokens)
    assert "\n" not in str(error.value)


def test_token_ids_of_any_whole_type_are_the_same(llama: LanguageModel) -> None:
    ids = torch.tensor([[1, 2, 3]])
    nats, x = llama.cross_entropy(ids), llama.capture(ids, "layers.0")
    assert torch.equal(llama.cross_entropy(ids.int()), nats)
    assert torch.equal(llama.capture(ids.short(), "layers.0"), x)
    assert torch.equal(llama.capture([[1, 2, 3]], "layers.0"), x)


@pytest.mark.parametrize("begin", ["w0", "w0 w0", " w0", "w0 \n w0"])
def test_a_text_that_brings_its_bos_has_one(tmp_path: Path, begin: str) -> None:
    saved_llama(tmp_path)
    lm = LanguageModel.load(str(tmp_path))
    assert lm.tokens(f"{begin} w5").tolist() == [[0, 5]]
    assert lm.tokens("w5 w0").tolist() == [[0, 5]]
    assert lm.tokens("w5 w0 w6").tolist() == [[0, 5, 0, 6]]


def test_bfloat16_takes_a_float32_replacement(tokens: torch.Tensor) -> None:
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"]()).bfloat16()
    lm = LanguageModel.wrap(model, None)
    logits = lm.run(tokens, {"layers.1": lambda x: x.float()}, logits=True)
    plain = lm.run(tokens, logits=True)
    assert logits is not None and plain is not None and torch.equal(logits, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_an_sae_stands_in_for_a_site_whatever_the_models_precision(
    tokens: torch.Tensor, dtype: torch.dtype
) -> None:
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"]()).to(dtype)
    lm = LanguageModel.wrap(model, None)
    sae = build_sae("batchtopk", lm.width("layers.1"), width=32, k=4)
    x = lm.capture(tokens, ["layers.1"])["layers.1"]
    assert x.dtype == dtype and sae(x).dtype == dtype
    by_hand = lm.cross_entropy(tokens, {"layers.1": lambda x: sae(x.float()).to(dtype)})
    assert torch.equal(lm.cross_entropy(tokens, {"layers.1": sae}), by_hand)
    third = torch.tensor([3])
    bad = lm.cross_entropy(tokens, {"layers.1": lambda x: sae(x.index_fill(2, third, torch.nan))})
    assert bad.isnan().all()


def test_texts_and_single_sites_are_captured_as_they_are_named(tmp_path: Path) -> None:
    saved_llama(tmp_path)
    lm = LanguageModel.load(str(tmp_path))
    assert lm.tokens("w5 w6").tolist() == lm.tokens("w0 w5 w6").tolist() == [[0, 5, 6]]
    whole = lm.capture(torch.tensor([[0, 5, 6], [0, 9, 9]]), ["layers.1", "layers.2"])
    assert list(whole) == ["layers.1", "layers.2"] and whole["layers.1"].shape == (2, 3, 16)
    for site in ("layers.1", "1@resid"):
        assert torch.equal(lm.capture(torch.tensor([[0, 5, 6]]), site), whole["layers.1"][:1])
        torch.testing.assert_close(lm.capture("w5 w6", site), whole["layers.1"][0])
    both = lm.capture(["w5 w6", "w7"], "layers.1")
    assert [len(x_TD) for x_TD in both] == [3, 2]
    assert torch.equal(both[0], lm.capture("w5 w6", "layers.1"))
    mapped = lm.capture("w5 w6", ["layers.*"])
    assert list(mapped) == lm.blocks and torch.equal(mapped["layers.1"], both[0])
    lists = lm.capture(["w5 w6", "w7"], ["layers.1"])
    assert torch.equal(lists["layers.1"][1], both[1])
    nats = lm.cross_entropy(torch.tensor([[0, 5, 6]]))
    assert nats.shape == (1, 2) and torch.equal(lm.cross_entropy("w5 w6"), nats[0])
    with pytest.raises(UserError, match="text is empty"):
        lm.capture("", "layers.1")


def test_a_model_is_loaded_by_a_path_and_prints_as_what_it_is(tmp_path: Path) -> None:
    saved_llama(tmp_path)
    lm = LanguageModel.load(tmp_path)
    assert lm.name == str(tmp_path) and f"{tmp_path}', layers=" in repr(lm)


def test_fingerprint(tmp_path: Path) -> None:
    lm = build("llama")
    first = lm.fingerprint
    lm.model.save_pretrained(tmp_path)
    script = (
        "import torch; torch.set_num_threads(3);"
        "from transformers import AutoModelForCausalLM as A;"
        "from saeworks.lm.fingerprint import fingerprint; import sys;"
        "print(fingerprint(A.from_pretrained(sys.argv[1])))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == first
    weight = lm.model.state_dict()["model.layers.1.mlp.up_proj.weight"]
    with torch.no_grad():
        weight[3, 7] = torch.nextafter(weight[3, 7], torch.tensor(9.0))
    assert fingerprint(lm.model) != first


def test_models_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "no-such-type"}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    cut = tmp_path / "cut"
    build("llama").model.save_pretrained(cut)
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    capfd.readouterr()
    names = [str(tmp_path / name) for name in ("missing", "empty", "odd", "broken", "cut")]
    for name in [*names, "./nowhere", "no-one/no-such-model"]:
        with pytest.raises(UserError) as error:
            LanguageModel.load(ModelConfig(name=name))
        assert repr(name) in str(error.value) and "\n" not in str(error.value)
        assert len(str(error.value)) < 700
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_a_model_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    build("llama").model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights \(model.layers.1.mlp.up_proj"):
        LanguageModel.load(ModelConfig(name=str(tmp_path)))


def test_random_weights(tmp_path: Path) -> None:
    saved_llama(tmp_path)
    for name in (str(tmp_path), "embedded"):
        state = torch.get_rng_state()
        trained, first, again, other = (
            LanguageModel.load(ModelConfig(name=name, random_weights=seed))
            for seed in (None, 5, 5, 6)
        )
        assert torch.equal(torch.get_rng_state(), state)
        assert first.fingerprint == again.fingerprint
        assert len({one.fingerprint for one in (trained, first, other)}) == 3
        assert trained.revision is None and first.revision == "main, random weights, seed 5"
        assert first.layers == trained.layers and not first.model.training
        shapes = [
            {key: (v.shape, v.dtype) for key, v in one.model.state_dict().items()}
            for one in (trained, first)
        ]
        assert shapes[0] == shapes[1]
    (tmp_path / "model.safetensors").unlink()  # only config and tokenizer are read
    for dtype in ("bfloat16", "float16"):
        config = ModelConfig(name=str(tmp_path), random_weights=0, dtype=dtype)
        assert LanguageModel.load(config).model.dtype == getattr(torch, dtype)
    with pytest.raises(UserError, match=r"model.random_weights = -1"):
        ModelConfig(random_weights=-1)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "layers", "d", "context", "bos"),
    [
        ("stories260K", 5, 64, 512, 1),
        ("tinystories-656K", 2, 128, 512, 1),
        ("tinystories-neox-6L256", 6, 256, 256, 0),
    ],
)
def test_real_models_load_quietly(
    real_data: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    layers: int,
    d: int,
    context: int,
    bos: int,
) -> None:
    lm = LanguageModel.load(ModelConfig(name=str(real_data / name)))
    sites = lm.sites(["layers.*"])
    assert (lm.layers, lm.max_context, lm.bos_id) == (layers, context, bos)
    assert len(sites) == layers and {lm.width(site) for site in sites} == {d}
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
