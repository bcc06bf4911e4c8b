"""A sentence's latents and single latents, against plain products."""

import json
from pathlib import Path

import pytest
import torch

import saeworks as sw
from helpers.toy_suites import SITES, written_suite
from helpers.toys import random_text, saved_llama
from saeworks.config import EvalConfig, ModelConfig
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.lm.unembedding import Unembedding
from saeworks.measure.interventions import Edit, edit_hooks
from saeworks.measure.looking.lines import latent_lines, sentence_lines
from saeworks.measure.looking.session import Looking
from saeworks.measure.run import evaluate
from saeworks.measure.studies.latents import Effects
from saeworks.results.series import Histogram, Latent
from saeworks.suite import load_suite

SITE = "layers.2"
TEXT = "w7 w8 w9 w10 w11"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of which nothing has been measured."""
    root = tmp_path_factory.mktemp("looking")
    saved_llama(root / "lm")
    (root / "lm" / "text.txt").write_text(random_text(60))
    return written_suite(root / "suite", root / "lm")


def test_a_sentence_is_coded_token_by_token(folder: Path) -> None:
    latents = sw.latents(folder, SITE)
    looked = latents.text(TEXT, top=2)
    lm, sae = latents.looking.lm, load_suite(folder).at(SITE)
    f_TM = sae.encode(lm.capture(TEXT, SITE)[1:])
    assert [token.strip() for token in looked.tokens] == TEXT.split()  # and no BOS
    for f_M, row in zip(f_TM, looked.firings, strict=True):
        order = [int(i) for i in f_M.argsort(descending=True) if f_M[i] > 0]
        assert [firing.latent for firing in row] == order
        assert [firing.activation for firing in row] == pytest.approx(f_M[order].tolist())
    total_M = f_TM.sum(dim=0)
    assert list(looked.promoted) == total_M.argsort(descending=True)[:8].tolist()
    promoted, _ = Unembedding.of(lm).top(sae.w_dec, 10)
    first = next(iter(looked.promoted))
    assert [e.token.strip() for e in looked.promoted[first]] == [
        f"w{i}" for i in promoted.token_Mn[first].tolist()
    ]
    assert "strongest latents" in repr(looked)
    assert looked._repr_html_().count("<tr>") == 6


def test_sites_share_a_pass_and_agree(folder: Path) -> None:
    looking = Looking(load_suite(folder))
    both = looking.sentences(TEXT, SITES)
    assert list(both) == list(SITES)
    assert both[SITE] == sw.latents(folder, SITE).text(TEXT).sentence
    assert looking.sites(["*@resid"]) == list(SITES)
    assert looking.sites(["2@resid", "layers.0"]) == list(SITES)


def test_a_latent_on_demand_is_the_latent_of_an_evaluation(folder: Path) -> None:
    latents = sw.latents(folder, SITE, tokens=400)
    fired = sorted({f.latent for row in latents.text(TEXT).firings for f in row})
    on_demand = latents[fired[0]]
    assert not (folder / "results").exists()  # nothing is written
    evaluate([folder], EvalConfig(tokens=400, latents=48, splice=False, geometry=False))
    file = folder / "results" / "latents.json"
    series = json.loads(file.read_text())["series"][SITE]["latents"]
    (entry,) = [entry for entry in series if entry["latent"] == fired[0]]
    stored = sw.latents(folder, SITE)[fired[0]]
    assert str(file) in stored.about
    assert str(file) not in on_demand.about
    assert stored.frequency == entry["frequency"] == pytest.approx(on_demand.frequency)
    assert [c.tokens for c in stored.contexts] == [c.tokens for c in on_demand.contexts]
    for name in ("promoted", "suppressed", "neighbours", "partners", "histogram", "expert"):
        assert getattr(stored, name) == getattr(on_demand, name), name
    assert stored.number == fired[0]
    lines = repr(stored).splitlines()
    assert lines[0] == f"Latent {fired[0]} of {SITE}"
    html = stored._repr_html_()
    assert html.count("<div") == len(stored.contexts)
    assert "&lt;" not in html.partition("<div")[0].replace("«", "")


def test_generation_is_edited_as_interventions_edit(folder: Path) -> None:
    latents = sw.latents(folder, SITE)
    lm, number = latents.looking.lm, latents.text(TEXT).firings[-1][0].latent
    written = latents[number].generate(TEXT, add=50.0, new_tokens=4)
    sae = load_suite(folder).at(SITE)
    hooks = edit_hooks({SITE: sae}, [Edit(SITE, number, "add", 50.0)])
    for text, tokens_1X in (
        (written.before, lm.generate(TEXT, new_tokens=4)),
        (written.after, lm.generate(TEXT, hooks, new_tokens=4)),
    ):
        assert text.split() == [f"w{i}" for i in tokens_1X[0, 1:].tolist() if i]
    assert written.before != written.after
    assert repr(written) == f"before: {written.before}\nafter:  {written.after}"
    for edits in ({}, {"add": 1.0, "ablate": True}):
        with pytest.raises(UserError, match=r"is edited in one way, not \d; give one of add=…"):
            latents[number].generate(TEXT, **edits)
    with pytest.raises(UserError, match="the prompt is empty"):
        latents[number].generate(" ", ablate=True)


def test_what_does_not_exist_or_never_fires_ends_in_one_line(folder: Path, tmp_path: Path) -> None:
    def silenced(sae: sw.SAE) -> None:
        sae.w_enc[7] = 0
        sae.get_parameter("b_enc")[7] = -1e6

    lm_folder = folder.parent / "lm"
    with torch.no_grad():
        path = written_suite(tmp_path / "suite", lm_folder, change=silenced)
    latents = sw.latents(path, SITE, tokens=300)
    with pytest.raises(UserError, match=r"latent 48 at layers.2 does not exist: .* 0 to 47"):
        latents[48]
    for number in (-1, True, 1.0, "3"):
        with pytest.raises(UserError, match="does not exist"):
            latents[number]
    with pytest.raises(UserError, match=r"latent 7 at layers.2 never fires on \d+ held-out .* as"):
        latents[7]
    for text in ("", "  "):
        with pytest.raises(UserError, match="the text is empty"):
            latents.text(text)
    with pytest.raises(UserError, match="longer than the 64"):
        latents.text("w7 " * 100)
    with pytest.raises(UserError, match=r"2 sites; name one of layers.0, layers.2"):
        sw.latents(path)
    with pytest.raises(UserError, match=r"'\*@resid' is 2 sites"):
        sw.latents(path, "*@resid")
    with pytest.raises(UserError, match=r"has no SAE at site 'layers.1'; it has layers.0"):
        sw.latents(path, "layers.1")
    with pytest.raises(UserError, match="is not a suite"):
        sw.latents(tmp_path / "nowhere")


def test_a_suite_of_a_tensor_wants_a_model_and_a_text(tmp_path: Path) -> None:
    options, lines = {"arch": "topk", "width": 32, "k": 4}, list[str]()
    sw.train(
        torch.randn(512, 16), tmp_path / "suite", options, tokens=512, batch=64, say=lines.append
    )
    with pytest.raises(
        UserError, match=r"trained on a tensor .*: name them with --model and --corpus"
    ):
        sw.latents(tmp_path / "suite")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_are_no_wider_than_asked(folder: Path, width: int) -> None:
    looking = Looking(load_suite(folder))
    sentence = looking.sentences(TEXT, [SITE])[SITE]
    lines = sentence_lines(sentence, 5, width, looking.promoted(SITE, sentence.strongest(3)))
    assert max(map(len, lines)) <= width
    record, about = looking.latent(SITE, sentence.strongest(1)[0])
    assert max(map(len, latent_lines(record, SITE, about, "some", width))) <= width


def test_a_latent_without_anything_near_is_told(folder: Path) -> None:
    bare = Latent(3, 0.5, 1.0, 2.0, Histogram([0.0, 1.0], [1]), [], [])
    lines = latent_lines(bare, SITE, "here", "none", 60)
    assert lines[3:7] == [
        f"{name:12}none" for name in ("promotes", "suppresses", "near", "fires with")
    ]


@pytest.mark.real
def test_a_latent_that_points_to_a_word_promotes_it(real_data: Path) -> None:
    lm = LanguageModel.load(ModelConfig(str(real_data / "tinystories-neox-6L256")))
    (token,) = lm.tokenizer.encode(" dog", add_special_tokens=False)
    found = Unembedding.of(lm)
    weight_VD = found.weight_VD.float()
    row_D = (weight_VD[token] - weight_VD.mean(dim=0)) / found.gain_D
    sae = build_sae("topk", lm.width(lm.blocks[-1]), width=8, k=2).requires_grad_(False)
    sae.w_dec[3] = row_D
    top, _ = Effects(lm).at(lm.blocks[-1]).top(sae, torch.tensor([3]))
    assert int(top.token_Mn[0, 0]) == token
