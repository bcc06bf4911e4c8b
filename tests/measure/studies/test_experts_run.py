"""Switch suites through `saeworks eval`, on the tiny Llama and on the embedded text and model."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.toys import random_text, saved_llama
from saeworks.config import (
    EvalConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
)
from saeworks.dictionary.base import SAE
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.registry import build_sae
from saeworks.embedded.grammar import DOMAINS, document
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.measure.held_out import HeldOut
from saeworks.measure.known import labels_of, truth_of, with_label
from saeworks.measure.run import evaluate
from saeworks.measure.suites import held_out_tokens
from saeworks.results.result import Result
from saeworks.suite import write_suite

EMBEDDED = TextConfig("embedded", context=64, max_documents=300, held_out=0.3)
QUICK = EvalConfig(tokens=3000, splice=False, latents=0, bootstrap=20, overlap_tokens=64)


def written(
    path: Path, run: RunConfig, groups: Mapping[str, tuple[SAE, Sequence[str]]], d: int
) -> Path:
    lm = LanguageModel.load(run.model)
    write_suite(
        path,
        variant=path.name,
        groups=groups,
        normalisers={site: Normaliser(torch.zeros(d), torch.tensor(2.0)) for site in run.sites},
        model={"name": lm.name, "revision": None, "fingerprint": lm.fingerprint, "layers": 3},
        text=asdict(run.text),
        config=json.loads(json.dumps(asdict(run))),
        seed=0,
        tokens=0,
        steps=0,
    )
    return path


def a_switch(d: int, **options: object) -> SAE:
    torch.manual_seed(0)
    return build_sae("switch", d=d, **({"width": 48, "k": 4, "experts": 4} | options))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A Switch SAE with copies in two experts, and a TopK SAE, on the embedded model."""
    folder = tmp_path_factory.mktemp("embedded")
    run = RunConfig(model=ModelConfig("embedded"), text=EMBEDDED, sites=("layers.3",))
    switch = a_switch(128)
    for weight in (switch.w_enc, switch.w_dec):
        weight.data[13] = weight.data[0]
        weight.data[1] = weight.data[0]
    dense = build_sae("topk", d=128, width=48, k=4)
    saes = {"switch": switch, "topk": dense}
    return [
        written(folder / name, run, {"layers.3": (sae, ["layers.3"])}, 128)
        for name, sae in saes.items()
    ]


def test_every_file_on_the_embedded_text(embedded: list[Path]) -> None:
    config = EvalConfig(
        **(asdict(QUICK) | {"consistency": True, "dedup": 0.9, "blocks": 4, "tsne": 20})
    )
    found = evaluate(embedded, config)
    switch, dense = ({result.evaluation: result for result in found[path]} for path in embedded)
    assert list(switch) == ["reconstruction", "geometry", "experts", "consistency", "dedup"]
    assert list(dense) == ["reconstruction", "geometry", "consistency", "dedup"]
    for path, results in zip(embedded, (switch, dense), strict=True):
        for name, result in results.items():
            assert Result.read(path / "results" / f"{name}.json") == result
            assert set(result.sites) == {"layers.3"}
    values = switch["experts"].sites["layers.3"]
    assert values["domain_information"].value is not None
    domains = switch["experts"].series["layers.3"]["domains"]
    assert domains["labels"] == sorted(name for name, _, _ in DOMAINS)
    cells = {name: r["consistency"].series["layers.3"]["cells"] for name, r in
             {"switch": switch, "dense": dense}.items()}  # fmt: skip
    assert cells == {
        "switch": {"kind": "experts", "blocks": 4},
        "dense": {"kind": "cut", "blocks": 4},
    }
    assert switch["consistency"].sites["layers.3"]["concepts"].value > 5  # type: ignore[operator]
    dedup = {name: v.value for name, v in switch["dedup"].sites["layers.3"].items()}
    assert dedup["live"] - dedup["distinct"] == 2  # type: ignore[operator]
    assert dedup["live"] - dedup["merged"] == 1  # type: ignore[operator]
    assert dedup["fvu_tied_ratio"] == pytest.approx(1, abs=1e-5)
    assert dedup["fvu_merged_ratio"] == pytest.approx(1, abs=0.2)
    assert dedup["fvu_merged_ratio"] != 1
    plain = {name: v.value for name, v in dense["dedup"].sites["layers.3"].items()}
    assert plain["live"] == plain["distinct"] == plain["merged"]
    assert plain["fvu_merged_ratio"] == plain["fvu_tied_ratio"] == 1


