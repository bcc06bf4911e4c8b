"""SAEs on the error of a suite, from the command line: trained, refused elsewhere, audited."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from toy_suites import SITES, written_suite
from toys import random_text, saved_llama

from saeforge.cli import main
from saeforge.suite import load_suite


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a text and a suite of it."""
    folder = tmp_path_factory.mktemp("home")
    saved_llama(folder)
    (folder / "text.txt").write_text(random_text(300))
    written_suite(folder / "base", folder)
    return folder


def arguments(home: Path, out: Path, *settings: str) -> list[str]:
    """A short run on the suite's error."""
    chosen = [
        f"model.name={home}",
        f"text.source={home / 'text.txt'}",
        "text.context=32",
        "text.held_out=0.3",
        f"sites=[{', '.join(SITES)}]",
        "saes=[{arch: topk, width: 32, k: 4}]",
        f"error.suite={home / 'base'}",
        "error.tokens=2000",
        "train.tokens=5120",
        "train.batch=128",
        "train.eval_every=20",
        "train.eval_tokens=500",
        "train.checkpoint_every=15",
        "train.lr=0.003",
        *settings,
    ]
    options = [word for setting in chosen for word in ("--set", setting)]
    return ["train", *options, "--out", str(out), "--device", "cpu"]


def one_line(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(list(command)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.fixture(scope="module")
def trained(home: Path) -> dict[str, Path]:
    """Component → a suite on it."""
    torch.set_num_threads(1)
    found = {}
    for name in ("e", "l", "u"):
        found[name] = home / f"on-{name}"
        assert main(arguments(home, found[name], f"error.component={name}")) == 0
    return found


def test_a_suite_says_whose_error_it_codes(home: Path, trained: dict[str, Path]) -> None:
    base, on_u = load_suite(home / "base"), load_suite(trained["u"])
    assert on_u.error is not None
    assert on_u.error["component"] == "u" and on_u.error["digest"] == base.digest()
    assert on_u.error["fit"][SITES[0]]["tokens"] == 2000
    assert set(on_u.error_maps()) == set(SITES)
    assert load_suite(trained["e"]).error_maps() == {} and base.error is None
    lines = [json.loads(line) for line in (trained["u"] / "metrics.jsonl").read_text().splitlines()]
    held_out = [line for line in lines if line["kind"] == "held_out"]
    assert len(held_out) == 2 * len(SITES)
    assert all("delta_ce" not in line for line in held_out)
    assert held_out[-1]["held_out_fvu"] < held_out[0]["held_out_fvu"] < 1.5


def test_a_finished_run_is_left_as_it_is(
    home: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained["u"] / "suite.json").read_bytes()
    assert main(arguments(home, trained["u"], "error.component=u")) == 0
    assert "finished already" in capsys.readouterr().out
    assert (trained["u"] / "suite.json").read_bytes() == before


def test_what_splices_or_converts_refuses_it(
    home: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for command in (
        ["eval", str(trained["u"])],
        ["audit", str(trained["u"])],
        ["convert", str(trained["u"]), str(home / "elsewhere"), "--to", "saelens"],
        arguments(home, home / "twice", f"error.suite={trained['u']}"),
    ):
        assert "codes the error (u)" in one_line(command, capsys)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sites=[layers.1]", "no SAE at layers.1; set sites"),
        ("error.tokens=20", "error.tokens = 20: too few"),
        ("error.tokens=0", "error.tokens = 0: it must be at least 1"),
        ("error.suite=nowhere", "nowhere is not a suite"),
        ("error.component=x", "error.component"),
        ("error.sae=x", "unknown key 'error.sae'"),
        ("train.audit=true", "train.audit"),
    ],
)
def test_bad_input(
    home: Path, setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(home, home / "bad", "error.component=u", setting)
    assert message in one_line(command, capsys)
