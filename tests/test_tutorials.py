"""What the tutorials show runs, page by page, on tiny sizes."""

import json
import re
import shlex
from pathlib import Path

import pytest

from helpers.toy_suites import written_suite
from helpers.toys import random_text, saved_llama
from saeworks.cli.main import main

TUTORIALS = Path(__file__).resolve().parent.parent / "docs" / "tutorials"
SMALL = {
    "plan": "--tokens 1000 --max-documents 200",
    "cost": "--no-calibrate",
    "train": "--set train.tokens=4096 --set train.batch=512 --set buffer.memory=4MiB"
    " --set buffer.lm_batch=1024 --set buffer.normaliser_tokens=1024 --set train.eval_every=0",
    "eval": "--tokens 1500 --splice-tokens 300 --latents 4 --bootstrap 50 --overlap-tokens 64",
    "compare": "--tokens 1000 --bootstrap 50",
    "concepts": "--tokens 1500 --least 5 --k 1 --no-baselines --bootstrap 50",
    "latents": "--tokens 1000",
    "explain": "--latents 2 --tokens 2000",
    "circuits": "--prompts 8 --nodes 1 10 --attribution plain --exact 0 --bootstrap 50",
    "steer": "--prompts 8 --tokens 3000",
}
"""What is added to a command, in the place of its sizes."""
SHORT = '("embedded", "corpus.txt", sites="layers.*", tokens=1_000)'
BETWEEN = "<|endoftext|>"
ON_THE_EMBEDDED = {"groups", "switch", "latent"}
"""Tutorials that need no model of the reader's."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a page says → what is there instead, in a fresh folder."""
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    saved_llama(model)
    documents = random_text(300)
    (model / "text.txt").write_text(documents)
    Path("corpus.txt").write_text(documents)
    lines = (json.dumps({"text": text.strip()}) for text in documents.split(BETWEEN))
    Path("corpus.jsonl").write_text("\n".join(lines))
    return {"EleutherAI/pythia-70m": str(model), "The cat sat on the mat": "w5 w9 w40 w3 w17 w60"}


@pytest.mark.parametrize(
    "page", sorted(page.stem for page in TUTORIALS.glob("*.md") if page.stem != "architecture")
)
def test_a_tutorial_runs(
    page: str, here: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    if page == "audit-others":
        written_suite(Path("suite"), Path("model"), {"layers.1": ["layers.1"]})
        assert main(["convert", "suite", "path/to/saes", "--to", "saelens"]) == 0
    small = dict(SMALL)
    if page in ON_THE_EMBEDDED:
        small["train"] += " --set text.max_documents=400 --set text.held_out=0.2"
    else:
        small["train"] += " --set text.context=32"
        here["layers.3"] = "layers.1"
    here['("embedded", "embedded", sites="layers.*", tokens=100_000)'] = SHORT
    names: dict[str, object] = {}
    for kind, block in re.findall(r"```(console|python)\n(.*?)```", text(page, here), re.DOTALL):
        if kind == "python":
            exec(block, names)
            continue
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            _, program, command, *rest = shlex.split(line)
            assert program == "saeworks"
            assert main([command, *rest, *shlex.split(small.get(command, ""))]) == 0, line
    assert capsys.readouterr().out


def text(page: str, here: dict[str, str]) -> str:
    shown = (TUTORIALS / f"{page}.md").read_text()
    for old, new in here.items():
        shown = shown.replace(old, new)
    return shown
