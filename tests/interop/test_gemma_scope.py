"""Gemma Scope's files against its arithmetic written by hand; and every file refused."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.foreign_saes import close, refused, rows
from helpers.toys import random_text
from saeworks.cli.main import main
from saeworks.errors import UserError
from saeworks.interop import load_foreign
from saeworks.interop.gemma_scope import load
from saeworks.suite import load_suite

D, M = 16, 24
Arrays = dict[str, Any]


def arrays(d: int = D, seed: int = 0) -> Arrays:
    """Parameters none of which is trivial; some thresholds are below 0, which is as good as 0."""
    random = np.random.default_rng(seed)
    return {
        "W_enc": random.standard_normal((d, M), dtype=np.float32),
        "b_enc": random.standard_normal(M, dtype=np.float32),
        "threshold": random.uniform(-0.5, 3, M).astype(np.float32),
        "W_dec": random.standard_normal((M, d), dtype=np.float32),
        "b_dec": random.standard_normal(d, dtype=np.float32),
    }


def save(folder: Path, weights: Arrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **weights)
    return folder


def forward(w: Arrays, x: Tensor) -> tuple[Tensor, Tensor]:
    """f and x̂, as Gemma Scope computes them."""
    t = {name: torch.from_numpy(np.asarray(a, np.float32)) for name, a in w.items()}
    z = x @ t["W_enc"] + t["b_enc"]
    f = (z > t["threshold"]) * z.relu()
    return f, f @ t["W_dec"] + t["b_dec"]


KINDS: dict[str, Callable[[Arrays], Arrays]] = {
    "as released": lambda w: w,
    "small letters": lambda w: {name.replace("W_", "w_"): a for name, a in w.items()},
    "half": lambda w: {name: a.astype(np.float16) for name, a in w.items()},
    "double": lambda w: {name: a.astype(np.float64) for name, a in w.items()},
    "big-endian": lambda w: {name: a.astype(">f4") for name, a in w.items()},
    "by columns": lambda w: {name: np.asfortranarray(a) for name, a in w.items()},
}


@pytest.mark.parametrize("kind", KINDS)
def test_we_read_what_is_written_there(tmp_path: Path, kind: str) -> None:
    weights = KINDS[kind](arrays())
    sae = load_foreign(save(tmp_path / "sae", weights))
    assert (sae.arch, sae.d) == ("jumprelu", D)
    named = {name.replace("w_", "W_"): a for name, a in weights.items()}
    f, x_hat = forward(named, rows())
    assert 0 < (f > 0).float().mean() < 1
    close(sae.encode(rows()), f)
    close(sae(rows()), x_hat)


def test_compressed_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "params.npz", **arrays())
    close(load_foreign(tmp_path)(rows()), forward(arrays(), rows())[1])


@pytest.mark.parametrize(
    ("path", "model", "hook"),
    [
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "gemma-2-2b", "20@resid"),
        ("gemma-scope-9b-it-res/layer_9/width_131k/canonical", "gemma-2-9b-it", "9@resid"),
        ("gemma-scope-9b-pt-mlp/layer_3/width_16k/average_l0_9", "gemma-2-9b", "3@mlp"),
        (
            "models--google--gemma-scope-2b-pt-att/snapshots/f0/layer_7/width_16k/average_l0_9",
            "gemma-2-2b",
            "layers.7.self_attn.o_proj@in",
        ),
        ("gemma-scope-27b-pt-res/mine", "gemma-2-27b", None),
        ("downloads/layer_20/width_16k/average_l0_71", None, None),
        ("my-gemma-scope-2b-pt-res-notes/layer_1", None, None),
    ],
)
def test_what_folders_names_say(
    tmp_path: Path, path: str, model: str | None, hook: str | None
) -> None:
    found = load(save(tmp_path / path, arrays()))
    assert (found.model and found.model.name) == (f"google/{model}" if model else None)
    assert (found.hook, found.text) == (hook, None)


def test_what_is_no_sae_of_a_layer(tmp_path: Path) -> None:
    release = tmp_path / "gemma-scope-2b-pt-transcoders"
    refused(save(release / "layer_3/width_16k/average_l0_9", arrays()), "is a transcoder")
    release = tmp_path / "gemma-scope-2b-pt-res"
    refused(save(release / "embedding/width_4k/average_l0_6", arrays()), "of the embeddings")


WIDTH = 128  # of the embedded model


def test_a_release_becomes_a_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release, out = tmp_path / "gemma-scope-2b-pt-res", tmp_path / "suite"
    for layer in (2, 1):
        folder = release / f"layer_{layer}" / "width_16k" / f"average_l0_{70 + layer}"
        save(folder, arrays(WIDTH, seed=layer))
    command = ["convert", str(release), str(out), "--to", "saeworks", "--model", "embedded"]
    assert main(command) == 2
    assert "name it with --text" in capsys.readouterr().err
    text = tmp_path / "text.txt"
    text.write_text(random_text(300))
    assert main([*command, "--text", str(text)]) == 0
    suite = load_suite(out)
    assert (suite.sites, suite.variant) == (["layers.1", "layers.2"], "gemma-scope-jumprelu")
    x = rows(50, WIDTH)
    close(suite.at("layers.2")(x), forward(arrays(WIDTH, seed=2), x)[1])
    evaluation = ["--tokens", "1000", "--splice-tokens", "500", "--latents", "2"]
    assert main(["eval", str(out), *evaluation, "--bootstrap", "0"]) == 0
    save(release / "layer_2" / "width_65k" / "average_l0_9", arrays(WIDTH))
    capsys.readouterr()
    command[2] = str(tmp_path / "other")
    assert main([*command, "--text", str(text)]) == 2
    assert "are both of site layers.2" in capsys.readouterr().err


def test_the_options_say_what_the_folders_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for layer in (1, 2):
        save(tmp_path / "saes" / f"layer_{layer}" / "average_l0_9", arrays(WIDTH))
    command = ["convert", str(tmp_path / "saes"), str(tmp_path / "out"), "--to", "saeworks"]
    for more, expected in (
        (["--model", "embedded"], "name it with --model"),
        (["--text", "embedded"], "name it with --text"),
        (["--site", "1@resid"], "name it with --site"),
        (["--site", "4@resid"], "2 SAEs (layer_1/average_l0_9, layer_2/average_l0_9)"),
    ):
        assert main(command) == 2
        assert expected in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        command += more
    assert main(command) == 0
    assert load_suite(tmp_path / "out").sites == ["layers.1", "layers.4"]


def array(name: str, value: Any) -> Callable[[Arrays], Any]:
    def edit(weights: Arrays) -> None:
        weights.pop(name) if value is None else weights.update({name: value})

    return edit


FLOATS = "'b_dec' is not an array of floats"

REFUSED: dict[str, tuple[Callable[[Arrays], Any], str]] = {
    "transposed": (array("W_dec", np.zeros((D, M))), "W_dec is of shape [16, 24]"),
    "a vector": (array("W_enc", np.zeros(D * M)), "W_enc is of shape [384]"),
    "nothing": (array("W_enc", np.zeros((0, 0))), "W_enc is of shape [0, 0]"),
    "a missing array": (array("threshold", None), "lacks threshold"),
    "no weights": (array("W_enc", None), "lacks W_enc"),
    "an extra array": (array("scaling_factor", np.ones(M)), "'scaling_factor'"),
    "two of one name": (array("w_enc", np.zeros((D, M))), "several arrays of one name"),
    "NaN": (array("b_dec", np.full(D, np.nan)), "NaN or infinite"),
    "beyond float32": (array("b_dec", np.full(D, 1e300)), "NaN or infinite"),
    "integers": (array("b_dec", np.zeros(D, np.int64)), FLOATS),
    "complex": (array("b_dec", np.zeros(D, np.complex64)), FLOATS),
    "text": (array("b_dec", np.full(D, "1.0")), FLOATS),
    "fields": (array("b_dec", np.zeros(D, [("a", "f4")])), FLOATS),
    "a pickle": (array("b_dec", np.full(D, None)), FLOATS),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_one_line(tmp_path: Path, case: str) -> None:
    edit, expected = REFUSED[case]
    weights = arrays()
    edit(weights)
    refused(save(tmp_path / "sae", weights), expected)


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + header.encode() + data


def claims(shape: str) -> str:
    return f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"


HEADERS = {
    "more than it holds": (npy(claims("(99999, 9999999)")), "holds another number of values"),
    "less than it holds": (npy(claims("(1,)"), bytes(64)), "holds another number of values"),
    "a negative shape": (npy(claims("(-1,)"), bytes(4)), "'W_enc' is not an array"),
    "a shape that is none": (npy(claims("'16'")), "'W_enc' is not an array"),
    "an oversize header": (npy(" " * 20_000), "'W_enc' is not an array"),
    "brackets": (npy("(" * 9_000), "'W_enc' is not an array"),
    "a version to come": (npy(claims("(1,)"), bytes(4), b"\x03\x00"), "version 1.0"),
    "no array": (b"GIF89a", "'W_enc' is not an array"),
    "nothing": (b"", "'W_enc' is not an array"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_are_not_believed(tmp_path: Path, case: str) -> None:
    data, expected = HEADERS[case]
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", data)
    refused(tmp_path, expected)


def test_what_fills_memory_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "params.npz", W_enc=np.zeros((1000, 1000), np.float32))
    refused(tmp_path, "unpacks to more than 8 times its size")


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    sprung, folder = tmp_path / "sprung", tmp_path / "sae"
    save(folder, {**arrays(), "b_dec": np.array([Trap(sprung)] * D)})
    refused(folder, FLOATS)
    (folder / "params.npz").write_bytes(pickle.dumps(Trap(sprung)))
    refused(folder, "not a readable npz file")
    assert not sprung.exists()


def test_files_that_are_something_else(tmp_path: Path) -> None:
    file = save(tmp_path / "sae", arrays()) / "params.npz"
    whole = file.read_bytes()
    one = io.BytesIO()
    np.save(one, np.zeros(3))
    middle = len(whole) // 2
    torn = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for bad in (b"", whole[:-30], torn, one.getvalue()):
        file.write_bytes(bad)
        refused(file.parent, "not a readable npz file")


def test_several_formats_are_not_one_suite(tmp_path: Path) -> None:
    save(tmp_path / "a", arrays())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "sae.safetensors").touch()
    with pytest.raises(UserError, match=r"several formats \(gemma-scope: a; sparsify: b\)"):
        load_foreign(tmp_path)
