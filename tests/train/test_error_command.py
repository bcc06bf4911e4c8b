"""SAEs on the error of a suite, from the command line: trained, refused elsewhere, audited."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from helpers.numbers import known
from helpers.toy_suites import SITES, written_suite
from helpers.toys import random_text, saved_llama
from saeworks.activations.error import Component, component
from saeworks.cli.main import main
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.audit import folds
from saeworks.measure.audit.linear_error import read_map
from saeworks.measure.coded_errors import coded_errors
from saeworks.measure.suites import held_out_tokens
from saeworks.results.audit import AuditResult
from saeworks.suite import load_suite

QUICK = ["--bootstrap", "20", "--pursuit", "0", "--mlp", "0", "--downstream", "0", "--no-adjacent"]


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
        "train.tokens=2560",
        "train.batch=128",
        "train.eval_every=10",
        "train.eval_tokens=500",
        "train.checkpoint_every=0",
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
    said = capsys.readouterr().out
    assert "finished already" in said
    assert f"Next: saeworks audit {home / 'base'} --error-saes {trained['u']}" in said  # no eval
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


def test_an_audit_measures_them_on_their_targets(
    home: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_suite(home / "base")
    command = ["audit", str(base.path), "--error-saes", *map(str, trained.values()), *QUICK]
    assert main(command) == 0
    result = AuditResult.read(base.path / "results" / "audit.json")
    section = result.sections["error_saes"]
    lm = LanguageModel.load(base.run.model)
    sample = held_out_tokens(lm, base.run.text, base.run.seed, 200_000)
    tokens_R = torch.bincount(sample.row_NT[sample.keep_NT], minlength=sample.rows).numpy()
    fold_R = torch.from_numpy(folds.assign(tokens_R, 0))
    fold_N = fold_R[sample.row_NT[sample.keep_NT]]
    for site in SITES:
        x_ND = lm.capture(sample.tokens_NT, [site])[site][sample.keep_NT]
        for name, path in trained.items():
            suite = load_suite(path)
            maps = suite.error_maps()
            linear = read_map(maps[site]) if maps else None
            target_ND = component(name, x_ND, base.at(site), linear)  # type: ignore[arg-type]
            left_ND = (target_ND - suite.at(site)(target_ND))[fold_N == folds.TEST].double()
            spread_ND = target_ND.double() - target_ND[fold_N == folds.FIT].double().mean(dim=0)
            expected = left_ND.square().sum() / spread_ND[fold_N == folds.TEST].square().sum()
            value = section.sites[site][f"fvu_{name}"]
            assert value.value == pytest.approx(float(expected), rel=1e-4)
            assert value.low is not None and value.low < known(value.value)
            assert section.sites[site][f"l0_{name}"].value == pytest.approx(4, abs=0.1)
            assert section.series[site][name]["width"] == 32
        difference = section.sites[site]["u_minus_l"].value
        values = section.sites[site]
        assert difference == pytest.approx(
            known(values["fvu_u"].value) - known(values["fvu_l"].value)
        )
    capsys.readouterr()


def test_an_audit_refuses_what_is_not_on_its_error(
    home: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    base, other = home / "base", written_suite(home / "other", home, seed=5)
    twice = home / "twice"
    shutil.copytree(trained["u"], twice)
    capsys.readouterr()
    for suites, message in (
        ([other], "are on activations, not on an error"),
        ([trained["u"], twice], "name one"),
    ):
        command = ["audit", str(base), "--error-saes", *map(str, suites), *QUICK]
        assert message in one_line(command, capsys)
    command = ["audit", str(other), "--error-saes", str(trained["u"]), *QUICK]
    assert "is not among the suites that are audited" in one_line(command, capsys)


@pytest.mark.parametrize("part", ["e", "l", "u"])
def test_their_code_is_one_of_activations_too(
    home: Path, trained: dict[str, Path], part: Component
) -> None:
    """For studies that read codes alone: the code of x is that of the part of x's error."""
    base, suite = load_suite(home / "base"), load_suite(trained[part])
    x_ND = torch.randn(7, base.at(SITES[0]).d, generator=torch.Generator().manual_seed(0))
    for site, sae in coded_errors(suite, torch.device("cpu")).items():
        maps = suite.error_maps()
        linear = read_map(maps[site]) if maps else None
        target_ND = component(part, x_ND, base.at(site), linear)
        assert torch.equal(sae.encode(x_ND), suite.at(site).encode(target_ND))
        assert torch.equal(sae.w_dec, suite.at(site).w_dec)


def test_latents_on_an_error_are_explained_like_any(
    home: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--tokens", "3000", "--latents", "2", "--bootstrap", "20", "--json"]
    assert main(["explain", str(home / "base"), str(trained["l"]), *few]) == 0
    by_suite = json.loads(capsys.readouterr().out)
    assert by_suite.keys() == {str(home / "base"), str(trained["l"])}


def test_a_code_needs_the_suite_whose_error_it_is(
    home: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(home / "base", tmp_path / "kept")
    suite = load_suite(trained["e"])
    try:
        shutil.rmtree(home / "base")
        with pytest.raises(UserError, match=r"codes the error of .*base, which is needed"):
            coded_errors(suite, torch.device("cpu"))
        written_suite(home / "base", home, seed=1)
        with pytest.raises(UserError, match="which has changed since; restore"):
            coded_errors(suite, torch.device("cpu"))
    finally:
        shutil.rmtree(home / "base")
        shutil.copytree(tmp_path / "kept", home / "base")
