"""`saeworks convert` on the embedded model: there and back with equal numbers, SAELens's own
folders as suites, and bad input in one line with nothing written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import saelens_by_hand as hand
from helpers.editing import edit
from saeworks.cli.main import main
from saeworks.config import ModelConfig
from saeworks.interop.hooks import hook_of, site_of
from saeworks.lm.model import LanguageModel
from saeworks.suite import load_suite

WIDTH = 128  # of the embedded model
TINY = [
    "--set", "train.tokens=2048", "--set", "train.batch=512", "--set", "train.eval_every=0",
    "--set", "buffer.memory=4MiB", "--set", "buffer.lm_batch=1024",
    "--set", "buffer.normaliser_tokens=1024", "--set", "text.max_documents=300",
    "--set", "sites=[0@resid, 1@mlp]", "--set", "saes=[{arch: topk, width: 64, k: 8}]",
]  # fmt: skip
EVALUATION = ["--tokens", "1000", "--splice-tokens", "500", "--latents", "2", "--bootstrap", "0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("convert") / "run"
    assert main(["train", *TINY, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel.load(ModelConfig())


def evaluated(suite: Path, capsys: pytest.CaptureFixture[str], *options: str) -> Any:
    capsys.readouterr()
    assert main(["eval", str(suite), *EVALUATION, *options, "--json"]) == 0
    return next(iter(json.loads(capsys.readouterr().out).values()))


def test_there_and_back_gives_the_same_numbers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, back = tmp_path / "there", tmp_path / "new" / "back"
    assert main(["convert", str(run), str(there), "--to", "saelens", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"out": str(there), "format": "saelens", "sites": ["layers.0", "layers.1.mlp"]}
    assert main(["convert", str(there), str(back), "--to", "saeworks"]) == 0
    assert f"saeworks eval {back}" in capsys.readouterr().out
    suite, original = load_suite(back), load_suite(run)
    assert suite.sites == original.sites
    assert suite.variant == original.variant
    assert suite.meta["text"] == original.meta["text"]
    assert suite.meta["model"] == original.meta["model"]
    before, after = evaluated(run, capsys), evaluated(back, capsys)
    for evaluation, sites in before.items():
        for site, metrics in sites.items():
            metrics.pop("tokens_per_latent", None)  # SAELens's files do not say
            for name, found in metrics.items():
                again = after[evaluation][site][name]["value"]
                assert again == pytest.approx(found["value"], rel=1e-5, abs=1e-6), name
    assert main(["report", str(run), str(back), "--out", str(tmp_path / "report")]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "report", "there"]


def test_what_was_left_out_of_training_stays_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"layers.0": 30.0, "layers.1.mlp": 20.0}
    source = shutil.copytree(run, tmp_path / "source", ignore=shutil.ignore_patterns("results"))
    edit(source / "suite.json", lambda meta: meta.update(norm_limits=limits))
    there, back = tmp_path / "there", tmp_path / "back"
    assert main(["convert", str(source), str(there), "--to", "saelens"]) == 0
    assert main(["convert", str(there), str(back), "--to", "saeworks"]) == 0
    found = load_suite(back)
    assert found.norm_limits == limits and found.meta["tokens"] == 2048
    config = there / "layers.1.mlp" / "cfg.json"
    for key, wrong in (("norm_limits", {"layers.0": "far"}), ("tokens", 1.5)):
        data = json.loads(config.read_text())
        data["metadata"]["saeworks"][key] = wrong
        config.write_text(json.dumps(data))
        assert main(["convert", str(there), str(tmp_path / "no"), "--to", "saeworks"]) == 2
        assert "is not what saeworks writes" in capsys.readouterr().err
        data["metadata"]["saeworks"].pop(key)  # as exports were written before
        config.write_text(json.dumps(data))
    assert main(["convert", str(there), str(tmp_path / "old"), "--to", "saeworks"]) == 0
    assert load_suite(tmp_path / "old").meta["tokens"] == 0  # one of the two does not say


def a_saelens_folder(path: Path, hooks: dict[str, str], **metadata: Any) -> Path:
    for number, (name, hook) in enumerate(hooks.items()):
        cfg = hand.config("topk", d_in=WIDTH)
        cfg["metadata"] |= {"hook_name": hook, **metadata}
        hand.save(path / name, cfg, hand.tensors("topk", WIDTH, seed=number))
    return path


def test_folders_of_saelens_become_a_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hooks = {"a": "blocks.2.hook_resid_pre", "b": "model.layers.0.mlp"}
    stories = tmp_path / "stories.jsonl"
    lines = [json.dumps({"text": f"the cat {i} sat on the mat. " * 30}) for i in range(200)]
    stories.write_text("\n".join(lines))
    about = {"seqpos_slice": [3, None], "dataset_path": str(stories)}
    source = a_saelens_folder(tmp_path / "saes", hooks, **about)
    out = tmp_path / "suite"
    assert main(["convert", str(source), str(out), "--to", "saeworks"]) == 0
    suite = load_suite(out)
    assert suite.sites == ["layers.0.mlp", "layers.1"]
    text = suite.meta["text"]
    assert (text["source"], text["context"], text["exclude_first"]) == (str(stories), 64, 3)
    assert suite.meta["model"]["name"] == "embedded"
    cfg, weights = hand.load(source / "a")
    x = torch.randn(50, WIDTH)
    expected = hand.code(cfg, weights, x)
    torch.testing.assert_close(suite.at("layers.1").encode(x), expected, rtol=1e-4, atol=1e-4)
    found = evaluated(out, capsys)
    assert found["reconstruction"]["layers.1"]["l0"]["value"] > 1
    assert main(["report", str(out)]) == 0


def test_what_the_files_do_not_say_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = a_saelens_folder(
        tmp_path / "saes",
        {"a": "blocks.1.attn.hook_z"},
        model_name=None,
        dataset_path=None,
        prepend_bos=False,
        model_from_pretrained_kwargs={"center_writing_weights": True},
    )
    out = tmp_path / "suite"
    command = ["convert", str(source), str(out), "--to", "saeworks"]
    for option, missing in (
        (["--model", "embedded"], "--model"),
        (["--text", "embedded"], "--text"),
        (["--site", "1@attn"], "--site"),
    ):
        assert main(command) == 2
        assert missing in capsys.readouterr().err
        assert not out.exists()
        command += option
    assert main(command) == 0
    assert "note: " in capsys.readouterr().err  # the weights that TransformerLens changed
    suite = load_suite(out)
    assert (suite.sites, suite.meta["text"]["bos"]) == (["layers.1.self_attn"], "none")


BAD: dict[str, tuple[list[str], str]] = {
    "no counterpart of the hook": (["blocks.1.ln1.hook_scale"], "name the site with --site"),
    "a block that is not there": (["blocks.77.hook_resid_post"], "'77@resid'"),
    "a hook with a path": (["../../layers.1"], "name the site with --site"),
    "a hook that is a pattern": (["layers.*"], "name the site with --site"),
    "one site twice": (["layers.1", "blocks.2.hook_resid_pre"], "both of site layers.1"),
    "another width": (["layers.1.mlp.up_proj"], "for activations of width 128"),
}


@pytest.mark.parametrize("case", BAD)
def test_places_that_are_none(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hooks, expected = BAD[case]
    source = a_saelens_folder(tmp_path / "saes", {str(n): hook for n, hook in enumerate(hooks)})
    refused(["convert", str(source), str(tmp_path / "out"), "--to", "saeworks"], expected, capsys)


def test_a_text_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = a_saelens_folder(tmp_path / "saes", {"a": "layers.1"})
    command = ["convert", str(source), str(tmp_path / "out"), "--to", "saeworks"]
    refused([*command, "--text", "./none.txt"], "'./none.txt': no such file", capsys)


def refused(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one line, nothing written beside the destination."""
    folder = Path(arguments[2]).parent
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert "\n" not in error
    assert sorted(folder.rglob("*")) == before


