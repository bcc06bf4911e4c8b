"""The command line: the whole chain on the embedded model, and every bad input in one line."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from saeworks import __version__
from saeworks.cli.arguments import RunOptions
from saeworks.cli.eval import Eval, print_suite
from saeworks.cli.main import main
from saeworks.config import EvalConfig
from saeworks.dictionary.registry import ARCHS
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.results.metric import Metric, Value
from saeworks.results.result import Result

TINY = [
    "--set", "train.tokens=4096", "--set", "train.batch=512", "--set", "train.eval_every=4",
    "--set", "train.eval_tokens=512", "--set", "train.log_every=2", "--set", "buffer.memory=4MiB",
    "--set", "buffer.lm_batch=1024", "--set", "buffer.normaliser_tokens=1024",
    "--set", "text.max_documents=300", "--set", "sites=[0@resid, 1@mlp]",
]  # fmt: skip
SPARSITIES = ["--set", "saes=[{arch: topk, width: 64, k: [4, 8]}]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run with two suites."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", *TINY, *SPARSITIES, "--out", str(out)]) == 0
    return out


def test_train_writes_a_suite_per_variant(run: Path) -> None:
    metas = [json.loads(path.read_text()) for path in sorted(run.glob("*/suite.json"))]
    assert [meta["variant"] for meta in metas] == ["topk-w64-k4", "topk-w64-k8"]
    assert all(list(meta["sites"]) == ["layers.0", "layers.1.mlp"] for meta in metas)
    lines = (run / "topk-w64-k4" / "metrics.jsonl").read_text().splitlines()
    kinds = {json.loads(line)["kind"] for line in lines}
    assert kinds == {"train", "held_out"}


def test_a_finished_run_is_left_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert main(["train", *TINY, *SPARSITIES, "--out", str(run)]) == 0
    assert "finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_eval_and_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tokens", "2000", "--splice-tokens", "1000", "--latents", "4"]
    assert main(["eval", str(run), *options, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values) == 2
    for found in values.values():
        assert found["reconstruction"]["layers.0"]["fvu"]["value"] > 0
        assert "delta_ce" in found["splice"]["layers.1.mlp"]
    assert main(["report", str(run)]) == 0
    assert f"Report: {run / 'report' / 'index.html'}" in capsys.readouterr().out
    assert "topk-w64-k8" in (run / "report" / "index.html").read_text()


def test_eval_on_another_text(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = run / "topk-w64-k4"
    other = tmp_path / "other.jsonl"
    lines = [json.dumps({"text": f"the cat {i} sat \ud800 " * 40}) for i in range(100)]
    other.write_text("\n".join(lines))
    options = ["--tokens", "500", "--no-splice", "--latents", "0", "--bootstrap", "0"]
    command = ["eval", str(suite), *options, "--model", "embedded", "--text", str(other)]
    assert main(command) == 0
    assert "results/embedded-other/ in each suite" in capsys.readouterr().out
    result = json.loads((suite / "results/embedded-other/reconstruction.json").read_text())
    assert result["config"]["text"]["source"] == str(other)
    assert result["config"]["text"]["max_documents"] == 300  # the rest is the suite's own


def test_a_folder_named_like_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_suite(Path("[bold]/a[/red]"), [])
    assert "[bold]/a[/red]onheld-out" in "".join(capsys.readouterr().out.split())


def test_the_table_has_each_evaluations_own_columns(capsys: pytest.CaptureFixture[str]) -> None:
    def result(evaluation: str, metrics: dict[str, float]) -> Result:
        return Result(
            evaluation=evaluation,
            title="",
            config={},
            tokens=1,
            documents=1,
            metrics={key: Metric(f"<{key}>", "") for key in metrics},
            sites={"layers.0": {key: Value(value) for key, value in metrics.items()}},
            findings=(f"So {evaluation}.",),
        )

    dedup = result("dedup", {"fvu": 0.75, "fvu_tied_ratio": 1.5})  # its fvu is of half the tokens
    print_suite(Path("a"), [result("reconstruction", {"fvu": 0.25, "mse": 9.0}), dedup])
    out = capsys.readouterr().out
    assert out.count("<fvu>") == 1 and "0.25" in out and "0.75" not in out
    assert "<fvu_tied_ratio>" in out and "1.5" in out and "<mse>" not in out
    assert out.endswith("- So reconstruction.\n- So dedup.\n")


def test_train_without_options_only_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["train"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: saeworks train")
    assert not list(tmp_path.iterdir())


def test_help_tells_of_version_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    lines = [line.split("  ")[1] for line in said.splitlines() if line.startswith("  saeworks")]
    assert lines[1:] == ["saeworks --version", "saeworks --tyro-print-completion bash"]
    with pytest.raises(SystemExit) as stopped:
        main(["--tyro-print-completion", "bash"])
    assert not stopped.value.code and "saeworks" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["splice", "geometry", "experts"])
def test_what_an_evaluation_leaves_out(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configs: list[EvalConfig] = []
    off: dict[str, Any] = {what: False}

    def call(command: Eval) -> int:
        configs.append(command.evaluation)
        return 0

    monkeypatch.setattr(Eval, "__call__", call)
    assert main(["eval", "run", "--tokens", "7", f"--no-{what}"]) == 0
    assert main(["eval", "run"]) == 0
    assert configs == [EvalConfig(tokens=7, **off), EvalConfig()]
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    lines = capsys.readouterr().out.splitlines()
    described = next(line for line in lines if f"--no-{what} " in line)
    assert "Do not measure" in described


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--versoin"], "saeworks has no option --versoin; did you mean --version?"),
        (["--model", "x"], "no option --model; a command's options stand behind its name"),
        (["--tyro-print-completion", "foo"], "'foo': choose one of bash, zsh, fish, tcsh"),
        (["--tyro-print-completion"], "'': choose one of bash"),
        (["train", "--layers", "3"], "write --set 'sites=[3@resid]'"),
        (["train", "--steps", "1000"], "write --set 'train.tokens=…'"),
        (["train", "--epochs", "2"], "write --set 'train.tokens=…'"),
    ],
)
def test_wrong_options_are_answered_with_what_works(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and said.count("no option") <= 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"saeworks {__version__}\n"


def test_keys_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("train.lr = null: ") for line in lines)
    allowed = {line.split()[0]: line for line in lines if line}
    assert allowed["log"].endswith(" One of wandb, tensorboard.")
    assert allowed["groups[].draw"].endswith(" One of one, all.")
    assert " One of switch, " in allowed["saes[].router"]
    assert "One of" not in allowed["groups"]
    assert len(lines) > 30
    for name, architecture in ARCHS.items():
        start = lines.index(f"saes[], arch: {name}") + 1
        own = [line.split()[0] for line in lines[start : start + len(fields(architecture.Config))]]
        assert [key.rstrip(":") for key in own] == [
            f"saes[].{item.name}" for item in fields(architecture.Config)
        ]


def test_help_needs_no_torch() -> None:
    code = "import sys; from saeworks.cli.main import main\n"
    code += "try: main(['train', '--help'])\n"
    code += "except SystemExit: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_order_of_options(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {batch: 64, lr: 1.0e-3}\nseed: 1\n")
    config = RunOptions(run=file, preset="quick", set=("train.batch=32",)).config(seed=2)
    assert (config.train.batch, config.train.lr, config.seed) == (32, 1e-3, 2)
    assert config.train.tokens == 500_000  # the preset's


BAD = {
    "unknown command": (["trian"], "trian"),
    "unknown command with help": (["trian", "--help"], "did you mean 'train'?"),
    "unknown command of a command": (["bench", "stp", "--help"], "did you mean 'step'?"),
    "unknown option": (["train", "--foo"], "--foo"),
    "key of an SAE as option": (["train", "--k", "16"], "--k; write --set saes.0.k=16"),
    "key of one architecture": (["cost", "--l1=3"], "--l1; write --set saes.0.l1=3"),
    "key of a run as option": (["train", "--tokens=9"], "write --set train.tokens=9"),
    "whole key as option": (["train", "--text.context", "9"], "write --set text.context=9"),
    "list as option": (["train", "--sites", "0@mlp"], "write --set 'sites=[0@mlp]'"),
    "switch as option": (["train", "--streaming"], "write --set text.streaming=true"),
    "another tool's name": (["train", "--batch_size", "9"], "write --set train.batch=9"),
    "two keys of one name": (["train", "--dtype", "x"], "model.dtype=x or --set buffer.dtype=x"),
    "option nearly right": (["eval", "run", "--token", "9"], "did you mean --tokens?"),
    "option of a command's command": (["bench", "step", "--widt", "9"], "did you mean --width?"),
    "no place in a list": (["train", "--set", "saes.k=9"], "as in saes.0.k, or write all of it"),
    "place beyond a list": (["train", "--set", "saes.1.k=9"], "saes is a list of 1: name a place"),
    "no value": (["train", "--seed"], "--seed"),
    "not a number": (["train", "--seed", "one"], "--seed"),
    "option of bench alone": (["bench", "--roundz", "2"], "did you mean --rounds?"),
    "unknown preset": (["train", "--preset", "qick"], "'qick' is unknown; choose one of quick"),
    "missing yaml": (["train", "none.yaml"], "none.yaml: No such file"),
    "unknown key": (["train", "--set", "train.bach=1"], "'train.bach'; did you mean 'batch'"),
    "wrong type": (["train", "--set", "train.batch=many"], "'train.batch' = 'many'"),
    "no equals": (["train", "--set", "seed"], "write it as key.sub=value"),
    "no site": (["train", "--set", "sites=[]"], "sites is empty"),
    "negative seed": (["train", "--seed", "-1"], "seed = -1"),
    "seed of an evaluation": (["eval", "run", "--seed", "-1"], "seed = -1"),
    "infinite clip": (["train", "--set", "train.clip=.inf"], "train.clip = inf"),
    "infinite width": (
        ["train", "--set", "saes=[{arch: topk, expansion: .inf, k: 2}]"],
        "expansion = inf",
    ),
    "no latents to time": (["bench", "step", "--width", "0"], "width = 0"),
    "no context to time": (["bench", "lm", "--context", "0"], "context = 0"),
    "unknown device": (["train", "--device", "gpu"], "device 'gpu'"),
    "unknown architecture": (["train", "--set", "saes=[{arch: topp, width: 8, k: 1}]"], "'topp'"),
    "k above width": (["train", "--set", "saes=[{arch: topk, width: 8, k: 9}]"], "k = 9"),
    "option of no architecture": (
        ["train", "--set", "saes=[{arch: topk, width: 8, k: 2, theta: 1}]"],
        "theta",
    ),
    "sparsity of another architecture": (
        ["train", "--set", "saes=[{arch: jumprelu, width: 8, k: 2}]"],
        "unknown key 'k' (allowed: width, frozen, l0_coefficient,",
    ),
    "no sparsity": (["train", "--set", "saes=[{arch: topk, width: 8}]"], "'k' is missing"),
    "target L0 of M": (
        ["train", "--set", "saes=[{arch: gated, width: 8, target_l0: 8}]"],
        "target_l0 = 8 is not below width = 8",
    ),
    "negative coefficient": (
        ["train", "--set", "saes=[{arch: relu, width: 8, l1: -1}]"],
        "l1 = -1.0: it must be 0 or more",
    ),
    "coefficient above float32": (
        ["train", "--set", "saes=[{arch: jumprelu, width: 8, threshold: 1e39}]"],
        "threshold = 1e+39: it must be 0 or more, and at most 1e+30",
    ),
    "sizes that do not increase to M": (
        ["train", "--set", "saes=[{arch: matryoshka, width: 8, k: 2, sizes: [4, 4, 8]}]"],
        "sizes = [4, 4, 8]: nested sizes must be positive and increase to width = 8",
    ),
    "absurd width": (
        ["train", "--set", "saes=[{arch: relu, expansion: 1e30}]"],
        "at most 63 are read",
    ),
    "unknown format": (["convert", "a", "b", "--to", "sparsefy"], "choice invalid choice"),
    "unknown site": (["train", "--set", "sites=[layer.0]"], "layers.0"),
    "missing model": (["train", "--model", "./no-such-folder"], "no-such-folder"),
    "missing text": (["train", "--text", "./none.txt"], "none.txt"),
    "too little memory": (
        ["train", "--set", "buffer.memory=1KiB", "--set", "text.max_documents=50"],
        "memory",
    ),
    "no such suite": (["eval", "nowhere"], "nowhere"),
    "nothing to evaluate": (["eval"], "at least one folder"),
    "nothing to report": (["report", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = BAD[case]
    assert_refused(arguments, expected, tmp_path, monkeypatch, capsys)


def assert_refused(
    arguments: Sequence[str],
    expected: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, one line on stderr that says it, no file written."""
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert "\n" not in error
    assert sorted(folder.rglob("*")) == before


