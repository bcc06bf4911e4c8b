import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from saeworks.measure.studies.information import domain_information, entropy, mutual_information


def test_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    joint = rng.integers(0, 30, (4, 6)).astype(float)
    nats = mutual_info_score(None, None, contingency=joint)
    assert mutual_information(joint) == pytest.approx(nats / np.log(2))
    stacked = mutual_information(np.stack([joint, joint[::-1]]))
    assert stacked == pytest.approx([nats / np.log(2)] * 2)
    assert entropy(np.array([1.0, 1, 2, 0])) == pytest.approx(1.5)
    assert np.isnan(entropy(np.zeros(3)))


def visits(label_R: np.ndarray, experts: int, purity: float, seed: int = 0) -> np.ndarray:
    """100 tokens of each document: some to the expert of its label, the others to any."""
    rng = np.random.default_rng(seed)
    any_RN = rng.multinomial(100 - int(100 * purity), np.full(experts, 1 / experts), len(label_R))
    own_RN = int(100 * purity) * np.eye(experts)[label_R]
    return (any_RN + own_RN).astype(float)


def test_an_expert_per_label_tells_all_of_it() -> None:
    label_R = np.array([0, 1, 1, 2] * 50)
    found = domain_information(visits(label_R, 3, 1.0), label_R, 3, 100, 0)
    assert found["domain_information"].value == pytest.approx(1.5)  # H of 1/4, 1/2, 1/4
    assert found["domain_information_adjusted"].value == pytest.approx(1.0)


def test_a_blind_router_tells_nothing_even_where_documents_differ() -> None:
    """Documents have favourite experts, whatever their label: few documents look like much."""
    rng = np.random.default_rng(1)
    label_R = np.arange(60) % 3
    visits_RN = rng.dirichlet(np.full(8, 0.1), 60) * 100
    found = domain_information(visits_RN, label_R, 3, 200, 0)
    value, chance = found["domain_information"].value, found["domain_information_chance"]
    adjusted = found["domain_information_adjusted"]
    assert value is not None and chance.low is not None and chance.high is not None
    assert value > 0.05  # what the plug-in number would claim
    assert chance.low < value < chance.high
    assert adjusted.low is not None and adjusted.high is not None
    assert adjusted.low < 0 < adjusted.high


def test_the_interval_holds_the_value_and_the_truth() -> None:
    label_R = np.arange(300) % 3
    found = domain_information(visits(label_R, 3, 0.5), label_R, 3, 200, 0)["domain_information"]
    p = np.full((3, 3), 1 / 18) + np.eye(3) / 6
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.low <= found.value <= found.high
    assert found.low - 0.01 < float(mutual_information(p)) < found.high + 0.01


def test_unknown_labels_and_empty_documents_are_left_out() -> None:
    label_R = np.array([0, 1] * 40)
    visits_RN = visits(label_R, 2, 0.8)
    whole = domain_information(visits_RN, label_R, 2, 20, 0)
    more_R = np.concatenate([label_R, [-1, 0]])
    more_RN = np.concatenate([visits_RN, [[500.0, 0.0], [0.0, 0.0]]])
    assert domain_information(more_RN, more_R, 2, 20, 0) == whole


def test_one_label_or_no_document_is_undefined() -> None:
    one = domain_information(np.ones((5, 3)), np.zeros(5, int), 1, 10, 0)
    assert one["domain_information"].value == pytest.approx(0)
    assert one["domain_information_adjusted"].value is None
    none = domain_information(np.ones((5, 3)), np.full(5, -1), 2, 10, 0)
    assert all(value.value is None for value in none.values())
