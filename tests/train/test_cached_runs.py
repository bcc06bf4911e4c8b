"""`saeworks cache` and runs on what it wrote: the bytes of runs on the language model."""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.fakes import weights
from helpers.toys import random_text, saved_llama
from saeworks.activations.cache import CacheWriter
from saeworks.cli.main import main
from saeworks.lm.model import LanguageModel

RUN = [
    "text.context=32",
    "text.held_out=0.3",
    "sites=[layers.0, layers.1]",
    "saes=[{arch: topk, width: 32, k: [2, 4]}]",
    "buffer.memory=300KiB",
    "buffer.lm_batch=256",
    "train.tokens=2560",
    "train.batch=128",
    "train.eval_every=10",
    "train.eval_tokens=300",
    "train.checkpoint_every=0",
    "train.lr=0.003",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a text."""
    folder = tmp_path_factory.mktemp("home")
    saved_llama(folder)
    (folder / "text.txt").write_text(random_text(300))
    return folder


def arguments(command: str, home: Path, out: Path, *more: str) -> list[str]:
    chosen = [f"model.name={home}", f"text.source={home / 'text.txt'}", *RUN, *more]
    options = [word for setting in chosen for word in ("--set", setting)]
    return [command, *options, "--out", str(out), "--device", "cpu"]


@pytest.fixture(scope="module")
def cache(home: Path) -> Path:
    assert main(arguments("cache", home, home / "cache")) == 0
    return home / "cache"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def one_line(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(list(command)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def held_out_fvu(out: Path) -> list[float]:
    lines = [
        json.loads(x) for x in (out / "topk-w32-k2" / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    return [line["held_out_fvu"] for line in lines if line["kind"] == "held_out"]


def refuse_to_load(*_: Any) -> LanguageModel:
    raise AssertionError("a language model was loaded")


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("buffer.dtype=bfloat16", "buffer.exclude_norm_above=1.3", "buffer.normaliser=learnable"),
        ("groups=[{method: even, groups: 1}]", "text.streaming=true"),
    ],
    ids=["plain", "bfloat16 without outliers", "groups, streamed"],
)
def test_a_run_on_a_cache_has_the_bytes_of_one_on_the_model(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Sequence[str]
) -> None:
    assert main(arguments("cache", home, tmp_path / "cache", *more)) == 0
    assert main(arguments("train", home, tmp_path / "live", *more)) == 0
    monkeypatch.setattr(LanguageModel, "load", refuse_to_load)
    source = f"source.cache={tmp_path / 'cache'}"
    assert main(arguments("train", home, tmp_path / "cached", *more, source)) == 0
    live, cached = weights(tmp_path / "live"), weights(tmp_path / "cached")
    assert len(live) > 1 and live == cached
    for name in ("normalisers.safetensors",):
        folders = [next((tmp_path / run).glob("*k2*")) for run in ("live", "cached")]
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    metas = [json.loads((folder / "suite.json").read_text()) for folder in folders]
    for key in ("model", "text", "sites", "epochs", "tokens"):
        assert metas[0][key] == metas[1][key]
    assert metas[0].get("norm_limits") == metas[1].get("norm_limits")
    assert metas[1]["cost"]["flops_lm"] == 0 < metas[0]["cost"]["flops_lm"]


def test_held_out_checks_are_those_of_the_model_without_delta_ce(
    home: Path, cache: Path, tmp_path: Path
) -> None:
    assert main(arguments("train", home, tmp_path / "live")) == 0
    assert main(arguments("train", home, tmp_path / "cached", f"source.cache={cache}")) == 0
    live, cached = held_out_fvu(tmp_path / "live"), held_out_fvu(tmp_path / "cached")
    assert len(live) == 4 and cached == pytest.approx(live, rel=1e-5)


def test_what_a_run_does_not_say_is_the_caches(cache: Path, tmp_path: Path) -> None:
    command = ["train", "--out", str(tmp_path / "run"), "--set", f"source.cache={cache}"]
    command += [
        "--set",
        "train.tokens=640",
        "--set",
        "train.batch=128",
        "--set",
        "sites=[layers.1]",
    ]
    assert main([*command, "--set", "saes=[{arch: topk, width: 32, k: 4}]"]) == 0
    suite = json.loads((tmp_path / "run" / "suite.json").read_text())
    assert list(suite["sites"]) == ["layers.1"]
    assert suite["config"]["text"]["context"] == 32 and suite["config"]["buffer"]["lm_batch"] == 256


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=1", "is of another run (seed: 0 → 1)"),
        ("text.context=16", "is of another run (text.context: 32 → 16)"),
        ("model.name=embedded", 'embedded")'),
        ("buffer.dtype=bfloat16", "buffer.dtype"),
        ("sites=[layers.9]", "has no site 'layers.9'; it has layers.0, layers.1"),
        ("train.tokens=1000000", "tokens, and the run reads"),
        ("train.audit=true", "train.audit needs the language model"),
        ("error.suite=nowhere", "error needs the language model"),
        ("source.cache=nowhere", "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(
    home: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    message: str,
) -> None:
    command = arguments("train", home, tmp_path / "run", f"source.cache={cache}", setting)
    assert message in one_line(command, capsys)
    assert not (tmp_path / "run").exists()


def test_an_interrupted_cache_ends_with_the_same_bytes(
    home: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add = CacheWriter.add

    def add_and_stop(self: CacheWriter, *shard: Any) -> None:
        add(self, *shard)
        os.kill(os.getpid(), signal.SIGINT)

    command = arguments("cache", home, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(CacheWriter, "add", add_and_stop)
        assert main(command) == 130
    assert "run the same command again to go on" in capsys.readouterr().out
    assert "not finished" in one_line(
        arguments("train", home, tmp_path / "run", f"source.cache={tmp_path / 'cache'}"), capsys
    )
    assert main(command) == 0
    assert files(tmp_path / "cache") == files(cache)


def test_a_damaged_cache_is_written_again_from_there(
    home: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(cache, tmp_path / "cache")
    command, before = arguments("cache", home, tmp_path / "cache"), files(cache)
    assert main(command) == 0 and "finished already" in capsys.readouterr().out
    (tmp_path / "cache" / "shard-00001.safetensors").write_bytes(b"")
    assert main(command) == 0 and "repairing" in capsys.readouterr().out
    assert files(tmp_path / "cache") == before
    assert "holds another cache (config.seed: 0 → 1)" in one_line([*command, "--seed", "1"], capsys)


def test_a_disk_that_is_too_small_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    assert "and 9.77 KiB are free; lower train.tokens" in one_line(
        arguments("cache", home, tmp_path / "cache"), capsys
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("")
    assert "holds letter.txt and no cache" in one_line(
        arguments("cache", home, tmp_path / "other"), capsys
    )