OUTS = {
    "train": ["train", "--model", "embedded", "--out", "file/a"],
    "demo": ["demo", "--out", "file/a"],
    "plan": ["plan", "--out", "file/a"],
    "cost": ["cost", "--out", "file/a.json"],
    "cost of a folder": ["cost", "--out", "."],
    "report": ["report", "SUITE", "--out", "file/a"],
    "study": ["study", "SUITE", "--out", "file/a"],
    "convert": ["convert", "SUITE", "file/a", "--to", "saelens"],
    "eval": ["eval", "SUITE"],
    "audit": ["audit", "SUITE", "--model", "embedded"],
    "compare": ["compare", "SUITE", "--baseline", "SUITE"],
}


@pytest.mark.parametrize("case", OUTS)
def test_what_cannot_be_written_is_found_before_the_work(
    case: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the work has begun")

    suite = tmp_path / "suite"
    shutil.copytree(run / "topk-w64-k4", suite)
    shutil.rmtree(suite / "results", ignore_errors=True)
    (suite / "results").write_text("no folder")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(LanguageModel, "load", load)
    arguments = [str(suite) if word == "SUITE" else word for word in OUTS[case]]
    hint = {
        "convert": "choose another destination",
        "eval": "make it writable, or copy the suite to a folder that is",
        "cost of a folder": "name a JSON file",
    }
    hint |= {"audit": hint["eval"], "compare": hint["eval"]}
    expected = hint.get(case, "choose another --out")
    assert_refused(arguments, expected, tmp_path, monkeypatch, capsys)


def test_nothing_goes_into_a_run_or_suite_of_others(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, other = run / "topk-w64-k4", run / "topk-w64-k8"
    shutil.copytree(suite, tmp_path / "copy")
    for out in (suite, suite / "groups", suite / "results" / "x", tmp_path / "copy" / "report"):
        command = ["report", str(suite), "--out", str(out)]
        assert_refused(command, "choose another --out", tmp_path, monkeypatch, capsys)
    train = ["train", *TINY, "--out", str(other / "new")]
    assert_refused(train, f"lies in {other}, which is another", tmp_path, monkeypatch, capsys)
    convert = ["convert", str(tmp_path), str(suite / "new"), "--to", "saeworks"]
    assert_refused(convert, f"lies in {suite}, another", tmp_path, monkeypatch, capsys)
    for out in (run / "both", suite / "report", tmp_path / "elsewhere"):
        assert main(["report", str(suite), "--out", str(out)]) == 0


def test_more_groups_than_sites_are_refused_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", "--groups", "9", "--text", "none.txt"]
    assert_refused(command, "--groups 9: there are", tmp_path, monkeypatch, capsys)


def test_the_next_command_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, "--set", "sites=[0@resid]", "--out", "my run"]) == 0
    *_, made, last = capsys.readouterr().out.splitlines()
    assert last == "Next: saeworks eval 'my run' && saeworks report 'my run'"
    assert shlex.split(last)[3] == "my run"
    assert made.startswith("made my run: 1 SAE in 1 suite, 4,096 tokens each, in ")
    record = json.loads(Path("my run/metrics.jsonl").read_text().splitlines()[-2])
    loss = sum(record["loss"].values())
    assert made.endswith(f"; loss {loss:.4g}, FVU {record['fvu']:.4g} at the end")


