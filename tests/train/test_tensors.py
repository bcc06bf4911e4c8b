"""Training on activations of one's own, without a language model."""

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import saeworks as sw
from helpers.fakes import weights
from helpers.toys import random_text, saved_llama
from saeworks.cli.main import main
from saeworks.results.result import Result
from saeworks.train.tensors import train

SAE = {"arch": "topk", "width": 48, "k": 4}
SHORT: dict[str, Any] = {"tokens": 6000, "eval_every": 10, "say": lambda line: None}


def rows(seed: int = 0, d: int = 16, tokens: int = 2000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    f_NF = torch.randn(tokens, 32, generator=generator).relu()
    return f_NF @ torch.randn(32, d, generator=generator) + 3


def documents(tokens: int = 2000) -> torch.Tensor:
    """Of 20 rows each, numbered with gaps, and not in order."""
    return 7 * ((torch.arange(tokens) // 20 * 37) % 100)


def test_a_suite_of_a_tensor_and_what_it_reaches_on_rows_it_never_saw(tmp_path: Path) -> None:
    x, document = rows(), documents()
    suite = sw.train(x, tmp_path / "mine", SAE, documents=document, held_out=0.2, **SHORT)
    assert str(suite).splitlines()[1] == "  x: TopK(d=16, width=48, k=4)"
    kept = suite.held_out
    assert kept is not None and len(kept) == 400
    seen = torch.ones(2000, dtype=torch.bool)
    seen[kept] = False
    assert not set(document[kept].tolist()) & set(document[seen].tolist())
    x_hat = suite.at("x")(x[kept])
    centred = x[kept] - x[kept].mean(0)
    fvu = float((x[kept] - x_hat).square().sum() / centred.square().sum())
    assert fvu < 0.4
    found = sw.evaluate(suite.path, x[kept], document[kept])
    assert found.sites["x"]["fvu"].value == pytest.approx(fvu, rel=1e-4)
    assert (found.tokens, found.documents) == (400, 20)
    assert "outlier_share" not in found.sites["x"]
    far = x[kept].clone()
    far[5] *= 1000
    other = sw.evaluate(suite, far, document[kept]).sites["x"]
    assert other["outlier_share"].value == pytest.approx(1 / 400)
    rest = torch.arange(400) != 5
    error = (far - suite.at("x")(far))[rest].square().sum()
    centred = (far[rest] - far[rest].mean(0)).square().sum()
    assert other["fvu_without_outliers"].value == pytest.approx(float(error / centred), rel=1e-4)
    written = Result.read(tmp_path / "mine" / "results" / "reconstruction.json")
    assert written.sites == found.sites
    audit = sw.audit(x[kept], x_hat, document[kept], resamples=5)
    assert 0 < audit.fvu_nonlinear < audit.fvu < 0.5
    lines = (tmp_path / "mine" / "metrics.jsonl").read_text()
    assert '"held_out_fvu"' in lines


def test_the_same_call_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    x = rows()
    whole = sw.train(x, tmp_path / "whole", SAE, **SHORT)
    said: list[str] = []

    def stop(line: str) -> None:
        said.append(line)
        if line.startswith("activations"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        sw.train(x, tmp_path / "again", SAE, **{**SHORT, "say": stop})
    assert not (tmp_path / "again" / "suite.json").exists() and "interrupted" in said[-1]
    again = sw.train(x, tmp_path / "again", SAE, **SHORT)
    assert weights(again.path) == weights(whole.path)
    third = sw.train(x, tmp_path / "again", SAE, **SHORT)  # finished: nothing to do
    assert third.digest() == again.digest()
    with pytest.raises(sw.UserError, match="holds a run of another configuration"):
        sw.train(x + 1, tmp_path / "again", SAE, **SHORT)


def test_several_sites_of_any_floating_type_share_rows_and_saes(tmp_path: Path) -> None:
    x = {"layers.0": rows(0).bfloat16(), "layers.2": rows(1, 16).half(), "h.1.mlp": rows(2, 12)}
    same = {site: plane.float().numpy() for site, plane in x.items()}
    first = sw.train(x, tmp_path / "a", SAE, **SHORT)
    second = sw.train(same, tmp_path / "b", SAE, **SHORT)
    assert weights(first.path) == weights(second.path) and first.sites == list(x)
    kept = first.held_out
    assert kept is not None and second.held_out is not None
    assert torch.equal(kept, second.held_out)
    assert len({int(row) // 128 for row in kept}) * 128 >= len(kept) >= 100
    found = sw.evaluate(first, {site: plane[kept] for site, plane in x.items()})
    assert list(found.sites) == list(x)
    pair = {site: x[site] for site in ("layers.0", "layers.2")}
    grouped = {**SAE, "groups": {"groups": [["layers.0", "layers.2"]]}}
    shared = sw.train(pair, tmp_path / "c", grouped, held_out=0, normaliser="learnable", **SHORT)
    assert list(shared.groups.values()) == [["layers.0", "layers.2"]] and "shared" in str(shared)
    assert shared.held_out is not None and len(shared.held_out) == 0
    assert not (shared.path / "results").exists()
    with pytest.raises(sw.UserError, match=r"evaluate: x of h.1.mlp has width 16, but .* for 12"):
        sw.evaluate(first, dict.fromkeys(x, rows()))


def test_the_commands_know_such_a_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_llama(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["max_position_embeddings"] = 128  # the context of a text that no one has chosen
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "text.txt").write_text(random_text(120))
    lm = sw.LanguageModel.load(str(tmp_path))
    texts = (tmp_path / "text.txt").read_text().split("\n<|endoftext|>\n")[:60]
    each = [x_TD[1:] for x_TD in lm.capture(texts, "layers.1")]
    document = torch.arange(60).repeat_interleave(torch.tensor([len(x_TD) for x_TD in each]))
    x = {"layers.1": torch.cat(each)}
    out = str(sw.train(x, tmp_path / "mine", SAE, documents=document, **SHORT).path)
    assert main(["report", out]) == 0
    capsys.readouterr()
    for command in ("eval", "audit"):
        assert main([command, out]) == 2
        error = capsys.readouterr().err
        assert "trained on a tensor" in error and "sw.evaluate" in error and error.count("\n") == 1
    where = ["--model", str(tmp_path), "--text", str(tmp_path / "text.txt")]
    assert main(["eval", out, *where, "--tokens", "300", "--latents", "0"]) == 0
    (folder,) = (Path(out) / "results").glob("*/splice.json")
    assert Result.read(folder).sites["layers.1"]["delta_ce"].value is not None


X = rows(tokens=300)


@pytest.mark.parametrize(
    ("x", "options", "said"),
    [
        (X[:, 0], {}, r"x of x has shape \[300\] .*give floating-point activations \[tokens, d\]"),
        (X.long(), {}, r"type torch.int64"),
        (X[:0], {}, r"shape \[0, 16\]"),
        ({}, {}, r"x has no sites"),
        ([[1.0, 2.0], [1.0]], {}, r"x is a list; give one tensor or array \[tokens, d\]"),
        ([X, X], {}, r"x is a list of 2 tensors; .*torch.cat joins"),
        ({"a": X, "b": X[:7]}, {}, r"sites have 7 and 300 tokens"),
        ({"../a": X}, {}, r"site '../a' is no folder's name"),
        (
            X.index_fill(0, torch.tensor([5]), torch.nan),
            {},
            r"NaN or infinity in x of x, first in row 5;",
        ),
        (X, {"documents": [1, 2]}, r"train: documents has shape \[2\]"),
        (X, {"documents": np.zeros(300, int)}, r"held_out = 0.05 of 1 document\(s\) leaves none"),
        (X, {"held_out": 1.0}, r"held_out = 1.0: a share"),
        (X, {"held_out": 0.99}, r"leaves none to train on"),
        (X, {"normaliser": "unit"}, r"'normaliser' = 'unit'"),
        (X, {"batches": 7}, r"unknown key 'batches'; did you mean 'batch'"),
        (X, {"batch": 400}, r"tensor holds 256 tokens, fewer than a batch of 400"),
        (X, {"sae": {"arch": "topk", "k": 4}}, r"give either width or expansion"),
        (X, {"sae": {**SAE, "k": [2, 4]}}, r"is 2 variants; call it for each"),
        (X, {"audit": True}, r"use sw.audit"),
        (X, {"seed": -1}, r"seed = -1"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(
    x: Any, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(sw.UserError, match=said) as error:
        train(x, tmp_path / "out", options.pop("sae", SAE), **{**SHORT, **options})
    assert "\n" not in str(error.value) and not (tmp_path / "out" / "suite.json").exists()


def test_the_name_is_the_function_and_the_package() -> None:
    """Whichever is imported first."""
    for first in ("import saeworks as sw", "import saeworks.train.trainer, saeworks as sw"):
        code = f"{first}; f = sw.train; import saeworks.train.trainer as t; t.Trainer; "
        code += "from saeworks import train; assert callable(f) and callable(train); sw.train()"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "missing 2 required positional arguments: 'x' and 'out'" in done.stderr
    assert "held_out" in inspect.signature(train).parameters
