"""The graph beside the curves: `CircuitsConfig.graph`."""

from dataclasses import replace

import pytest
import torch

import saeworks as sw
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.circuits.config import CircuitsConfig
from saeworks.measure.circuits.labels import concept_labels
from saeworks.measure.circuits.run import Posed, measure_circuits
from saeworks.results.names import ALL_SITES
from saeworks.results.result import Result
from saeworks.results.series import GRAPH, OF_LATENTS

CONFIG = CircuitsConfig(task=("agreement",), prompts=24, nodes=(1, 4), steps=1, exact=0, graph=3)


def sae(d: int, seed: int) -> SAE:
    made = sw.build_sae("topk", d=d, width=32, k=8)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.w_enc.copy_(torch.randn(made.w_enc.shape, generator=draw))
        made.w_dec.copy_(torch.nn.functional.normalize(made.w_enc, dim=1))
    return made


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel.load("embedded")


def measured(lm: LanguageModel, sites: tuple[str, ...], config: CircuitsConfig) -> Result:
    bank = {site: sae(lm.width(site), at) for at, site in enumerate(sites)}
    posed = Posed.of("agreement", lm, config)
    result = measure_circuits(lm, {"suite": bank}, posed, config)["suite"].result
    assert isinstance(result, Result)
    return result


def test_the_graph_is_of_the_latents_that_the_result_names(lm):
    result = measured(lm, ("layers.1", "layers.3"), CONFIG)
    graph = result.series[ALL_SITES][GRAPH]
    assert graph["task"] == "agreement" and graph["sites"] == ["layers.1", "layers.3"]
    for node in graph["nodes"]:
        assert node["latent"] in result.series[node["site"]]["top"]["latent"]
    assert GRAPH not in result.series["layers.1"]
    assert len(graph["nodes"]) == 6 and graph["edges"]
    without = measured(lm, ("layers.1", "layers.3"), replace(CONFIG, graph=0))
    assert GRAPH not in without.series[ALL_SITES]
    assert without.sites == result.sites


def test_a_suite_of_one_site_has_its_graph_there(lm):
    graph = measured(lm, ("layers.2",), CONFIG).series["layers.2"][GRAPH]
    assert len(graph["nodes"]) == 3 and not graph["edges"]


def test_a_graph_that_nobody_could_follow_is_refused_before_anything_is_measured(lm):
    with pytest.raises(UserError, match="a graph of 300 latents at each of 2 sites"):
        measured(lm, ("layers.1", "layers.3"), replace(CONFIG, graph=300))
    with pytest.raises(UserError, match="graph = -1: it must be at least 0"):
        replace(CONFIG, graph=-1)


def test_latents_are_called_by_the_concept_that_they_detect_best(tmp_path):
    assert concept_labels(tmp_path) == {}
    of_latents = [
        {"latent": 4, "concept": "number: plural", "f1": 0.6},
        {"latent": 4, "concept": "noun_class: animal", "f1": 0.91},
        {"latent": 5, "concept": "number: plural", "f1": None},
    ]
    series = {"layers.1": {OF_LATENTS: of_latents}, "layers.2": {}}
    result = Result("concepts", "Known concepts", {}, 1, 1, {}, {}, series)
    result.write(tmp_path / "concepts.json")
    assert concept_labels(tmp_path) == {("layers.1", 4): "noun_class: animal (F1 0.91)"}
