import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from saeworks.measure.audit.measurement import r_squared
from saeworks.measure.bootstrap import (
    BLOCKS,
    FEWEST,
    all_sums,
    describe,
    estimate,
    interval,
    resampled_sums,
)
from saeworks.results import statistics
from saeworks.results.metric import Value

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
    everything = all_sums(rows, 200, seed=5)
    np.testing.assert_allclose(everything[0], rows.sum(0))
    for document in range(9):
        np.testing.assert_allclose(everything[1 + document], np.delete(rows, document, 0).sum(0))
    np.testing.assert_array_equal(everything[10:], drawn)
    value = estimate(sums, RATIO, 200, seed=5)["ratio"]
    assert value == interval(everything[:, 0] / everything[:, 1], 9)
    assert value.value == pytest.approx(sums["a"].sum() / sums["b"].sum(), rel=1e-12)


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(12.0).reshape(6, 2)
    whole = resampled_sums(rows, 50, seed=0)
    monkeypatch.setattr("saeworks.measure.bootstrap._CHUNK", 30)
    np.testing.assert_array_equal(resampled_sums(rows, 50, seed=0), whole)


def test_of_a_mean_it_is_students_interval_at_least() -> None:
    """No wider where the values are symmetric, so that there is no skewness to allow for."""
    values = np.array([-3.0, -2, -2, -1, 0, 0, 1, 2, 2, 3]) + 5
    sums = {"n": np.ones(10), "a": values, "b": np.ones(10)}
    value = estimate(sums, RATIO, 1000, seed=0)["ratio"]
    assert (value.value, value.low, value.high) == pytest.approx(statistics.student(list(values)))
    skewed = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 1, 9])
    value = estimate(sums | {"a": skewed}, RATIO, 1000, seed=0)["ratio"]
    _, low, high = statistics.student(list(skewed))
    assert value.low == pytest.approx(low)
    assert value.high is not None and high is not None and value.high > 1.2 * high


