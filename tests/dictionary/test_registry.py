"""Architectures of a user's own script."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import saeworks as sw
from helpers.fakes import fake_trainer
from saeworks.dictionary.registry import ARCHS

OURS = len(ARCHS)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "architecture.md"
(SCRIPT,) = re.findall(r"```python\n(# absolute.py\n.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def absolute() -> Any:
    """The script's architecture, known to this process for a test."""
    names: dict[str, Any] = {"__name__": __name__}
    exec(SCRIPT, names)
    yield names["Absolute"]
    ARCHS._registered.clear()


def test_an_architecture_of_a_script_is_one_like_any_other(absolute: Any, tmp_path: Path) -> None:
    assert ARCHS["absolute"] is absolute and "absolute" in list(ARCHS) and len(ARCHS) == OURS + 1
    assert repr(sw.build_sae("absolute", d=6, width=64)) == "Absolute(d=6, width=64)"
    sae = sw.build_sae("absolute", d=6, width=24, k=2)
    assert repr(sae) == "Absolute(d=6, width=24, k=2)"
    x = torch.randn(5, 6)
    assert sae(x.bfloat16()).dtype == torch.bfloat16 and (sae.encode(x) > 0).sum() == 10
    with pytest.raises(sw.UserError, match=r"unknown key 'kk'; did you mean 'k'"):
        sw.build_sae("absolute", d=6, width=24, kk=3)
    with pytest.raises(sw.UserError, match=r"'width' = 'a'"):
        sw.build_sae("absolute", d=6, width="a")
    saes: Any = ({"arch": "absolute", "width": 24, "k": 3},)
    assert fake_trainer(tmp_path, saes=saes).run() == "finished"
    suite = sw.load_suite(tmp_path)
    assert "Absolute(d=16, width=24, k=3)" in str(suite)
    ARCHS._registered.clear()
    with pytest.raises(sw.UserError, match=r"'absolute' is unknown.*sw\.register"):
        sw.load_suite(tmp_path).at("layers.0")


def test_a_cell_that_is_run_again_registers_again(absolute: Any) -> None:
    again = type("Absolute", (absolute,), {})
    assert sw.register(again) is again and ARCHS["absolute"] is again and len(ARCHS) == OURS + 1


@dataclass
class Thawed:
    width: int


@dataclass(frozen=True)
class Narrow:
    k: int


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arch": "topk"}, r"arch = 'topk' is one of the package's"),
        ({"arch": "My Own"}, r"arch = 'My Own': a name in lower case"),
        ({"arch": None}, r"arch = None: a name"),
        ({"Config": Thawed}, r"Config must be a frozen dataclass with a field width"),
        ({"Config": Narrow}, r"Config must be a frozen dataclass with a field width"),
        ({"Config": dict}, r"Config must be a frozen dataclass"),
    ],
)
def test_what_is_no_architecture_is_refused(
    absolute: Any, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(sw.UserError, match=said):
        sw.register(type("Other", (absolute,), changes))
    for wrong in (7, dict, sw.build_sae("topk", d=2, width=2, k=1)):
        with pytest.raises(sw.UserError, match=r"is no subclass of sw\.SAE"):
            ARCHS.add(wrong)
    with pytest.raises(sw.UserError, match=r"Half lacks encode_rows, folded, initialise, step;"):
        sw.register(type("Half", (sw.SAE,), {"arch": "half", "Config": Narrow}))


def test_a_script_is_the_command_with_its_architecture(tmp_path: Path) -> None:
    script = tmp_path / "absolute.py"
    script.write_text(SCRIPT)
    keys = subprocess.run(
        [sys.executable, str(script), "train", "--keys"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "absolute" in keys.stdout and "saes[].k = 32" in keys.stdout
    run = {
        "sites": ["layers.1"],
        "saes": [{"arch": "absolute", "width": 64}],
        "text": {"max_documents": 300, "context": 32},
        "train": {"tokens": 512, "batch": 256, "eval_every": 0},
        "buffer": {"memory": "2MiB", "normaliser_tokens": 300, "lm_batch": 512},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    command = [sys.executable, str(script), "train", "run.yaml", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "suite.json").is_file()
    alone = subprocess.run(
        [sys.executable, "-m", "saeworks", "eval", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 2 and "'absolute' is unknown" in alone.stderr
