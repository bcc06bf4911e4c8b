import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.editing import edit
from helpers.toys import random_text, saved_llama
from saeworks.config import (
    EvalConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
)
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.run import evaluate
from saeworks.measure.sums import read_sums
from saeworks.results.result import Result
from saeworks.suite import write_suite

SITES = ("layers.0", "layers.2")
QUICK = EvalConfig(tokens=2000, splice_tokens=500, latents=3, bootstrap=50, device="cpu")


@pytest.fixture(scope="module")
def lm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    saved_llama(folder)
    (folder / "text.txt").write_text(random_text(300))
    return folder


def write(path: Path, lm_folder: Path, d: int = 16, k: int = 4, text: str = "text.txt") -> Path:
    lm = LanguageModel.load(ModelConfig(str(lm_folder)))
    run = RunConfig(
        model=ModelConfig(str(lm_folder)),
        text=TextConfig(str(lm_folder / text), context=32, held_out=0.3),
        sites=SITES,
    )
    torch.manual_seed(k)
    write_suite(
        path,
        variant=f"topk-k{k}",
        groups={site: (build_sae("topk", d=d, width=48, k=k), [site]) for site in SITES},
        normalisers={site: Normaliser(torch.zeros(d), torch.tensor(2.0)) for site in SITES},
        model={"name": lm.name, "revision": None, "fingerprint": lm.fingerprint, "layers": 3},
        text=asdict(run.text),
        config=json.loads(json.dumps(asdict(run))),
        seed=0,
        tokens=0,
        steps=0,
    )
    return path


def test_a_group_is_evaluated_as_its_sites_would_be(tmp_path: Path, lm_folder: Path) -> None:
    """One SAE that serves every site gives what copies of it, one per site, give."""
    alone = write(tmp_path / "alone", lm_folder)
    meta = json.loads((alone / "suite.json").read_text())
    sae = build_sae("topk", d=16, width=48, k=4)
    sae.initialise(torch.randn(64, 16), torch.Generator().manual_seed(0))
    suites = {}
    for name, groups in {
        "copies": {site: (sae, [site]) for site in SITES},
        "group": {"group-0": (sae, list(SITES))},
    }.items():
        write_suite(
            tmp_path / name,
            variant=name,
            groups=groups,
            normalisers={
                site: Normaliser(torch.full((16,), 0.1 * i), torch.tensor(1.0 + i))
                for i, site in enumerate(SITES)
            },
            model=meta["model"],
            text=meta["text"],
            config=meta["config"],
            seed=0,
            tokens=0,
            steps=0,
        )
        suites[name] = tmp_path / name
    found = evaluate(list(suites.values()), QUICK)
    for own, other in zip(found[suites["copies"]], found[suites["group"]], strict=True):
        assert own.values() == other.values()
        assert own.series == other.series


def test_suites_of_a_model_are_evaluated_together(tmp_path: Path, lm_folder: Path) -> None:
    paths = [write(tmp_path / f"k{k}", lm_folder, k=k) for k in (2, 4)]
    lines: list[str] = []
    found = evaluate(paths, QUICK, say=lines.append)
    assert list(found) == paths
    for path in paths:
        names = [result.evaluation for result in found[path]]
        assert names == ["reconstruction", "splice", "latents", "geometry"]
        for result in found[path]:
            assert Result.read(path / "results" / f"{result.evaluation}.json") == result
            assert result.tokens >= 500
            assert result.config["text"]["context"] == 32
        for result in found[path][:2]:
            sums = read_sums(path / "results", result)
            assert list(sums) == list(SITES)
            assert sums["layers.0"]["n"].sum() == result.tokens
        assert set(found[path][0].sites) == set(SITES)
    l0 = [found[path][0].sites["layers.0"]["l0"].value for path in paths]
    assert l0 == pytest.approx([2.0, 4.0], abs=0.2)
    assert any("held-out tokens" in line for line in lines)
    assert any("tokens/s" in line for line in lines)
    digests = [[result.config["held_out"] for result in found[path][:2]] for path in paths]
    assert digests[0] == digests[1]
    alone = evaluate(paths[1:], QUICK)
    assert alone[paths[1]] == found[paths[1]]


def test_splice_and_latents_can_be_left_out(tmp_path: Path, lm_folder: Path) -> None:
    path = write(tmp_path / "s", lm_folder)
    config = EvalConfig(
        tokens=500, splice=False, latents=0, geometry=False, bootstrap=0, device="cpu"
    )
    assert [r.evaluation for r in evaluate([path], config)[path]] == ["reconstruction"]


def test_another_text_leaves_the_suites_own_results(tmp_path: Path, lm_folder: Path) -> None:
    path = write(tmp_path / "s", lm_folder)
    config = EvalConfig(tokens=500, splice=False, latents=0, bootstrap=0, device="cpu")
    evaluate([path], config)
    own = (path / "results" / "reconstruction.json").read_bytes()
    other = tmp_path / "other.txt"
    other.write_text(random_text(60, seed=5))
    evaluate([path], config, text=TextConfig(str(other), context=16, held_out=0.5))
    assert (path / "results" / "reconstruction.json").read_bytes() == own
    result = Result.read(path / "results" / "other" / "reconstruction.json")
    assert result.config["text"]["source"] == str(other)


