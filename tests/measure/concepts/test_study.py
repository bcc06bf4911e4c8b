"""`saeworks concepts` from suite to result: what is written, what is said, what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from saeworks.cli.main import main
from saeworks.config import ModelConfig
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.concepts.config import ConceptsConfig
from saeworks.measure.concepts.sites import neuron_site
from saeworks.measure.concepts.study import concepts
from saeworks.measure.concepts.values import ConceptNumbers, same_latents
from saeworks.results.names import CONCEPTS
from saeworks.results.records import parse
from saeworks.results.result import Result
from saeworks.results.series import KNOWN_CONCEPTS, OF_LATENTS, KnownConcept, LatentConcept

GOLDEN = Path(__file__).parents[2] / "golden" / "suites" / "main"
SUITES = ("switch-w64-k8-experts4-g1-user", "topk-w64-k8")


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("suites")
    for name in SUITES:
        shutil.copytree(GOLDEN / name, folder / name)
    return [folder / name for name in SUITES]


@pytest.fixture(scope="module")
def results(suites: list[Path]) -> list[Result]:
    config = ConceptsConfig(tokens=3000, k=(1, 3), bootstrap=50, device="cpu")
    measured = concepts(suites, config)
    assert [Result.read(path / "results" / "concepts.json") for path in suites] == [
        measured[path] for path in suites
    ]
    return [measured[path] for path in suites]


def test_every_number_has_its_place(results: list[Result]) -> None:
    switch, topk = results
    assert set(switch.metrics) - set(topk.metrics) == {
        "coding_experts",
        "one_expert",
        "expert_cosine",
        "same_latent",
    }
    for result in results:
        assert result.evaluation == CONCEPTS and result.config["source"] == "embedded"
        for site, values in result.sites.items():
            assert set(values) == set(result.metrics), site
            for key in ("coverage", "concept_f1", "neuron_f1", "direction_f1", "random_f1"):
                value = values[key]
                assert value.value is not None and value.low is not None and value.high is not None
                assert 0 <= value.low <= value.value <= value.high <= 1, key
            assert (values["dense_f1"].value or 0) > (values["concept_f1"].value or 1)
    shared = ("dense_f1", "neuron_f1", "direction_f1", CONCEPTS)
    for site in topk.sites:
        assert all(switch.sites[site][key] == topk.sites[site][key] for key in shared)


def test_each_concept_names_its_latent(results: list[Result]) -> None:
    for result in results:
        width = 64
        for site, series in result.series.items():
            records = [
                parse(KnownConcept, row, "concepts", "again") for row in series[KNOWN_CONCEPTS]
            ]
            assert len(records) == result.sites[site][CONCEPTS].value
            for record in records:
                assert 0 <= record.latent < width and record.main[0] == record.latent
                assert [probe.k for probe in record.probes] == [1, 3]
                assert record.carried.decisive <= record.carried.absorbed <= record.carried.missed
                assert record.carried.missed <= record.carried.known <= record.positives
            known = {f"{r.concept}={r.value}": r for r in records}
            for row in series[OF_LATENTS]:
                named = parse(LatentConcept, row, "concepts", "again")
                assert known[named.concept].latent == named.latent
                assert known[named.concept].f1 == named.f1 and (named.f1 or 0) >= 0.5
    assert any(
        record["experts"] for of in results[0].series.values() for record in of[KNOWN_CONCEPTS]
    )


def test_every_figure_has_an_id_of_its_own(results: list[Result]) -> None:
    for result in results:
        ids = [figure.id for figure in result.figures]
        assert len(set(ids)) == len(ids)


def test_what_is_found_is_said_and_what_is_left_out_is_counted(results: list[Result]) -> None:
    for result in results:
        assert result.findings[0].startswith("A single latent finds")
        left_out = result.config["left_out"]
        assert left_out and any(f"{len(left_out)} concepts" in text for text in result.findings)
    assert any("coded in an expert" in text for text in results[0].findings)
    assert not any("expert" in text for text in results[1].findings)


def test_one_latent_for_a_concept_at_the_sites_of_a_group() -> None:
    finds: dict[str, dict[int, int]] = {"a": {0: 5, 1: 6}, "b": {0: 5, 1: 7, 2: 8}, "c": {2: 8}}
    at_sites = {site: ConceptNumbers({}, {}, of) for site, of in finds.items()}
    same = same_latents(at_sites, {"g": ["a", "b"], "alone": ["c"]})
    assert {site: value.value for site, value in same.items()} == {"a": 0.5, "b": 0.5}
    same = same_latents(at_sites, {"g": ["a", "c"]})
    assert same["a"].value is None


def test_the_neurons_are_what_the_mlp_maps_back() -> None:
    lm = LanguageModel.load(ModelConfig("embedded"))
    site = neuron_site(lm, "layers.3")
    assert site is not None and site.startswith("layers.3.") and site.endswith("@in")
    assert lm.width(site) > lm.width("layers.3")
    assert neuron_site(lm, "layers.3.mlp") == neuron_site(lm, "layers.3@in") == site
    assert neuron_site(lm, "embed_tokens") is None


def test_other_labels_have_a_file_of_their_own(
    suites: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["concepts", str(suites[1]), "--labels", "rules", "--tokens", "1500"]
    options = ["--no-baselines", "--k", "1", "--bootstrap", "0", "--device", "cpu"]
    assert main([*arguments, *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)[str(suites[1])]
    assert set(said) == {"metrics", "concepts", "left_out", "findings"}
    result = Result.read(suites[1] / "results" / "concepts_rules.json")
    assert result.config["source"] == "rules" and "neuron_f1" not in result.metrics
    assert main([*arguments, *options]) == 0
    printed = capsys.readouterr().out
    assert "A single latent finds" in printed and "Left out, with too few tokens:" in printed


def test_refusals(suites: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of \d+ concepts stands on 900 tokens"):
        concepts(suites[1:], ConceptsConfig(tokens=1000, least=900, device="cpu"))
    with pytest.raises(UserError, match="'wordnet' is no source of labels"):
        concepts(suites[1:], ConceptsConfig(labels="wordnet"))
    with pytest.raises(UserError, match="there is no such file"):
        concepts(suites[1:], ConceptsConfig(labels=str(tmp_path / "none.jsonl")))
    for options in ({"k": ()}, {"k": (0,)}, {"tokens": 0}, {"least": 0}, {"seed": -1}):
        with pytest.raises(UserError):
            ConceptsConfig(**options)
