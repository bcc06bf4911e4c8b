"""`saeworks advise` from end to end on the embedded model, and what it refuses."""

import json
from pathlib import Path

import pytest

import saeworks as sw
from saeworks.advice import pilot, pilots
from saeworks.cli.main import main
from saeworks.config import RunConfig, from_mapping, read_yaml
from saeworks.errors import UserError
from saeworks.results.names import LOG

BUDGET = "1.5e11flops"
TINY = [
    "--set", "sites=[0@resid, 1@resid, 2@resid]", "--set", "text.max_documents=300",
    "--set", "buffer.memory=4MiB", "--set", "buffer.lm_batch=1024",
    "--set", "buffer.normaliser_tokens=1024", "--set", "text.context=32",
    "--set", "train.eval_tokens=256",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _short_pilots() -> object:
    """Pilots of some hundred tokens."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (pilot, pilots):
            patch.setattr(module, "EVAL_TOKENS", (256, 128))
            patch.setattr(module, "LEAST_TOKENS", 512)
        patch.setattr(pilot, "STEPS", 16)
        patch.setattr(pilot, "BATCHES", (32, 64))
        patch.setattr(pilots, "_CALIBRATION", 0.01)
        yield


@pytest.fixture(scope="module")
def advised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("advise") / "out"
    assert main(["advise", *TINY, "--budget", BUDGET, "--k", "8", "--out", str(out)]) == 0
    return out


def test_advice_is_within_the_budget(advised: Path) -> None:
    advice = json.loads((advised / "advice.json").read_text())
    best, other = advice["best"], advice["runner_up"]
    assert advice["pilots"]["share_of_budget"] <= 0.1
    assert advice["pilots"]["flops"] + best["flops"] <= 1.5e11
    for found in (best, other):
        assert list(found["sites"]) == ["layers.0", "layers.1", "layers.2"]
        for values in (found["fvu"], found["delta_ce"], found["seconds"]):
            assert 0 < values["low"] < values["value"] < values["high"]
    assert (best["groups"], best["experts"]) != (other["groups"], other["experts"])
    assert best["fvu"]["high"] <= other["fvu"]["high"] * 1.05  # ranked without the sites' scatter


def test_the_pilots_share_passes_of_the_language_model(advised: Path) -> None:
    runs = {folder.name: folder for folder in (advised / "pilots").iterdir()}
    assert set(runs) == {"layers", "short", "long"}
    layers = {path.parent.name for path in runs["layers"].glob(f"*/{LOG}")}
    assert layers == {"topk-x2-k8", "topk-x2-k8-g1-even"}
    short, long = ({p.parent.name for p in runs[n].glob(f"*/{LOG}")} for n in ("short", "long"))
    assert short == {"topk-x2-k16", "topk-x8-k8", "switch-x8-k8-experts4"}
    assert long == short | {"topk-x2-k8"}


def test_the_yaml_is_a_run_that_trains(advised: Path, tmp_path: Path) -> None:
    advice = json.loads((advised / "advice.json").read_text())
    for name in ("run.yaml", "runner-up.yaml"):
        config = from_mapping(RunConfig, read_yaml(advised / name), name)
        assert config.text.max_documents == 300
    best = advice["best"]
    config = from_mapping(RunConfig, read_yaml(advised / "run.yaml"), "run.yaml")
    assert config.train.tokens == best["tokens"]
    assert config.saes[0]["k"] == 8
    out = tmp_path / "run"
    shorter = ["--set", "train.tokens=256", "--set", "train.eval_tokens=128"]
    assert main(["train", str(advised / "run.yaml"), *shorter, "--out", str(out)]) == 0
    assert len(json.loads((out / "suite.json").read_text())["groups"]) == best["groups"]


def test_asking_again_uses_the_pilots(advised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["advise", *TINY, "--budget", BUDGET, "--k", "8", "--out", str(advised)]
    before = (advised / "advice.json").read_text()
    high = json.loads(before)["best"]["fvu"]["high"]
    logs = {path: path.read_bytes() for path in advised.glob(f"pilots/*/*/{LOG}")}
    assert main([*command, "--target", f"fvu={1.2 * high:.4f}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"]["flops"] < json.loads(before)["best"]["flops"]
    assert found["best"]["fvu"]["high"] <= 1.3 * high
    assert {path: path.read_bytes() for path in logs} == logs
    assert main([*command, "--target", "fvu=0.0001"]) == 2
    assert "is below what k = 8 allows" in capsys.readouterr().err
    assert main([*command[:-1], str(advised), "--seed", "1"]) == 2
    assert "is of pilots with another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--budget", "1e6flops"], "too small for pilots, which take"),
        (["--budget", "0.01s"], "too small for pilots, which take"),
        (["--budget", "1MiB"], "too small for pilots, which take"),
        (["--budget", BUDGET, "--k", "4096"], "wide enough for 64; lower --k"),
        (["--budget", BUDGET, "--k", "0"], "k = [0]"),
        (["--budget", BUDGET, "--set", "text.max_documents=2"], "give more text"),
        (["--budget", BUDGET, "--set", "error.suite=x"], "leave out source.cache"),
        (["--budget", "2x"], "budget '2x'"),
        (["--budget", BUDGET, "--target", "x=1"], "write fvu=0.1"),
    ],
)
def test_refusals(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    k = [] if "--k" in more else ["--k", "8"]
    assert main(["advise", *TINY, *k, *more, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_in_python() -> None:
    with pytest.raises(UserError, match="budget '2x'"):
        sw.advise(budget="2x")