def test_a_model_and_a_text_that_have_moved_are_the_suites_own(
    tmp_path: Path, lm_folder: Path
) -> None:
    path = write(tmp_path / "s", lm_folder)
    moved = tmp_path / "moved"
    shutil.copytree(lm_folder, moved)
    config = EvalConfig(tokens=500, splice=False, latents=0, bootstrap=0, device="cpu")
    there: dict[str, Any] = {"model": str(moved), "text": str(moved / "text.txt")}
    own = evaluate([path], config, **there)[path][0]
    assert own.config["own"] and Result.read(path / "results" / "reconstruction.json") == own
    assert not any(p.is_dir() for p in (path / "results").iterdir())
    with (moved / "text.txt").open("a") as text:
        text.write("more")
    other = evaluate([path], config, **there)[path][0]
    assert not other.config["own"]
    assert Result.read(path / "results" / "moved-text" / "reconstruction.json") == other
    assert Result.read(path / "results" / "reconstruction.json") == own


def test_a_model_that_is_no_longer_there_is_asked_for(tmp_path: Path, lm_folder: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(lm_folder, before)
    path = write(tmp_path / "s", before)
    shutil.rmtree(before)
    bad(path, "if the model has moved, name it with --model")


def test_fewer_tokens_than_asked_for_is_said(tmp_path: Path, lm_folder: Path) -> None:
    path = write(tmp_path / "s", lm_folder)
    lines: list[str] = []
    config = EvalConfig(tokens=10**7, splice=False, latents=0, bootstrap=0, device="cpu")
    result = evaluate([path], config, say=lines.append)[path][0]
    assert 0 < result.tokens < 10**6
    assert "the text has no more" in lines[0]


def bad(path: Path, message: str, config: EvalConfig = QUICK) -> None:
    with pytest.raises(UserError, match=message) as error:
        evaluate([path], config)
    assert "\n" not in str(error.value)
    assert not (path / "results").exists()


def test_wrong_width(tmp_path: Path, lm_folder: Path) -> None:
    bad(write(tmp_path / "s", lm_folder, d=12), r"layers\.0 .* width 12, .* has 16")


def test_changed_model(tmp_path: Path, lm_folder: Path) -> None:
    path = write(tmp_path / "s", lm_folder)
    edit(path / "suite.json", lambda meta: meta["model"].update(fingerprint="0" * 64))
    bad(path, "fingerprint 000000000000")
    found = evaluate([path], QUICK, model=ModelConfig(str(lm_folder)))
    assert found[path][0].config["model"]["fingerprint"] != "0" * 64
    assert not list((path / "results").glob("*.json"))


def test_corrupted_weights(tmp_path: Path, lm_folder: Path) -> None:
    path = write(tmp_path / "s", lm_folder)
    file = path / "groups" / "layers.0" / "weights.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-7] ^= 1
    file.write_bytes(raw)
    bad(path, "weights.safetensors is corrupt")


def test_no_held_out_text(tmp_path: Path, lm_folder: Path) -> None:
    (lm_folder / "one.txt").write_text(random_text(1))
    with pytest.raises(UserError) as error:
        evaluate([write(tmp_path / "s", lm_folder, text="one.txt")], QUICK)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sites": {}, "groups": {}}, "has no SAE to evaluate"),
        ({"config": {"surprise": 1}}, "unknown key 'surprise'"),
    ],
)
def test_broken_suite(
    tmp_path: Path, lm_folder: Path, change: dict[str, object], message: str
) -> None:
    path = write(tmp_path / "s", lm_folder)
    edit(path / "suite.json", lambda meta: meta.update(change))
    bad(path, message)


def test_no_tokens_or_device(tmp_path: Path, lm_folder: Path) -> None:
    path = write(tmp_path / "s", lm_folder)
    bad(path, "device 'tpu'", EvalConfig(device="tpu"))


@pytest.mark.parametrize("documents", [1, 7])
def test_another_text_is_measured_on_whole(tmp_path: Path, lm_folder: Path, documents: int) -> None:
    path = write(tmp_path / "suite", lm_folder)
    text = random_text(documents, seed=1)
    (tmp_path / "short.txt").write_text(text)
    said: list[str] = []
    ((reconstruction, *_),) = evaluate(
        [path], QUICK, said.append, text=str(tmp_path / "short.txt")
    ).values()
    words = [word for word in text.split() if word.startswith("w")]
    assert (reconstruction.tokens, reconstruction.documents) == (len(words), documents)
    assert f"on {len(words)} tokens (of 2,000 asked for" in said[0]


def test_of_its_own_text_a_suite_is_measured_on_what_is_held_out(
    tmp_path: Path, lm_folder: Path
) -> None:
    path = write(tmp_path / "suite", lm_folder)
    link = tmp_path / "again.txt"
    link.symlink_to(lm_folder / "text.txt")
    texts = (None, str(lm_folder / "text.txt"), str(link))
    found = {text: evaluate([path], QUICK, text=text)[path][0] for text in texts}
    assert len({result.tokens for result in found.values()}) == 1
    assert all(result.config["text"]["held_out"] == 0.3 for result in found.values())