def test_sites_and_their_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = a_saelens_folder(tmp_path / "saes", {"a": "layers.1", "b": "layers.2"})
    command = ["convert", str(source), str(tmp_path / "out"), "--to", "saeworks"]
    refused([*command, "--site", "3@resid"], "1 sites for 2 SAEs (a, b)", capsys)
    refused([*command, "--site", "*@resid", "--site", "1@mlp"], "selects 6 sites", capsys)
    sites = ["--site", "4@resid", "--site", "3@resid"]
    assert main([*command, *sites]) == 0
    assert load_suite(tmp_path / "out").sites == ["layers.3", "layers.4"]


def test_one_suite_is_of_one_architecture_and_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = a_saelens_folder(tmp_path / "saes", {"a": "layers.1"})
    other = hand.config("jumprelu", d_in=WIDTH)
    hand.save(source / "b", other, hand.tensors("jumprelu", WIDTH))
    command = ["convert", str(source), str(tmp_path / "out"), "--to", "saeworks"]
    refused(command, "of one architecture", capsys)
    cfg = hand.config("topk", d_in=WIDTH)
    cfg["metadata"]["model_name"] = "another"
    hand.save(source / "b", cfg, hand.tensors("topk", WIDTH))
    refused(command, "different language models", capsys)


def test_our_own_words_are_not_believed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there"
    assert main(["convert", str(run), str(there), "--to", "saelens", "--site", "0@resid"]) == 0
    file = there / "layers.0" / "cfg.json"
    whole = json.loads(file.read_text())
    command = ["convert", str(there), str(tmp_path / "out"), "--to", "saeworks"]
    for key, value, expected in (
        ("site", "../../layers.0", "matches no module"),
        ("site", None, "not what saeworks writes"),
        ("seed", -1, "seed = -1"),
        ("text", {"sauce": "x"}, "sauce"),
        ("model", {**whole["metadata"]["saeworks"]["model"], "fingerprint": "f"}, "fingerprint f"),
    ):
        changed = json.loads(json.dumps(whole))
        changed["metadata"]["saeworks"][key] = value
        file.write_text(json.dumps(changed))
        refused(command, expected, capsys)


