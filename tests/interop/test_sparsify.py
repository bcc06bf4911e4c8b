"""sparsify's folders against its arithmetic written by hand; and every folder refused."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.foreign_saes import close, refused, rows
from helpers.toys import random_text
from saeworks.cli.main import main
from saeworks.interop import load_foreign
from saeworks.interop.sparsify import TRAINING_ONLY
from saeworks.suite import load_suite

D, M, K = 16, 24, 5


def config(d: int = D, **changes: Any) -> dict[str, Any]:
    """A whole cfg.json of eai-sparsify 1.3."""
    return {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": M,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": d,
        **changes,
    }


def tensors(d: int = D, seed: int = 0, m: int = M) -> dict[str, Tensor]:
    """Parameters none of which is trivial."""
    random = torch.Generator().manual_seed(seed)
    return {
        "encoder.weight": torch.randn(m, d, generator=random),
        "encoder.bias": 0.5 * torch.randn(m, generator=random),
        "W_dec": torch.nn.functional.normalize(torch.randn(m, d, generator=random)),
        "b_dec": torch.randn(d, generator=random),
    }


def save(folder: Path, cfg: Any, weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(cfg if isinstance(cfg, str) else json.dumps(cfg))
    save_file(weights, folder / "sae.safetensors")
    return folder


def code(w: dict[str, Tensor], x: Tensor, k: int = K) -> Tensor:
    """f, as sparsify computes it."""
    z = ((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    top = z.topk(k, dim=-1)
    return torch.zeros_like(z).scatter(-1, top.indices, top.values)


@pytest.mark.parametrize("k", [K, 20])  # at 20, of fewer latents is z above 0
@pytest.mark.parametrize("num_latents", [M, 0])
def test_we_read_what_is_written_there(tmp_path: Path, num_latents: int, k: int) -> None:
    m = num_latents or 2 * D
    weights = tensors(m=m)
    cfg = config(num_latents=num_latents, expansion_factor=2, k=k)
    sae = load_foreign(save(tmp_path / "sae", cfg, weights))
    assert (sae.arch, sae.d) == ("topk", D)
    f = code(weights, rows(), k)
    close(sae.encode(rows()), f)
    close(sae(rows()), f @ weights["W_dec"] + weights["b_dec"])


def test_older_files_are_read(tmp_path: Path) -> None:
    """Before 1.0: no activation, no transcode, and `signed`; weights in bfloat16."""
    cfg = {key: config()[key] for key in ("expansion_factor", "num_latents", "k", "d_in")}
    weights = {name: t.bfloat16() for name, t in tensors().items()}
    sae = load_foreign(save(tmp_path / "sae", {**cfg, "signed": False}, weights))
    close(sae.encode(rows()), code({name: t.float() for name, t in weights.items()}, rows()))


def test_what_only_training_reads_changes_nothing(tmp_path: Path) -> None:
    cfg = config(**dict.fromkeys(TRAINING_ONLY, 3))
    close(
        load_foreign(save(tmp_path / "sae", cfg, tensors())).encode(rows()), code(tensors(), rows())
    )


WIDTH = 128  # of the embedded model


def a_run(path: Path, *hookpoints: str, **about: Any) -> Path:
    """A run's folder: one folder per hookpoint, beside what its trainer keeps."""
    for number, name in enumerate(hookpoints):
        save(path / name, config(WIDTH), tensors(WIDTH, seed=number))
    text = path.parent / "text.txt"
    text.write_text(random_text(300))
    run = {"sae": {}, "model": "embedded", "dataset": str(text), "ctx_len": 64, "split": "train"}
    (path / "config.json").write_text(json.dumps({**run, **about}))
    (path / "state.pt").write_bytes(pickle.dumps({}))
    return path


def test_a_run_becomes_a_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = a_run(tmp_path / "run", "layers.1", "layers.0.mlp"), tmp_path / "suite"
    assert main(["convert", str(run), str(out), "--to", "saeworks"]) == 0
    suite = load_suite(out)
    assert suite.sites == ["layers.0.mlp", "layers.1"]
    assert (suite.variant, suite.meta["model"]["name"]) == ("sparsify-topk", "embedded")
    text = suite.meta["text"]
    assert (text["source"], text["context"]) == (str(tmp_path / "text.txt"), 64)
    x = rows(50, WIDTH)
    w = tensors(WIDTH, seed=0)  # of layers.1
    close(suite.at("layers.1")(x), code(w, x) @ w["W_dec"] + w["b_dec"])
    evaluation = ["--tokens", "1000", "--splice-tokens", "500", "--latents", "2"]
    assert main(["eval", str(out), *evaluation, "--bootstrap", "0"]) == 0
    capsys.readouterr()


def test_without_a_run_the_options_say_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path / "run", "layers.1")
    (run / "config.json").write_text('{"model_type": "llama"}')  # another program's
    source = (run / "layers.1").rename(run / "mine")
    command = ["convert", str(source), str(tmp_path / "out"), "--to", "saeworks"]
    for more, missing in (
        (["--model", "embedded"], "--model"),
        (["--text", "embedded"], "--text"),
        (["--site", "2@mlp"], "matches no module"),
    ):
        assert main(command) == 2
        assert missing in capsys.readouterr().err
        command += more
    assert main(command) == 0
    assert load_suite(tmp_path / "out").sites == ["layers.2.mlp"]


