import json
import shutil
from pathlib import Path

import pytest

from helpers.toy_suites import SITES, written_suite
from helpers.toys import random_text, saved_llama
from saeworks.cli.main import main
from saeworks.files.seals import read_sealed


def test_eval_then_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that no heading is broken into two lines
    saved_llama(tmp_path)
    moved = shutil.copytree(tmp_path, tmp_path / "moved")
    (tmp_path / "text.txt").write_text(random_text(200))
    base = written_suite(tmp_path / "base", tmp_path, tokens=480_000)
    seed = written_suite(tmp_path / "base-1", tmp_path, seed=3)
    shared = written_suite(tmp_path / "run" / "g1", tmp_path, {"all": SITES}, seed=9, tokens=24_000)
    run = shared.parent
    assert main(["compare", str(run), "--baseline", str(base)]) == 2
    assert "run `saeworks eval`" in capsys.readouterr().err
    options = ["--tokens", "1000", "--splice-tokens", "300", "--latents", "0", "--bootstrap", "20"]
    assert main(["eval", str(run), str(base), *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "500 tokens per latent, fewer than 1,000" in said and "10,000 tokens" not in said
    options = ["--tokens", "500", "--bootstrap", "20"]
    assert main(["compare", str(run), "--baseline", str(base), str(seed), *options]) == 0
    said = capsys.readouterr().out
    assert "trained on 24,000 and 480,000 tokens; 500 tokens per latent, fewer than" in said
    for word in (*SITES, "mean over sites", "ratio", "(other seeds)", "comparison.json"):
        assert word in said
    (tmp_path / "config.json").rename(tmp_path / "gone.json")
    arguments = ["compare", str(run), "--baseline", str(base), *options]
    assert main([*arguments, "--model", str(moved)]) == 0
    assert main(arguments) == 2 and "--model" in capsys.readouterr().err
    arguments = ["compare", str(run), "--baseline", str(base), "--no-alignment", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    file = shared / "results" / "comparison.json"
    assert found == {str(shared): read_sealed(file, "comparison", "saeworks compare")}
    for arguments, message in [
        (["compare", str(run)], "--baseline"),
        (["compare", str(run), "--baseline", str(tmp_path)], "holds several suites"),
        (["compare", "--baseline", str(base)], "at least one"),
        (["compare", str(run), "--baseline", str(base), "--tokens", "0"], "tokens = 0"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
