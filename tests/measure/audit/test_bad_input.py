"""The command on suites that cannot be audited: one clear line. Rank-deficient ones can be."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.toy_suites import SITES, written_suite
from helpers.toys import random_text, saved_llama, tiny_llama
from saeworks.cli.main import main
from saeworks.dictionary.base import SAE
from saeworks.results.audit import AuditResult

QUICK = ["--bootstrap", "5", "--pursuit", "0", "--mlp", "0", "--codes", "0", "--zeroing", "0"]
QUICK += ["--downstream", "0", "--no-adjacent", "--device", "cpu"]
Change = Callable[[Any], None]


def written(
    folder: Path,
    model: Change = lambda model: None,
    sae: Callable[[SAE], object] = lambda sae: None,
    text: str | None = None,
) -> Path:
    """A suite of a changed model."""
    folder.mkdir(exist_ok=True)
    saved_llama(folder)
    (folder / "text.txt").write_text(text or random_text(120))
    changed = copy.deepcopy(tiny_llama().model)
    with torch.no_grad():
        model(changed)
    changed.save_pretrained(folder)
    return written_suite(folder / "suite", folder, change=sae)


def refusal(suite: Path, capsys: pytest.CaptureFixture[str], more: Sequence[str] = ()) -> str:
    capsys.readouterr()
    assert main(["audit", str(suite), *QUICK, *more]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "Traceback" not in said.err
    assert not (suite / "results" / "audit.json").exists()
    return said.err


def test_too_few_tokens_says_how_many_are_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(written(tmp_path), capsys, ["--tokens", "64"])
    assert "to fit 17 parameters per output" in error and "audit at least 136 tokens" in error


def test_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "\n<|endoftext|>\n".join(
        " ".join(f"w{1 + (i * n) % 60}" for i in range(90)) for n in range(20)
    )
    error = refusal(written(tmp_path, text=long), capsys, ["--tokens", "8"])
    assert "given 1 document(s)" in error and "at least 2" in error


def test_constant_activations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def silence(model: Any) -> None:
        model.model.embed_tokens.weight.zero_()

    error = refusal(written(tmp_path, silence), capsys)
    assert f"site {SITES[0]}: the activations are constant" in error


def test_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def spoil(model: Any) -> None:
        model.model.layers[1].mlp.down_proj.weight.fill_(torch.nan)

    error = refusal(written(tmp_path / "model", spoil), capsys)
    assert "NaN or infinity in the activations" in error and SITES[1] in error

    def spoil_sae(sae: SAE) -> None:
        sae.b_dec.data[3] = torch.nan

    error = refusal(written(tmp_path / "sae", sae=spoil_sae), capsys)
    assert "weights.safetensors: b_dec has NaN or infinite values" in error


def test_an_sae_of_another_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = written(tmp_path)
    other = _narrow(suite)
    error = refusal(other, capsys)
    assert "is for activations of width 8, but that site" in error and "has 16" in error


def _narrow(suite: Path) -> Path:
    """The same record, with an SAE of 8 dimensions."""
    import json

    from saeworks.dictionary.normaliser import Normaliser
    from saeworks.dictionary.registry import build_sae
    from saeworks.suite import write_suite

    meta = json.loads((suite / "suite.json").read_text())
    write_suite(
        suite.parent / "narrow",
        variant="narrow",
        groups={SITES[0]: (build_sae("topk", d=8, width=16, k=4), [SITES[0]])},
        normalisers={SITES[0]: Normaliser(torch.zeros(8), torch.tensor(1.0))},
        model=meta["model"],
        text=meta["text"],
        config=meta["config"],
        seed=0,
        tokens=0,
        steps=0,
    )
    return suite.parent / "narrow"


def test_rank_deficient_activations_are_audited(tmp_path: Path) -> None:
    def flatten(model: Any) -> None:
        """Nothing writes to the last six dimensions of the residual stream."""
        model.model.embed_tokens.weight[:, 10:] = 0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[10:] = 0
            layer.mlp.down_proj.weight[10:] = 0

    suite = written(tmp_path, flatten)
    assert main(["audit", str(suite), *QUICK]) == 0
    result = AuditResult.read(suite / "results" / "audit.json")
    for site in SITES:
        assert result.value(site, "vector", "rank").value == 10
        condition = result.value(site, "vector", "condition").value
        assert condition is not None and 1 < condition < 1e12
        r2, share = (
            result.value(site, *name).value
            for name in (("vector", "r2_error"), ("split", "nonlinear_share"))
        )
        assert r2 is not None and share is not None and r2 < 1 and 0 < share < 1.5