def test_a_seed_is_of_its_hookpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path / "run", "layers.1/seed0", "layers.1/seed1")
    command = ["convert", str(run), str(tmp_path / "out"), "--to", "saeworks"]
    assert main(command) == 2
    assert "both of site layers.1" in capsys.readouterr().err
    command[1] = str(run / "layers.1" / "seed1")
    assert main(command) == 0
    assert load_suite(tmp_path / "out").sites == ["layers.1"]


Change = Callable[[dict[str, Any], dict[str, Tensor]], Any]


def change(**keys: Any) -> Change:
    return lambda cfg, weights: cfg.update(keys)


def without(key: str) -> Change:
    return lambda cfg, weights: cfg.pop(key)


def tensor(name: str, value: Tensor | None) -> Change:
    def edit(cfg: dict[str, Any], weights: dict[str, Tensor]) -> None:
        weights.pop(name) if value is None else weights.update({name: value})

    return edit


REFUSED: dict[str, tuple[Change, str]] = {
    "a transcoder": (change(transcode=True), "transcode = true"),
    "a skip connection": (change(skip_connection=True), "skip_connection = true"),
    "the same, by its weights": (tensor("W_skip", torch.zeros(D, D)), "'W_skip'"),
    "signed": (change(signed=True), "signed = true"),
    "embed_skip": (change(embed_skip=True), "embed_skip = true"),
    "gram_lookup": (change(gram_lookup=True), "gram_lookup = true"),
    "groupmax": (change(activation="groupmax"), "'groupmax' has no counterpart"),
    "unknown activation": (change(activation="gelu"), "'gelu'"),
    "a key that may matter": (change(encoder_pkm=True), "unknown key 'encoder_pkm'"),
    "d_in of other tensors": (change(d_in=D + 1), "is of shape [24, 16]"),
    "latents of other tensors": (change(num_latents=M - 1), "num_latents 23 of cfg.json make it"),
    "an expansion of other tensors": (change(num_latents=0), "num_latents 512 of cfg.json make"),
    "no latents": (change(num_latents=0, expansion_factor=0), "must be positive"),
    "negative": (change(d_in=-D, num_latents=-M), "must be positive"),
    "sizes beyond all": (change(d_in=10**3000, num_latents=0), "a whole number of 3001 digits"),
    "d_in of no number": (change(d_in="16"), "'d_in'"),
    "no d_in": (without("d_in"), "'d_in' is missing"),
    "no k": (without("k"), "'k' is missing"),
    "k above the latents": (change(k=M + 1), "k = 25"),
    "k of 0": (change(k=0), "k = 0"),
    "half a k": (change(k=2.5), "'k' = 2.5"),
    "truth of no truth": (change(transcode="yes"), "'transcode'"),
    "transposed": (tensor("W_dec", torch.zeros(D, M)), "W_dec is of shape [16, 24]"),
    "a missing tensor": (tensor("encoder.bias", None), "lacks encoder.bias"),
    "NaN": (tensor("b_dec", torch.full((D,), torch.nan)), "NaN or infinite"),
    "beyond float32": (
        tensor("b_dec", torch.full((D,), 1e300, dtype=torch.double)),
        "NaN or infinite",
    ),
    "integers": (tensor("b_dec", torch.zeros(D, dtype=torch.int64)), "floats"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_one_line(tmp_path: Path, case: str) -> None:
    edit, expected = REFUSED[case]
    cfg, weights = config(), tensors()
    edit(cfg, weights)
    refused(save(tmp_path / "sae", cfg, weights), expected)


def test_files_that_are_not_there_or_something_else(tmp_path: Path) -> None:
    folder = save(tmp_path / "sae", "[]", tensors())
    refused(folder, "must hold a JSON object")
    (folder / "cfg.json").unlink()
    refused(folder, "cfg.json: No such file")
    weights = save(folder, config(), tensors()) / "sae.safetensors"
    whole = weights.read_bytes()
    for bad in (
        b"",
        whole[:-8],
        pickle.dumps({"W_dec": 1}),
        (2**62).to_bytes(8, "little") + whole[8:],  # a header beyond the file
    ):
        weights.write_bytes(bad)
        refused(folder, "not a readable safetensors file")


def test_a_run_that_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for about, expected in (
        ({"model": 3}, "config.json: model: 'name' = 3"),
        ({"ctx_len": 0}, "config.json: text: text.context = 0"),
        ({"ctx_len": "long"}, "config.json: text: 'context'"),
        ({"dataset": ["a"]}, "config.json: text: 'source'"),
        ({"dataset": "tokens.bin"}, "--text"),
        ({"model": None}, "--model"),
    ):
        run = a_run(tmp_path / "run", "layers.1", **about)
        assert main(["convert", str(run), str(tmp_path / "out"), "--to", "saeworks"]) == 2
        error = capsys.readouterr().err.strip()
        assert expected in error
        assert "\n" not in error
        assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "text.txt"]


def test_links_lead_nowhere_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder's name is a module's and no path, whatever it is."""
    run = a_run(tmp_path / "run", "..layers.1")
    assert main(["convert", str(run), str(tmp_path / "out"), "--to", "saeworks"]) == 2
    assert "'..layers.1' has no counterpart here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
