"""Audit numbers while training: those of the audit itself, without a trace in the training."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.toy_suites import random_sae
from helpers.toys import Toy, random_text, saved_llama, tiny_llama, token_batch
from saeworks.cli.main import main
from saeworks.config import AuditConfig
from saeworks.errors import UserError
from saeworks.measure.audit.in_run import NAMES
from saeworks.measure.audit.run import audit_banks
from saeworks.measure.probe import HeldOutProbe

SITE = "layers.1"
ALONE = {"bootstrap": 0, "mlp": 0, "pursuit": 0, "downstream": 0, "adjacent": False}


def probe(audited: tuple[str, ...] = (SITE,)) -> HeldOutProbe:
    return HeldOutProbe(tiny_llama(), iter([token_batch(60, 150)]), 10**9, audited)


def test_the_numbers_are_those_of_the_audit() -> None:
    measured = probe()
    banks = {"one": {SITE: random_sae(1)}, "two": {SITE: random_sae(2, k=8)}}
    expected = audit_banks(banks, tiny_llama(), measured.held_out, AuditConfig(**ALONE))  # type: ignore[arg-type]
    for name in ("one", "two", "one"):  # x's moments are kept from one evaluation to the next
        found = measured(banks[name])[SITE]
        for metric in NAMES:
            section = "vector" if metric == "r2_error" else "split"
            value = expected[name].value(SITE, section, metric).value
            assert found[metric] == pytest.approx(value, rel=1e-5), metric
    assert found["held_out_fvu"] == probe(())(banks["one"])[SITE]["held_out_fvu"]


def test_affine_and_dead_saes() -> None:
    affine = probe()({SITE: Toy(16, gain=0.5)})[SITE]
    assert affine["fvu_nonlinear"] == pytest.approx(0, abs=1e-9)
    assert affine["r2_error"] == pytest.approx(1, abs=1e-9)
    assert affine["nonlinear_share"] == pytest.approx(0, abs=1e-9)
    perfect = probe()({SITE: Toy(16)})[SITE]
    assert perfect["fvu_nonlinear"] == pytest.approx(0, abs=1e-9)
    assert math.isnan(perfect["r2_error"])


def test_it_is_left_out_unless_asked_for() -> None:
    assert set(probe(())({SITE: random_sae(1)})[SITE]) == {"held_out_fvu", "delta_ce"}


def test_too_few_tokens_are_refused_before_the_run() -> None:
    with pytest.raises(UserError, match=r"train.audit: site layers.1: .* set train.eval_tokens"):
        HeldOutProbe(tiny_llama(), iter([token_batch(3, 8)]), 10**9, (SITE,))
    with pytest.raises(UserError, match=r"train.audit: .* 1 document"):
        HeldOutProbe(tiny_llama(), iter([token_batch(3, 1)]), 10**9, (SITE,))


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_logs_them_and_trains_the_same(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    saved_llama(tmp_path)
    (tmp_path / "text.txt").write_text(random_text(200))
    chosen = [
        f"model.name={tmp_path}",
        f"text.source={tmp_path / 'text.txt'}",
        "text.context=32",
        "text.held_out=0.3",
        f"sites=[{SITE}]",
        "saes=[{arch: topk, width: 32, k: 4}]",
        "train={tokens: 1280, batch: 128, eval_every: 5, eval_tokens: 500}",
    ]
    options = [word for setting in chosen for word in ("--set", setting)]
    for name, more in (("with", ["--set", "train.audit=true"]), ("without", [])):
        command = ["train", *options, *more, "--out", str(tmp_path / name), "--device", "cpu"]
        assert main(command) == 0
    audited, plain = lines(tmp_path / "with"), lines(tmp_path / "without")
    held_out = [line for line in audited if line["kind"] == "held_out"]
    assert len(held_out) == 2 and all(0 < line["fvu_nonlinear"] < 1.5 for line in held_out)
    assert all(0 < line["nonlinear_share"] < 1.5 for line in held_out)
    assert all(line["r2_error"] < 1 for line in held_out)
    assert not any(set(NAMES) & set(line) for line in plain)
    weights = [
        next((tmp_path / name).rglob("weights.safetensors")).read_bytes()
        for name in ("with", "without")
    ]
    assert weights[0] == weights[1]
    # it changes no weight, so a run may be resumed with or without it
    command = ["train", *options, "--out", str(tmp_path / "with"), "--device", "cpu"]
    assert main(command) == 0
