"""The shipped model: it loads, it does what its card says, and the card says what was measured."""

import json

import numpy as np
import pytest
import torch

from embedded_model.measure import (
    held_out_rows,
    model_cross_entropy,
    ngram_cross_entropies,
    task_metrics,
)
from embedded_model.package import (
    LARGEST_BYTES,
    THRESHOLDS,
    card,
    missed,
)
from saeworks.embedded import (
    MODEL_DIR,
    TASKS,
    load,
    task_prompts,
)
from saeworks.files.access import sha256


@pytest.fixture(scope="module")
def loaded():
    return load()


@pytest.fixture(scope="module")
def metrics():
    return json.loads((MODEL_DIR / "metrics.json").read_text())


def test_it_loads_in_float32_and_evaluation_mode(loaded, metrics):
    model, tokenizer = loaded
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters()) == metrics["model"]["parameters"]
    assert len(tokenizer) == model.config.vocab_size == metrics["model"]["vocabulary"]


def test_the_folder_is_small_and_whole(metrics):
    assert sum(file.stat().st_size for file in MODEL_DIR.iterdir()) <= LARGEST_BYTES
    assert sha256(MODEL_DIR / "model.safetensors") == metrics["weights_sha256"]


def test_the_card_states_the_measured_numbers(metrics):
    assert (MODEL_DIR / "MODEL_CARD.md").read_text() == card(metrics)
    assert missed(metrics) == []
    assert missed({**metrics, "ioi": {**metrics["ioi"], "accuracy": 0.5}}) != []


@pytest.mark.parametrize("task", TASKS)
def test_it_solves_held_out_prompts(loaded, metrics, task):
    model, tokenizer = loaded
    measured = task_metrics(model, tokenizer, task_prompts(task, 300, seed=99))
    for (named, number), least in THRESHOLDS.items():
        if named == task:
            assert measured[number] >= least
            assert measured[number] == pytest.approx(metrics[task][number], abs=0.03)
    assert measured["patched_logit_difference"] < measured["logit_difference"]


def test_cross_entropy_is_as_stated_and_well_below_the_trigram(loaded, metrics):
    model, tokenizer = loaded
    rows = held_out_rows(tokenizer, model.config.max_position_embeddings, count=200)
    stated = metrics["cross_entropy"]
    assert model_cross_entropy(model, rows) == pytest.approx(stated["model"], abs=0.05)
    assert stated["model"] < stated["trigram"] - 0.3 < stated["unigram"]


def test_ngrams_agree_with_counting_by_hand():
    # In 0 1 0 1 0 2 the word 1 follows 0 in two of three cases, with two different successors.
    training = np.array([0, 1, 0, 1, 0, 2])
    unigram, trigram = ngram_cross_entropies(training, [[0, 1]], size=3)
    p1 = (2 + 3 / 3) / (6 + 3)
    p2 = (2 + 2 * p1) / (3 + 2)
    assert unigram == pytest.approx(-np.log(p1))
    assert trigram == pytest.approx(-np.log(p2))
