"""The precision of a run: asked for or measured once, recorded, and the same after a resume."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.fakes import CONFIG, StopAt, fake_source, fake_trainer, weights
from saeworks.cost import precision
from saeworks.cost.precision import bf16_share, choose_precision
from saeworks.dictionary.registry import build_sae
from saeworks.suite import load_suite
from saeworks.train import checkpoints

CPU = torch.device("cpu")
SAES = ({"arch": "topk", "width": 300, "k": 3},)


def measured(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Have the probe answer this share of float32's time, for encoders of every size."""
    monkeypatch.setattr(precision, "SMALL", 0)
    monkeypatch.setattr(precision, "bf16_share", lambda *_: share)


def train(out: Path, asked: str, stop: int | None = None, **options: Any) -> tuple[str, list[str]]:
    said: list[str] = []
    changed: dict[str, Any] = {"tokens": 64 * 20, "precision": asked}
    config = replace(CONFIG, **changed)
    source = fake_source()
    stopping = source if stop is None else StopAt(source, stop, signal.SIGINT)
    trainer = fake_trainer(out, config, source=stopping, saes=SAES, say=said.append, **options)
    return trainer.run(), said


def test_what_is_asked_for_is_not_measured(monkeypatch):
    measured(monkeypatch, 9.0)
    sae = build_sae("topk", d=512, width=1024, k=4)
    assert choose_precision("bf16", [sae], CPU).precision == "bf16"
    assert choose_precision("float32", [sae], CPU).precision == "float32"
    assert choose_precision("auto", [sae], CPU).precision == "float32"
    measured(monkeypatch, 0.5)
    assert choose_precision("auto", [sae], CPU).precision == "bf16"
    assert "0.50 of float32's time" in str(choose_precision("auto", [sae], CPU))


def test_a_small_encoder_is_not_measured(monkeypatch):
    monkeypatch.setattr(precision, "bf16_share", lambda *_: 0.1)
    small = build_sae("topk", d=16, width=64, k=4)
    assert choose_precision("auto", [small], CPU).precision == "float32"
    large = build_sae("topk", d=512, width=1024, k=4)
    assert choose_precision("auto", [small, large], CPU).precision == "bf16"


def test_the_probe_answers_a_share():
    assert 0.02 < bf16_share(64, 256, CPU) < 50


@pytest.mark.parametrize("asked", ["float32", "bf16", "auto: bf16", "auto: float32"])
def test_a_resumed_run_has_the_bytes_of_one_that_was_not(monkeypatch, tmp_path, asked):
    """For `auto` even where the machine answers differently after the restart."""
    asked, _, answer = asked.partition(": ")
    chosen, share = answer or asked, {"bf16": 0.1, "float32": 2.0}
    measured(monkeypatch, share[chosen])
    assert train(tmp_path / "whole", asked)[0] == "finished"
    assert train(tmp_path / "parts", asked, stop=9)[0] == "interrupted"
    measured(monkeypatch, 2.2 - share[chosen])
    state, said = train(tmp_path / "parts", asked)
    assert state == "finished"
    assert any(line.startswith(f"precision: {chosen}") for line in said)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert load_suite(tmp_path / "parts").meta["precision"] == chosen


def test_the_precision_reaches_the_step(monkeypatch, tmp_path):
    """Runs in float32 and in bf16 agree but for rounding, and not to the byte."""
    for asked in ("float32", "bf16"):
        train(tmp_path / asked, asked)
        state = checkpoints.newest(tmp_path / asked / "checkpoints", print)
        assert state is not None
        assert state.state["precision"] == asked
    ours, theirs = (weights(tmp_path / asked) for asked in ("bf16", "float32"))
    assert ours.keys() == theirs.keys()
    assert ours != theirs
