import pytest

from saeworks.results.metric import Value
from saeworks.results.words import decimal, percent, points, with_interval


def test_values_are_said_with_their_intervals() -> None:
    assert decimal(Value(0.714, 0.681, 0.744)) == "0.71 [0.68, 0.74]"
    assert decimal(Value(2.14, 1.9, 2.4), 1) == "2.1 [1.9, 2.4]"
    assert percent(Value(0.62, 0.58, 0.66)) == "62% [58%, 66%]"
    assert points(Value(0.05, -0.09, 0.19)) == "+5 [−9, +19]"


@pytest.mark.parametrize(("value", "told"), [(-0.001, "0.00"), (-0.5, "−0.50"), (0.0, "0.00")])
def test_a_minus_is_a_minus_and_none_stands_before_zero(value: float, told: str) -> None:
    assert decimal(Value(value)) == told


def test_what_is_missing_is_said_so() -> None:
    assert decimal(Value(None)) == "undefined" and percent(Value(None), "–") == "–"
    assert points(Value(-0.001)) == "0"
    assert with_interval(Value(0.5), str, alone=" (point estimate)") == "0.5 (point estimate)"