def test_a_group_and_every_kind_of_site(tmp_path: Path) -> None:
    """Attention, MLP and a group with a router per site, on a model and text that know nothing."""
    saved_llama(tmp_path)
    (tmp_path / "text.txt").write_text(random_text(200))
    sites = ("layers.0", "layers.1.self_attn", "layers.1.mlp", "layers.2")
    run = RunConfig(
        model=ModelConfig(str(tmp_path)),
        text=TextConfig(str(tmp_path / "text.txt"), context=32, held_out=0.4),
        sites=sites,
    )
    shared = a_switch(16, router="layer", width=32, k=2)
    shared.share(2)
    groups = {
        "group-0": (shared, [sites[0], sites[3]]),
        "attention": (a_switch(16, router="top-n", active=2), [sites[1]]),
        "mlp": (build_sae("topk", d=16, width=48, k=4), [sites[2]]),
    }
    path = written(tmp_path / "suite", run, groups, 16)
    found = {result.evaluation: result for result in evaluate([path], QUICK)[path]}
    assert set(found["geometry"].sites) == set(sites)
    assert set(found["experts"].sites) == set(sites) - {sites[2]}
    assert "domain_information" not in found["experts"].metrics
    with pytest.raises(UserError, match="no concepts are known of the text") as error:
        evaluate([path], EvalConfig(**(asdict(QUICK) | {"consistency": True})))
    assert "\n" not in str(error.value)
    off = EvalConfig(**(asdict(QUICK) | {"geometry": False, "experts": False}))
    assert [result.evaluation for result in evaluate([path], off)[path]] == ["reconstruction"]


@pytest.fixture(scope="module")
def held_out_embedded() -> tuple[LanguageModel, HeldOut]:
    lm = LanguageModel.load(ModelConfig("embedded"))
    return lm, held_out_tokens(lm, EMBEDDED, 3, 2000)


def test_the_truth_stands_on_the_right_tokens(
    held_out_embedded: tuple[LanguageModel, HeldOut],
) -> None:
    """Every kept token's word has the part of speech that the grammar gave it."""
    lm, held_out = held_out_embedded
    truth = truth_of(EMBEDDED, 3, lm, held_out)
    assert truth.stands.shape == (held_out.kept, len(truth.concepts))
    words = lm.tokenizer.convert_ids_to_tokens(held_out.tokens_NT[held_out.keep_NT].tolist())
    numbers = held_out.document_NT[held_out.keep_NT].tolist()
    known = {n: document(3, n) for n in set(numbers)}
    kinds: dict[tuple[int, str], set[str]] = {}
    for number, one in known.items():
        for token, labels in zip(one.tokens, one.concepts, strict=True):
            kinds.setdefault((number, token), set()).add(labels["part_of_speech"])
    speech = [at for at, (name, _) in enumerate(truth.concepts) if name == "part_of_speech"]
    for at, (word, number) in enumerate(zip(words, numbers, strict=True)):
        own = [truth.concepts[c][1] for c in truth.stands[at].indices if c in speech]
        assert len(own) == 1 and own[0] in kinds[number, word]


def test_labels_are_the_domains(held_out_embedded: tuple[LanguageModel, HeldOut]) -> None:
    lm, held_out = held_out_embedded
    for text, known in ((with_label(EMBEDDED), True), (EMBEDDED, False)):
        corpus = Corpus(text, lm.tokenizer, bos_id=lm.bos_id, max_context=lm.max_context, seed=3)
        labels = labels_of(corpus, held_out)
        assert (labels is not None) == known
        if labels is not None:
            numbers = np.unique(held_out.document_NT.numpy())
            expected = [document(3, int(n)).concepts[0]["domain"] for n in numbers if n >= 0]
            assert [labels.names[at] for at in labels.label_R] == expected


def test_another_seed_or_model_is_noticed(
    held_out_embedded: tuple[LanguageModel, HeldOut],
) -> None:
    """Concepts of other documents would be wrong without a word."""
    lm, held_out = held_out_embedded
    with pytest.raises(UserError, match="are not those whose concepts"):
        truth_of(EMBEDDED, 4, lm, held_out)


def test_tokens_that_cannot_be_halved() -> None:
    lm = LanguageModel.load(ModelConfig("embedded"))
    one = held_out_tokens(lm, EMBEDDED, 3, 1)
    with pytest.raises(UserError, match="cannot be halved"):
        one.halves()
    first, second = held_out_tokens(lm, EMBEDDED, 3, 200).halves()
    assert first.kept and second.kept


def test_a_refusal_comes_before_any_measurement(embedded: list[Path]) -> None:
    copy = embedded[0].parent / "copy"
    shutil.copytree(embedded[0], copy, ignore=shutil.ignore_patterns("results"))
    config = EvalConfig(**(asdict(QUICK) | {"tokens": 1, "dedup": 0.9}))
    with pytest.raises(UserError, match="cannot be halved"):
        evaluate([copy], config)
    assert not (copy / "results").exists()
    with pytest.raises(UserError, match="dedup = 1"):
        EvalConfig(dedup=1.0)
