"""Circuits in a real language model, with tasks made for its tokenizer."""

from pathlib import Path

import pytest
import torch

from saeworks.lm.model import LanguageModel
from saeworks.measure.circuits.config import CircuitsConfig
from saeworks.measure.circuits.prompts import Prompts, activations
from saeworks.measure.circuits.run import Posed, measure_circuits
from saeworks.measure.controls import random_directions
from saeworks.results.result import Result


@pytest.mark.real
def test_agreement_in_a_real_model(real_data: Path) -> None:
    lm = LanguageModel.load(real_data / "tinystories-neox-6L256")
    config = CircuitsConfig(task=("agreement",), prompts=96, nodes=(1, 64), steps=4, exact=8)
    posed = Posed.of("agreement", lm, config)
    sites = ["layers.4"]
    prompts: Prompts = posed.prompts
    x = activations(lm, prompts, sites, lambda done: None)
    bank = {
        site: random_directions(x[site].read(prompts).mean(0), width=512, k=32, seed=1)
        for site in sites
    }
    with torch.no_grad():
        result = measure_circuits(lm, {"a": bank}, posed, config)["a"].result
    assert isinstance(result, Result)
    for site in sites:
        values = result.sites[site]
        assert values["zero_faithful_auc_error"].value == pytest.approx(1.0, abs=1e-3)
        assert values["zero_faithful_auc"].value == 0.0
        kept, rank = values["latents_kept"].value, values["attribution_rank"].value
        assert kept is not None
        assert rank is not None
        assert 0 < kept < 1.2
        assert rank > 0.6