def test_destinations_and_sources(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    refused(["convert", str(run), str(out), "--to", "saeworks"], "is a suite already", capsys)
    refused(["convert", str(run), str(out), "--to", "sparsify"], "--to", capsys)
    refused(["convert", str(tmp_path / "no"), str(out), "--to", "saeworks"], "no such", capsys)
    refused(["convert", str(tmp_path), str(out), "--to", "saeworks"], "no SAE of a known", capsys)
    refused(["convert", str(tmp_path), str(out), "--to", "saelens"], "is not a suite", capsys)
    to_saelens = ["convert", str(run), str(out), "--to", "saelens"]
    refused([*to_saelens, "--text", "embedded"], "--text", capsys)
    refused([*to_saelens, "--site", "3@resid"], "has no site 'layers.3'", capsys)
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    refused(to_saelens, "is not empty", capsys)
    (out / "mine.txt").rename(tmp_path / "file")
    refused(
        ["convert", str(run), str(tmp_path / "file"), "--to", "saelens"], "not a folder", capsys
    )
    assert main(to_saelens) == 0  # an empty folder is a destination


def test_hooks_and_sites(lm: LanguageModel) -> None:
    for hook, site in {
        "blocks.3.hook_resid_post": "layers.3",
        "blocks.3.hook_resid_pre": "layers.2",
        "blocks.0.hook_resid_pre": "layers.0@in",
        "blocks.3.hook_attn_out": "layers.3.self_attn",
        "blocks.3.hook_mlp_out": "layers.3.mlp",
        "model.layers.3.mlp": "layers.3.mlp",
        "layers.3": "layers.3",
    }.items():
        assert site_of(hook, lm) == site
    for site in ("layers.3", "layers.3.mlp", "embed_tokens"):
        assert site_of(hook_of(site, lm), lm) == site
        assert lm.model.get_submodule(hook_of(site, lm)) is lm.base.get_submodule(site)
