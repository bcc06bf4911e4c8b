import numpy as np
import pytest

from saeforge.eval.bootstrap import describe, estimate, resampled_sums

RATIO = {"ratio": lambda s: s["a"] / s["b"]}


def documents(count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = rng.integers(5, 50, count).astype(float)
    return {"n": n, "a": rng.gamma(2.0, 1.0, count) * n, "b": 2.0 * n}


def test_equals_resampling_documents_one_by_one() -> None:
    sums = documents(9, seed=1)
    rows = np.stack([sums["a"], sums["b"]], axis=1)
    drawn = resampled_sums(rows, 200, seed=5)
    counts = np.random.default_rng(5).multinomial(9, np.full(9, 1 / 9), size=200)
    for r in range(200):
        total = np.zeros(2)
        for document in range(9):
            for _ in range(counts[r, document]):
                total += rows[document]
        np.testing.assert_allclose(drawn[r], total, rtol=1e-12)
    value = estimate(sums, RATIO, 200, seed=5)["ratio"]
    ratios = drawn[:, 0] / drawn[:, 1]
    assert value.value == pytest.approx(sums["a"].sum() / sums["b"].sum(), rel=1e-12)
    assert (value.low, value.high) == pytest.approx(tuple(np.percentile(ratios, [2.5, 97.5])))


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(12.0).reshape(6, 2)
    whole = resampled_sums(rows, 50, seed=0)
    monkeypatch.setattr("saeforge.eval.bootstrap._CHUNK", 30)
    np.testing.assert_array_equal(resampled_sums(rows, 50, seed=0), whole)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        value = estimate(documents(60, seed), RATIO, 400, seed=0)["ratio"]
        assert value.low is not None
        assert value.high is not None
        covered += value.low <= 1.0 <= value.high  # E[a]/E[b] = 2n / 2n
    assert 0.88 <= covered / 200 <= 0.99


def test_one_document_has_no_interval_and_says_so() -> None:
    value = estimate(documents(1, seed=0), RATIO, 100, seed=0)["ratio"]
    assert value.value is not None
    assert value.low is None
    assert value.high is None
    assert "one document" in describe(1, 100, 0)
    assert "30 documents" in describe(30, 100, 0)
    assert estimate(documents(4, seed=0), RATIO, 0, seed=0)["ratio"].low is None


def test_documents_without_tokens_are_not_resampled() -> None:
    sums = documents(7, seed=3)
    padded = {name: np.concatenate([values, np.zeros(5)]) for name, values in sums.items()}
    assert estimate(padded, RATIO, 100, seed=0) == estimate(sums, RATIO, 100, seed=0)


def test_undefined_is_none_without_a_warning() -> None:
    sums = {"n": np.ones(3), "a": np.zeros(3), "b": np.zeros(3)}
    assert estimate(sums, RATIO, 10, seed=0)["ratio"].value is None