def test_runs_that_hardly_train_or_learn_by_heart_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    one = ["train", *TINY, "--set", "sites=[0@resid]"]
    assert main([*one, "--set", "train.batch=4096", "--out", "one"]) == 0
    said = capsys.readouterr().out
    assert "warning: train.tokens = 4,096 are one step of train.batch = 4,096" in said
    assert "times over" not in said
    few = ["--set", "text.max_documents=20", "--set", "train.eval_every=0"]
    assert main([*one, *few, "--out", "few"]) == 0
    said = capsys.readouterr().out
    times = re.search(r"reads its text ([0-9.]+) times over", said)
    assert times is not None
    suite = json.loads(Path("few/suite.json").read_text())
    assert (
        int(float(times[1])) <= suite["epochs"] <= float(times[1]) + 2
    )  # the ring reads a little ahead
    assert "are one step" not in said


def test_a_logger_that_is_not_there_is_found_before_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    command = ["train", "--model", "./none", "--set", "log=[wandb]"]
    expected = "log: wandb is not installed"
    assert_refused(command, expected, tmp_path, monkeypatch, capsys)


TEXTS = {
    "empty": ("", "empty"),
    "shorter than a context": ("one two\n<|endoftext|>\nthree four", "one context of 128"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_bad_text_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, expected = TEXTS[case]
    (tmp_path / "text.txt").write_text(content)
    assert_refused(["train", "--text", "text.txt"], expected, tmp_path, monkeypatch, capsys)


def test_another_run_in_the_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    assert main(["train", *TINY, *SPARSITIES, "--seed", "5", "--out", str(run)]) == 2
    assert "seed: 0 → 5" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_yaml_is_named_in_the_message(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {tokens: 1, epochs: 3}\n")
    with pytest.raises(UserError, match=r"mine\.yaml: unknown key 'train\.epochs'"):
        RunOptions(run=file).config()
