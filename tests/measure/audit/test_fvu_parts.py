"""What the parts of FVU are made of."""

import pytest

from saeworks.measure.audit.fvu_parts import FvuParts
from saeworks.results.metric import Value

KNOWN = {
    "split": {
        "fvu": Value(0.2, 0.19, 0.21),
        "fvu_nonlinear": Value(0.08, 0.07, 0.09),
        "fvu_linear": Value(0.12, 0.11, 0.13),
    },
    "pursuit": {
        "fvu_nonlinear_change": Value(-0.05, -0.06, -0.04),
        "fvu_nonlinear_encoder": Value(0.085),
    },
    "scaling": {"absent": Value(0.05, 0.04, 0.06)},
}


def test_they_add_up_and_carry_the_interval_of_the_whole() -> None:
    parts = FvuParts.of(KNOWN)
    assert list(parts) == ["part_nonlinear", "part_encoder", "part_linear", "part_absent"]
    assert sum(part.value or 0.0 for part in parts.values()) == pytest.approx(0.2)
    assert parts["part_encoder"] == Value(0.05 * 0.08, 0.04 * 0.08, 0.06 * 0.08)
    nonlinear = parts["part_nonlinear"]
    assert nonlinear.value == pytest.approx(0.076)
    assert (nonlinear.low, nonlinear.high) == pytest.approx((0.066, 0.086))


@pytest.mark.parametrize(
    "pursuit",
    [
        {},
        {"fvu_nonlinear_change": Value(0.01), "fvu_nonlinear_encoder": Value(0.08)},
        {"fvu_nonlinear_change": Value(-0.05), "fvu_nonlinear_encoder": Value(0.2)},  # too few
    ],
)
def test_the_encoder_has_a_part_only_where_pursuit_tells_it(pursuit: dict[str, Value]) -> None:
    parts = FvuParts.of({"split": KNOWN["split"], "pursuit": pursuit})
    assert parts == {
        "part_nonlinear": KNOWN["split"]["fvu_nonlinear"],
        "part_linear": KNOWN["split"]["fvu_linear"],
    }
