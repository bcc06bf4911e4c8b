"""Tokens per latent: of a run, a suite and its results."""

import json
from pathlib import Path

import pytest

from helpers.fakes import CONFIG, fake_trainer, shorter
from helpers.toy_suites import SITES, written_suite
from helpers.toys import random_text, saved_llama
from saeworks.config import EvalConfig
from saeworks.measure.run import evaluate
from saeworks.results import regime
from saeworks.suite import load_suite

COUNT = "tokens_per_latent"


def test_what_is_not_known_is_not_said() -> None:
    assert regime.tokens_per_latent(1_000_000, 2048) == pytest.approx(488.28125)
    assert regime.tokens_per_latent(0, 2048) is regime.tokens_per_latent(None, 4) is None
    assert regime.described([None]) is regime.caution([None, 1000.0]) is None
    assert regime.described([1000.0, 30_000.4, None]) == "1,000 to 30,000 tokens per latent"
    assert (regime.caution([999.0, 5000.0]) or "").startswith("999 tokens per latent, fewer than")
    assert regime.of_groups({"tokens": 10, "groups": {"a": {"sites": []}}}) == {"a": None}


def test_a_run_says_and_logs_it(tmp_path: Path) -> None:
    said: list[str] = []
    config = shorter(CONFIG, log_every=1)
    fake_trainer(tmp_path, config, say=said.append).run()
    widths = {"layers.0": 32, "layers.1": 24}  # twice the fake model's
    rows = -(-config.tokens // config.batch) * config.batch
    assert f"SAEs: {rows / 32:.0f} to {rows / 24:.0f} tokens per latent" in said
    assert sum("fewer than 1,000" in line for line in said) == 1
    (path, *_) = sorted(tmp_path.glob("*/metrics.jsonl"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert all(line[COUNT] == line["tokens"] / widths[line["site"]] for line in trained)
    suite = load_suite(path.parent)
    assert {s: suite.tokens_per_latent(s) for s in suite.sites} == {
        site: rows / width for site, width in widths.items()
    }


def test_a_long_run_is_not_warned_of(tmp_path: Path) -> None:
    said: list[str] = []
    trainer = fake_trainer(tmp_path, shorter(CONFIG, tokens=32_000), say=said.append)
    assert trainer._regime() == ["SAEs: 1,000 to 1,333 tokens per latent"]


def test_a_result_names_it_for_the_vectors_that_a_group_saw(tmp_path: Path) -> None:
    saved_llama(tmp_path)
    (tmp_path / "text.txt").write_text(random_text(100))
    suite = written_suite(tmp_path / "s", tmp_path, {"all": SITES}, tokens=96_000)
    config = EvalConfig(tokens=500, splice=False, latents=0, bootstrap=0, device="cpu")
    result = evaluate([suite], config)[suite][0]
    assert {v[COUNT].value for v in result.sites.values()} == {2000.0}
    assert result.metrics[COUNT].title == "Tokens per latent"
    old = load_suite(suite)
    for group in old.meta["groups"].values():
        del group["width"]  # as suites were written before
    assert old.tokens_per_latent(SITES[0]) == 2000.0
