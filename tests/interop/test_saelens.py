"""SAELens's folders against its arithmetic written by hand, both ways; and every folder refused."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import saeworks
from helpers import foreign_saes
from helpers import saelens_by_hand as hand
from helpers.editing import edit
from helpers.foreign_saes import refused, rows
from helpers.toys import tiny_llama
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.registry import ARCHS, build_sae
from saeworks.errors import UserError
from saeworks.interop import FORMATS, format_module, load_foreign
from saeworks.interop.saelens_config import TRAINING_ONLY
from saeworks.interop.suites import export
from saeworks.suite import load_suite, write_suite

D, M = hand.D, hand.M
OURS = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
CASES = [
    (architecture, {"apply_b_dec_to_input": subtracts})
    for architecture in OURS
    for subtracts in (True, False)
] + [("topk", {"rescale_acts_by_decoder_norm": True})]


def close(ours: Tensor, theirs: Tensor) -> None:
    foreign_saes.close(ours, theirs, 1e-5)


@pytest.mark.parametrize(("architecture", "changes"), CASES)
def test_we_read_what_is_written_there(
    tmp_path: Path, architecture: str, changes: dict[str, Any]
) -> None:
    cfg, weights = hand.config(architecture, **changes), hand.tensors(architecture)
    sae = load_foreign(hand.save(tmp_path / "sae", cfg, weights))
    assert sae.arch == OURS[architecture]
    x = rows()
    expected = hand.code(cfg, weights, x)
    assert 0 < (expected > 0).float().mean() < 1
    close(sae.encode(x), expected)
    x_hat = hand.reconstruction(cfg, weights, expected)
    close(sae(x), x_hat)


def test_a_checkpoint_of_batchtopk_has_one_threshold(tmp_path: Path) -> None:
    weights = hand.tensors("standard") | {"topk_threshold": torch.tensor(1.5, dtype=torch.double)}
    cfg = hand.config("batchtopk", k=2.5, rescale_acts_by_decoder_norm=False)
    sae = load_foreign(hand.save(tmp_path / "sae", cfg, weights))
    z = (rows() - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    close(sae.encode(rows()), z * (z > 1.5))


@pytest.mark.parametrize("architecture", ["standard", "gated"])
def test_a_checkpoint_has_its_scale_beside_it(tmp_path: Path, architecture: str) -> None:
    cfg, weights = hand.config(architecture), hand.tensors(architecture)
    scaled = {**cfg, "normalize_activations": "expected_average_only_in"}
    folder = hand.save(tmp_path / "sae", scaled, weights)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    sae, x = load_foreign(folder), rows()
    f = hand.code(cfg, weights, 0.25 * x)
    close(sae.encode(x), f)
    x_hat = hand.reconstruction(cfg, weights, f) / 0.25
    close(sae(x), x_hat)


def test_lower_precision_is_read(tmp_path: Path) -> None:
    weights = {name: t.bfloat16() for name, t in hand.tensors("jumprelu").items()}
    weights["threshold"] = weights["threshold"].float()  # as SAELens keeps it
    cfg = hand.config("jumprelu", dtype="torch.bfloat16")
    sae = load_foreign(hand.save(tmp_path / "sae", cfg, weights))
    assert {t.dtype for t in sae.state_dict().values()} == {torch.float32}


def test_keys_of_training_are_left_alone(tmp_path: Path) -> None:
    cfg = hand.config("topk", **dict.fromkeys(TRAINING_ONLY, 1.0))
    assert load_foreign(hand.save(tmp_path / "sae", cfg, hand.tensors("topk"))).arch == "topk"


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "topk": ("topk", {"k": 5}),
    "relu": ("standard", {}),
    "relu, centred": ("standard", {"subtract_b_dec": True}),
    "jumprelu": ("jumprelu", {}),
    "jumprelu, centred": ("jumprelu", {"subtract_b_dec": True}),
    "gated": ("gated", {}),
    "batchtopk": ("jumprelu", {"k": 5}),
    "matryoshka": ("jumprelu", {"k": 5, "sizes": [6, M]}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_what_we_write_computes_the_same_there(tmp_path: Path, case: str) -> None:
    arch, (theirs, options) = case.partition(",")[0], OPTIONS[case]
    if arch not in ARCHS:
        pytest.skip("not in the registry")
    suite = load_suite(a_suite(tmp_path / "suite", arch, options))
    made = export(suite, tmp_path / "out", "saelens", tiny_llama())
    assert made == {"layers.1": tmp_path / "out" / "layers.1"}
    cfg, weights = hand.load(made["layers.1"])
    assert cfg["architecture"] == theirs
    assert weights.keys() == {"W_enc", "W_dec", "b_dec", *hand.BIASES[theirs]}
    x, normaliser, trained = rows(), suite.normaliser("layers.1"), suite.trained("layers.1")
    f = trained.encode(normaliser.normalise(x))
    assert 0 < (f > 0).float().mean() < 1
    close(hand.code(cfg, weights, x), f)
    x_hat = normaliser.denormalise(trained.decode(f))
    close(hand.reconstruction(cfg, weights, f), x_hat)
    close(load_foreign(made["layers.1"])(x), x_hat)


def a_suite(
    path: Path, arch: str, options: dict[str, Any], sites: tuple[str, ...] = ("layers.1",)
) -> Path:
    """SAEs of which no parameter is trivial, for the tiny Llama."""
    lm, random = tiny_llama(), torch.Generator().manual_seed(3)
    groups, normalisers = {}, {}
    for site in sites:
        sae = build_sae(arch, D, width=M, **options)
        normalisers[site] = Normaliser(torch.randn(D, generator=random), torch.tensor(2.5))
        sae.initialise(torch.randn(64, D, generator=random), random)
        with torch.no_grad():
            for name, tensor in sae.state_dict().items():
                noise = 0.2 * torch.randn(tensor.shape, generator=random)
                tensor.copy_(0.5 + noise.abs() if name == "threshold" else tensor + noise)
        groups[site] = (sae, (site,))
    write_suite(
        path,
        variant="mine",
        groups=groups,
        normalisers=normalisers,
        model={"name": "tiny", "revision": None, "fingerprint": lm.fingerprint, "layers": 3},
        text={},
        config={"seed": 4, "text": {"context": 24, "exclude_first": 2, "bos": "none"}},
        seed=4,
        tokens=0,
        steps=0,
    )
    return path


def test_what_saelens_needs_to_run_it(tmp_path: Path) -> None:
    sites = ("layers.1.mlp", "layers.1", "layers.2@in")
    suite = load_suite(a_suite(tmp_path / "suite", "topk", {"k": 5}, sites))
    made = export(suite, tmp_path / "out", "saelens", tiny_llama())
    metadata = {site: hand.load(folder)[0]["metadata"] for site, folder in made.items()}
    hooks = {site: found["hook_name"] for site, found in metadata.items()}
    assert hooks == {
        "layers.1.mlp": "model.layers.1.mlp",
        "layers.1": "model.layers.1",
        "layers.2@in": "model.layers.1",
    }
    found = metadata["layers.1"]
    assert found["sae_lens_version"].startswith("6.")
    assert (found["model_name"], found["model_class_name"]) == ("tiny", "AutoModelForCausalLM")
    assert (found["context_size"], found["prepend_bos"]) == (24, False)
    assert (found["seqpos_slice"], found["exclude_special_tokens"]) == ([2, None], True)


@pytest.mark.parametrize("arch", ["topk", "batchtopk"])
def test_a_group_is_exported_per_site_with_its_own_normaliser(tmp_path: Path, arch: str) -> None:
    sites, random = ("layers.0", "layers.2"), torch.Generator().manual_seed(0)
    sae = build_sae(arch, D, width=M, k=5)
    sae.share(2)
    sae.initialise(torch.randn(64, D, generator=random), random)
    if arch == "batchtopk":
        sae.threshold.copy_(torch.tensor([0.3, 0.9]))  # type: ignore[operator]
    normalisers = {
        site: Normaliser(torch.randn(D, generator=random), torch.tensor(scale))
        for site, scale in zip(sites, (0.5, 2.5), strict=True)
    }
    write_suite(
        tmp_path / "suite",
        variant="mine",
        groups={"group-0": (sae, sites)},
        normalisers=normalisers,
        model={"name": "t", "revision": None, "fingerprint": tiny_llama().fingerprint, "layers": 3},
        text={},
        config={"seed": 4, "text": {"context": 24, "exclude_first": 2, "bos": "none"}},
        seed=4,
        tokens=0,
        steps=0,
    )
    suite = load_suite(tmp_path / "suite")
    made = export(suite, tmp_path / "out", "saelens", tiny_llama())
    assert list(made) == list(sites)
    for index, site in enumerate(sites):
        x = 3 * torch.randn(40, D, generator=random)
        found = load_foreign(made[site])
        close(found(x), suite.at(site)(x))
        units = normalisers[site]
        own = sae.for_site(index)
        with torch.no_grad():
            close(found(x), units.denormalise(own(units.normalise(x))))


def test_an_input_that_is_no_output_is_refused(tmp_path: Path) -> None:
    suite = load_suite(
        a_suite(tmp_path / "suite", "topk", {"k": 5}, ("layers.1", "layers.1.mlp@in"))
    )
    with pytest.raises(UserError, match=r"layers\.1\.mlp@in is a module's input"):
        export(suite, tmp_path / "out", "saelens", tiny_llama())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["suite"]
    assert list(export(suite, tmp_path / "out", "saelens", tiny_llama(), ["layers.1"])) == [
        "layers.1"
    ]


def test_an_architecture_without_a_counterpart_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = load_suite(a_suite(tmp_path / "suite", "topk", {"k": 5}))
    monkeypatch.setattr(type(suite.at("layers.1")), "arch", "switch")
    with pytest.raises(UserError, match="no counterpart of the architecture 'switch'"):
        export(suite, tmp_path / "out", "saelens", tiny_llama())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["suite"]


def test_sites_that_are_no_folder_names_are_refused(tmp_path: Path) -> None:
    path = a_suite(tmp_path / "suite", "topk", {"k": 5})

    def rename(meta: dict[str, Any]) -> None:
        meta["sites"]["../../layers.1"] = meta["sites"].pop("layers.1")
        meta["groups"]["layers.1"]["sites"] = ["../../layers.1"]

    edit(path / "suite.json", rename)
    with pytest.raises(UserError, match=r"'\.\./\.\./layers\.1' is no folder's name"):
        export(load_suite(path), tmp_path / "out", "saelens", tiny_llama())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["suite"]


def test_formats_are_modules() -> None:
    assert all(format_module(name).load for name in FORMATS)
    with pytest.raises(UserError, match="choose one of " + ", ".join(FORMATS)):
        format_module("npz")
    assert saeworks.load_foreign is load_foreign


Change = Callable[[dict[str, Any], dict[str, Tensor]], Any]


def change(**keys: Any) -> Change:
    return lambda cfg, weights: cfg.update(keys)


def tensor(name: str, value: Tensor | None) -> Change:
    def edit(cfg: dict[str, Any], weights: dict[str, Tensor]) -> None:
        weights.pop(name) if value is None else weights.update({name: value})

    return edit


def meta(**keys: Any) -> Change:
    return lambda cfg, weights: cfg["metadata"].update(keys)


REFUSED: dict[str, tuple[str, Change, str]] = {
    "d_in of other tensors": ("topk", change(d_in=D + 1), "W_dec is of shape [24, 16]"),
    "d_sae of other tensors": ("topk", change(d_sae=M - 1), "W_dec is of shape [24, 16]"),
    "no latents": ("topk", change(d_sae=0), "d_sae = 0"),
    "d_in of no number": ("topk", change(d_in="16"), "'d_in'"),
    "transposed": ("standard", tensor("W_enc", torch.zeros(M, D)), "W_enc is of shape [24, 16]"),
    "k above d_sae": ("topk", change(k=M + 1), "k = 25"),
    "k of 0": ("topk", change(k=0), "k = 0"),
    "half a k": ("topk", change(k=2.5), "k = 2.5"),
    "no k": ("topk", change(k=None), "k = None"),
    "a missing tensor": ("jumprelu", tensor("threshold", None), "lacks threshold"),
    "an extra tensor": ("standard", tensor("scaling_factor", torch.ones(M)), "'scaling_factor'"),
    "two thresholds": ("jumprelu", tensor("log_threshold", torch.ones(M)), "both"),
    "NaN": ("standard", tensor("b_dec", torch.full((D,), torch.nan)), "NaN or infinite"),
    "infinity": ("gated", tensor("r_mag", torch.full((M,), torch.inf)), "NaN or infinite"),
    "integers": ("standard", tensor("b_dec", torch.zeros(D, dtype=torch.int64)), "floats"),
    "another dtype": ("standard", tensor("b_dec", torch.zeros(D).half()), "says 'float32'"),
    "unknown dtype": ("standard", change(dtype="int8"), "'dtype'"),
    "a row of norm 0": (
        "topk",
        lambda cfg, w: (w["W_dec"][0].zero_(), cfg.update(rescale_acts_by_decoder_norm=True)),
        "norm 0",
    ),
    "unknown architecture": ("standard", change(architecture="abstopk"), "'abstopk'"),
    "a transcoder": ("standard", change(architecture="transcoder"), "'transcoder'"),
    "layer norm": ("standard", change(normalize_activations="layer_norm"), "'layer_norm'"),
    "a constant norm": (
        "standard",
        change(normalize_activations="constant_norm_rescale"),
        "'constant_norm_rescale' cannot be folded",
    ),
    "whitening": (
        "standard",
        change(normalize_activations="covariance_whitening"),
        "'covariance_whitening' cannot be folded",
    ),
    "unknown normalisation": ("standard", change(normalize_activations="soft"), "'soft'"),
    "a scale that is not there": (
        "standard",
        change(normalize_activations="expected_average_only_in"),
        "activation_scaler.json",
    ),
    "k of an architecture without": ("standard", change(k=32), "k goes with an architecture"),
    "unknown reshaping": ("standard", change(reshape_activations="hook_q"), "'hook_q'"),
    "a key that may matter": ("standard", change(activation_fn="tanh"), "unknown key"),
    "metadata of another kind": ("standard", change(metadata=[1]), "sae_lens_version"),
    "no version": ("standard", meta(sae_lens_version=None), "sae_lens_version"),
    "version 5": ("standard", meta(sae_lens_version="5.10.1"), "SAELens 5.10.1"),
    "one head": ("standard", meta(hook_head_index=3), "one attention head"),
    "a name that is no text": ("standard", meta(model_name=3), "model_name must be text"),
    "context of 0": ("standard", meta(context_size=0), "context_size = 0"),
    "a claim to be ours": ("standard", meta(saeworks={"model": 3}), "not what saeworks writes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_one_line(tmp_path: Path, case: str) -> None:
    architecture, edit, expected = REFUSED[case]
    cfg, weights = hand.config(architecture), hand.tensors(architecture)
    edit(cfg, weights)
    refused(hand.save(tmp_path / "sae", cfg, weights), expected)


TEXTS = {
    "no JSON": ("{", "not valid JSON"),
    "lists in lists": ("[" * 100_000, "not valid JSON"),
    "a list": ("[]", "must hold a JSON object"),
    "a number that is none": (json.dumps(hand.config("topk", k=float("nan"))), "k = nan"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_config_that_is_none(tmp_path: Path, case: str) -> None:
    text, expected = TEXTS[case]
    refused(hand.save(tmp_path / "sae", text, hand.tensors("topk")), expected)


def test_files_that_are_not_there_or_something_else(tmp_path: Path) -> None:
    folder = hand.save(tmp_path / "sae", hand.config("topk"), hand.tensors("topk"))
    weights = folder / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    refused(folder, "not a readable safetensors file")
    weights.write_bytes(pickle.dumps({"W_enc": 1}))
    refused(folder, "not a readable safetensors file")
    weights.unlink()
    refused(folder, "has no sae_weights.safetensors")
    (folder / "ae.pt").write_bytes(pickle.dumps({}))
    refused(folder, "ae.pt is a pickle, which is never opened")
    (folder / "cfg.json").unlink()
    refused(folder, "ae.pt is a pickle, which is never opened")
    save_file(hand.tensors("topk"), weights)
    refused(folder, "cfg.json: No such file")
    with pytest.raises(UserError, match="no such folder"):
        load_foreign(tmp_path / "nowhere")


def test_one_of_several_must_be_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        hand.save(tmp_path / name, hand.config("topk"), hand.tensors("topk"))
    with pytest.raises(UserError, match=r"2 SAEs \(a, b\); name the folder of one"):
        load_foreign(tmp_path)
    assert load_foreign(tmp_path / "b").arch == "topk"
