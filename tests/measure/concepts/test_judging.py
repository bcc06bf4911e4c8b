"""Scores against scikit-learn; their influences against documents really left out."""

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from saeworks.measure.concepts import judging
from saeworks.measure.concepts.choosing import Units, choose
from saeworks.measure.concepts.judging import Scores, best_threshold, judge
from saeworks.measure.concepts.probes import ActiveUnits, DenseProbes, SparseProbe

Array = np.ndarray[Any, Any]


def tokens(seed: int, count: int = 300, documents: int = 12) -> tuple[Array, Array, Array]:
    """Scores of which half are 0 and many are equal, a concept, documents."""
    rng = np.random.default_rng(seed)
    y = rng.random(count) < 0.2
    score = np.round(np.maximum(0, rng.normal(y * 1.0, 1.0)), 1)
    return score, y, rng.integers(documents, size=count)


def sparse(score: Array) -> Scores:
    at = np.flatnonzero(score)
    return Scores(at, score[at], 0.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [-0.5, 0.45, 1.25])
def test_scores_are_those_of_scikit_learn(seed: int, threshold: float) -> None:
    score, y, row = tokens(seed)
    judged = judge(sparse(score), threshold, y, row, 12)
    hit, false, positive, negative, above, below, precision = judged.sums_RS.sum(0)
    assert 2 * hit / (hit + false + positive) == pytest.approx(f1_score(y, score > threshold))
    assert judged.auroc == pytest.approx(roc_auc_score(y, score))
    assert judged.precision == pytest.approx(average_precision_score(y, score))
    assert positive == y.sum() and negative == (~y).sum()
    assert np.allclose([above, below, precision], 0)


def test_influences_are_those_of_documents_left_out() -> None:
    score, y, row = tokens(3, 6000, 60)
    judged = judge(sparse(score), 0.5, y, row, 60)
    exact, linear = [], []
    for document in range(60):
        rest = row != document
        exact.append(
            [roc_auc_score(y[rest], score[rest]), average_precision_score(y[rest], score[rest])]
        )
        sums = judged.sums_RS.sum(0) - judged.sums_RS[document]
        p, n = sums[judging.POSITIVE], sums[judging.NEGATIVE]
        auroc = judged.auroc + sums[judging.ABOVE] / p + sums[judging.BELOW] / n
        linear.append([auroc, judged.precision + sums[judging.PRECISION] / p])
    exact_, linear_ = np.array(exact), np.array(linear)
    for column in range(2):
        assert np.corrcoef(exact_[:, column], linear_[:, column])[0, 1] > 0.999
        ratio = np.std(linear_[:, column]) / np.std(exact_[:, column])
        assert ratio == pytest.approx(1, abs=0.03)


def test_nothing_to_rank() -> None:
    score, y, row = tokens(0)
    judged = judge(sparse(score), 0.5, np.zeros_like(y), row, 12)
    assert np.isnan(judged.auroc) and np.isnan(judged.precision)
    empty = Scores(np.array([], int), np.array([]), 0.0)
    assert judge(empty, 0.5, y, row, 12).auroc == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_the_best_threshold_is_the_best_of_all(seed: int) -> None:
    score, y, _ = tokens(seed)
    threshold, f1 = best_threshold(sparse(score), y)
    each = [f1_score(y, score > t) for t in [-1, *np.unique(score)]]
    assert f1 == pytest.approx(max(each)) == pytest.approx(f1_score(y, score > threshold))
    assert threshold not in score


def random_units(seed: int, count: int, width: int) -> Array:
    rng = np.random.default_rng(seed)
    dense = np.maximum(0, rng.normal(-0.8, 1, (count, width))).astype(np.float32)
    return np.round(dense, 1)


def test_the_best_unit_is_the_best_of_all() -> None:
    dense = random_units(0, 400, 20)
    rng = np.random.default_rng(1)
    ys = np.stack([rng.random(400) < 0.1, (dense[:, 3] > 0.6) ^ (rng.random(400) < 0.05)], 1)
    choice = choose(Units(csr_matrix(dense)), csr_matrix(ys.astype(np.int32)), 5)
    for c, y in enumerate(ys.T):
        every = {
            (unit, t): f1_score(y, dense[:, unit] > t)
            for unit in range(20)
            for t in [0, *np.unique(dense[:, unit])]
        }
        assert choice.fit_C[c] == pytest.approx(max(every.values()))
        own = f1_score(y, dense[:, choice.unit_C[c]] > choice.threshold_C[c])
        assert own == pytest.approx(max(every.values()))
        difference = np.abs(dense[y].mean(0) - dense[~y].mean(0))
        assert choice.ranked_CK[c].tolist() == np.argsort(-difference)[:5].tolist()
    assert choice.unit_C[1] == 3


def test_features_are_the_columns() -> None:
    dense = random_units(2, 50, 8)
    every = ActiveUnits.of(Units(csr_matrix(dense)), np.array([2, 5, 1, 3]))
    for active, units in ((every, [2, 5, 1, 3]), (every.some(np.array([1, 3])), [5, 3])):
        assert active.units.tolist() == units
        assert np.array_equal(active.a_nk, dense[active.token_n][:, units])
        assert not dense[np.setdiff1d(np.arange(50), active.token_n)][:, units].any()


def test_the_sparse_probe_is_logistic_regression() -> None:
    dense = random_units(4, 800, 10)
    y = dense[:, 2] + 0.5 * dense[:, 7] + np.random.default_rng(5).normal(0, 0.5, 800) > 0.7
    chosen = np.array([7, 2, 4])
    units = Units(csr_matrix(dense))
    active = ActiveUnits.of(units, chosen)
    probe = SparseProbe.fit(active, y)
    scale = np.sqrt(np.square(dense[:, chosen]).mean(0))
    reference = LogisticRegression(C=1, tol=1e-8).fit(dense[:, chosen] / scale, y)
    assert probe.weight_k == pytest.approx(reference.coef_[0] / scale, abs=2e-3)
    assert probe.bias == pytest.approx(reference.intercept_[0], abs=2e-3)
    scores = probe.scores(active)
    full = np.full(800, scores.base)
    full[scores.token_n] = scores.score_n
    assert full == pytest.approx(dense[:, chosen] @ probe.weight_k + probe.bias, abs=1e-5)


def test_the_dense_probe_is_logistic_regression() -> None:
    rng = np.random.default_rng(6)
    x = (rng.normal(size=(900, 12)) @ rng.normal(size=(12, 12)) + 3).astype(np.float32)
    y = np.stack([x[:, 0] > 4, x[:, 1] + rng.normal(size=900) > 3], 1)
    probes = DenseProbes.fit(x, csr_matrix(y.astype(np.int32)), 0)
    centred = x - x.mean(0)
    features = centred / np.sqrt(np.square(centred).mean())
    for c in range(2):
        reference = LogisticRegression(C=1, tol=1e-8, max_iter=2000).fit(features, y[:, c])
        assert probes.logits(x)[:, c] == pytest.approx(
            reference.decision_function(features), abs=0.05
        )
