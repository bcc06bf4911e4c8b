"""The command on suites: equal to arrays, all sites together, bad input in one line."""

import json
from pathlib import Path

import pytest
import torch

from helpers.toy_suites import SITES, random_sae, written_suite
from helpers.toys import Toy, clean_rows, held_out, random_text, saved_llama, tiny_llama
from saeworks.cli.main import main
from saeworks.config import AuditConfig
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.measure.audit import arrays
from saeworks.measure.audit.run import audit_banks
from saeworks.report.build import write_report
from saeworks.results.audit import AuditResult

CONFIG = AuditConfig(bootstrap=20, mlp=0, pursuit=0, downstream=0, adjacent=False)
SITE = "layers.1"


def test_a_suite_is_audited_as_its_arrays_are() -> None:
    lm, sample = tiny_llama(), held_out(60, 150)
    banks: dict[str, dict[str, SAE]] = {
        "four": {SITE: random_sae(1, k=4), "layers.0": random_sae(2, k=4)},
        "toy": {SITE: Toy(16, gain=0.7)},
    }
    found = audit_banks(banks, lm, sample, CONFIG)
    assert set(found) == set(banks)
    assert set(found["four"].verdicts) == {SITE, "layers.0"}
    x_ND = clean_rows(lm, SITE, sample)
    document_N = sample.row_NT[sample.keep_NT]
    for name, bank in banks.items():
        with torch.no_grad():
            x_hat_ND = bank[SITE](x_ND)
        expected = arrays.audit(x_ND, x_hat_ND, document_N, resamples=20)
        assert found[name].tokens == expected.folds["test"]
        for section in ("vector", "split", "shrinkage", "ladder", "norm"):
            for metric, value in expected.sections[section].items():
                own = found[name].value(SITE, section, metric)
                if value.value is None or metric == "condition":
                    continue
                assert own.value == pytest.approx(value.value, rel=1e-4, abs=1e-6), metric
    assert found["toy"].verdicts[SITE].degenerate is not None


def test_baselines_are_those_of_the_tokens() -> None:
    lm, sample = tiny_llama(), held_out(60, 150)
    found = audit_banks({"one": {SITE: random_sae(1)}}, lm, sample, CONFIG)["one"]
    for metric in ("r2_token", "r2_loss", "r2_l0", "r2_x_norm"):
        value = found.value(SITE, "norm", metric)
        assert value.value is not None and value.value < 1, metric
        assert metric in found.sections["norm"].metrics
    series = found.sections["positions"].series[SITE]
    assert series["first_position"][:3] in ([0, 1, 2], [1, 2, 4])
    assert sum(series["tokens"]) == found.tokens


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_llama(tmp_path)
    (tmp_path / "text.txt").write_text(random_text(200))
    suites = [
        written_suite(tmp_path / "run" / name, tmp_path, seed=seed)
        for seed, name in enumerate(["a", "b"])
    ]
    options = ["--tokens", "1500", "--bootstrap", "20", "--pursuit", "200", "--mlp", "0"]
    options += ["--downstream", "200"]
    assert main(["audit", str(tmp_path / "run"), *options]) == 0
    said = capsys.readouterr().out
    for word in (*SITES, "FVU_nl", "linear in x", "may be false", "audit.json"):
        assert word in said
    results = [AuditResult.read(suite / "results" / "audit.json") for suite in suites]
    for result in results:
        assert list(result.verdicts) == list(SITES)
        for section in result.sections.values():
            for values in section.sites.values():
                assert set(values) <= set(section.metrics)
    assert results[0].config["held_out"] == results[1].config["held_out"]
    assert main(["audit", str(suites[0]), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[str(suites[0])]
    again = AuditResult.read(suites[0] / "results" / "audit.json")
    split = found["sections"]["split"][SITES[0]]["fvu"]["value"]
    assert split == again.value(SITES[0], "split", "fvu").value
    write_report([suites[0]], tmp_path / "report")  # an audit does not disturb it


def test_a_moved_model_and_another_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    for seed, folder in enumerate((home, away)):
        folder.mkdir()
        (folder / "text.txt").write_text(random_text(120, seed))
    saved_llama(home)
    suite = written_suite(tmp_path / "suite", home)
    saved_llama(away, seed=1)  # other weights: a fine-tuned model
    options = ["--tokens", "1500", "--bootstrap", "5", "--pursuit", "0", "--mlp", "0", "--codes"]
    options += ["0", "--zeroing", "0", "--downstream", "0", "--no-adjacent"]
    command = ["audit", str(suite), *options, "--model", str(away)]
    assert main(command) == 0
    said = capsys.readouterr().out
    found = AuditResult.read(suite / "results" / "away" / "audit.json")
    assert found.config["model"]["name"] == str(away) and "results/away/audit.json" in said
    assert found.config["text"]["source"] == str(home / "text.txt")
    assert "Next: saeworks report" not in said and not (suite / "results" / "audit.json").exists()
    assert main([*command, "--text", str(away / "text.txt")]) == 0
    both = AuditResult.read(suite / "results" / "away-text" / "audit.json")
    assert both.config["text"]["source"] == str(away / "text.txt")
    assert both.config["text"]["context"] == 32  # packed as the suite's own
    assert both.config["held_out"] != found.config["held_out"]


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm, sample = tiny_llama(), held_out(60, 150)
    with pytest.raises(UserError, match=r"layers.1.*width"):
        audit_banks({"other": {SITE: Toy(8)}}, lm, sample, CONFIG)
    with pytest.raises(UserError, match=r"tokens to fit 17 parameters.*at least 136 tokens"):
        audit_banks({"one": {SITE: Toy(16)}}, lm, held_out(3, 8), CONFIG)
    broken = Toy(16, offset_D=torch.full((16,), torch.nan))
    with pytest.raises(UserError, match=r"NaN or infinity in the reconstruction of broken"):
        audit_banks({"broken": {SITE: broken}}, lm, sample, CONFIG)
    for arguments, message in [
        (["audit", str(tmp_path)], "no suite"),
        (["audit"], "at least one"),
        (["audit", str(tmp_path), "--tokens", "0"], "tokens = 0"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    path = tmp_path / "audit.json"
    path.write_text('{"schema": 7}')
    with pytest.raises(UserError, match="schema 7"):
        AuditResult.read(path)