def heavy(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Documents of unequal lengths: FVU and R² log-normal about 0.1 and 0.5, ΔCE about 0.4."""
    n = np.ceil(250 * np.exp(0.3 * rng.standard_normal(count)))
    variance, gain = n * np.exp(0.2 * rng.standard_normal(count)), rng.gamma(4.0, 0.1, count)
    error = variance * 0.1 * np.exp(0.4 * rng.standard_normal(count))
    nonlinear = error * 0.5 * np.exp(0.3 * rng.standard_normal(count))
    return {"n": n, "v": variance, "e": error, "u": nonlinear, "ce": n * gain}


METRICS = {
    "fvu": lambda s: s["e"] / s["v"],
    "r2": lambda s: 1 - s["u"] / s["e"],
    "delta_ce": lambda s: s["ce"] / s["n"],
}


@pytest.mark.parametrize("count", [FEWEST, 24])
def test_intervals_hold_the_truth_as_often_as_they_say(count: int) -> None:
    rng = np.random.default_rng(count)
    whole = heavy(200_000, rng)
    truth = {
        name: float(of({k: v.sum() for k, v in whole.items()})) for name, of in METRICS.items()
    }
    covered = dict.fromkeys(METRICS, 0)
    for seed in range(300):
        found = estimate(heavy(count, rng), METRICS, 300, seed)
        for name, value in found.items():
            assert value.low is not None and value.high is not None
            covered[name] += value.low <= truth[name] <= value.high
    assert all(0.92 <= count / 300 <= 0.995 for count in covered.values()), covered


@pytest.mark.parametrize("count", [1, 2, FEWEST - 1])
def test_too_few_documents_have_no_interval_and_say_so(count: int) -> None:
    value = estimate(documents(count, seed=0), RATIO, 100, seed=0)["ratio"]
    assert value.value is not None
    assert (value.low, value.high) == (None, None)
    assert describe(count, 100, 0).startswith(f"none: too few documents ({count};")


def test_no_resamples_are_no_intervals() -> None:
    assert estimate(documents(30, seed=0), RATIO, 0, seed=0)["ratio"].low is None
    assert "no resamples" in describe(30, 0, 0)
    assert "30 documents" in describe(30, 100, 0)


def test_many_documents_are_left_out_in_blocks() -> None:
    sums = documents(1000, seed=2)
    rows = np.stack([sums["a"], sums["b"]], axis=1)
    everything = all_sums(rows, 50, seed=0)
    assert len(everything) == 1 + BLOCKS + 50
    kept = np.arange(1000) % BLOCKS != 3
    np.testing.assert_allclose(everything[1 + 3], rows[kept].sum(0))
    value = estimate(sums, RATIO, 2000, seed=0)["ratio"]
    assert value.value is not None and value.low is not None and value.high is not None
    influence = (sums["a"] - value.value * sums["b"]) / sums["b"].mean()
    half = 1.96 * influence.std() / np.sqrt(1000)
    assert (value.high - value.low) / 2 == pytest.approx(half, rel=0.15)


def test_documents_without_tokens_are_not_resampled() -> None:
    sums = documents(9, seed=3)
    padded = {name: np.concatenate([values, np.zeros(5)]) for name, values in sums.items()}
    assert estimate(padded, RATIO, 100, seed=0) == estimate(sums, RATIO, 100, seed=0)


def test_undefined_is_none_without_a_warning() -> None:
    sums = {"n": np.ones(3), "a": np.zeros(3), "b": np.zeros(3)}
    assert estimate(sums, RATIO, 10, seed=0)["ratio"].value is None


def test_only_documents_that_were_measured_are_resampled() -> None:
    """A metric of the first documents is as certain as if there were no others; none of its
    resamples is without them."""
    few, many = documents(9, seed=4), documents(60, seed=5)
    padded = {key: np.concatenate([few[key], np.zeros(51)]) for key in ("a", "b")}
    sums = {"n": many["n"], "all": many["a"], "a": padded["a"], "b": padded["b"]}
    both = RATIO | {"all": lambda s: s["all"] / s["n"]}
    found = estimate(sums, both, 400, seed=0)
    assert found["ratio"] == estimate(few, RATIO, 400, seed=0)["ratio"]
    assert found["ratio"].low is not None
    assert found["all"] == estimate(many, {"all": lambda s: s["a"] / s["n"]}, 400, seed=0)["all"]
    none = {key: np.where(np.arange(60) < 7, column, 0.0) for key, column in padded.items()}
    assert estimate(many | none, RATIO, 400, seed=0)["ratio"].low is None  # 7 are too few


def of_few_documents() -> Value:
    """R² of 7 documents, too few for an interval, beside another sum over 60."""
    few, many = documents(60, seed=4), documents(60, seed=5)
    sums = {"n": many["n"]} | {
        key: np.where(np.arange(60) < 7, few[key], 0.0) for key in ("a", "b")
    }
    r2 = {"r2": lambda s: r_squared(s, "a", "b", "b")}
    return estimate(sums, r2, 400, seed=0)["r2"]


def test_checked_annotations_count_no_sum_as_read() -> None:
    """pytest checks the annotations of `r_squared`, a process of its own does not."""
    code = "from measure.test_bootstrap import of_few_documents; print(of_few_documents())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    value = of_few_documents()
    assert value.value is not None and value.low is None
    assert done.stdout.strip() == str(value)


def test_a_resample_without_a_value_does_not_cost_the_interval() -> None:
    values = np.concatenate([[1.0], np.linspace(0.9, 1.1, 10), np.linspace(0.8, 1.2, 100)])
    one = values.copy()
    one[50] = np.nan
    whole, lost = interval(values, 10), interval(one, 10)
    assert whole.low is not None and whole.high is not None
    assert (lost.low, lost.high) == pytest.approx((whole.low, whole.high), rel=0.02)
    one[-30:] = np.nan
    assert interval(one, 10) == Value(1.0)
    values[3] = np.inf  # with a document left out
    assert interval(values, 10) == Value(1.0)
    assert interval(np.full(111, np.nan), 10) == Value(None)
