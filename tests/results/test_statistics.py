import pytest
from scipy import stats

from saeworks.results.statistics import student


def test_students_interval() -> None:
    values = [0.3, 0.1, 0.4, 0.2]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert student(values) == pytest.approx((0.25, expected.low, expected.high))
    assert student([0.3]) == (0.3, None, None)
    assert student([0.5, 0.5]) == (0.5, 0.5, 0.5)
