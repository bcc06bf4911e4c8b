"""Where the activations lie: the mean beside the spread, and what the verdict says of it."""

import numpy as np
import pytest

import saeworks as sw
from helpers.audit_arrays import Direct, documents, nonlinear, rows
from saeworks.activations.offset import FAR_FROM_ORIGIN
from saeworks.measure.audit import folds
from saeworks.measure.audit.split import OFF_CENTRE, FvuSplit
from saeworks.results.metric import Value


def test_the_mean_over_the_spread_is_that_of_the_rows() -> None:
    x, document = rows(), documents(8000)
    offset = sw.audit(x, nonlinear(x), document, resamples=50)[f"{FvuSplit.name}.{OFF_CENTRE}"]
    direct = Direct.of(x, x, document)
    test_x, mean_x = direct.at("x", folds.TEST), direct.at("x", folds.FIT).mean(0)
    variance = np.square(test_x - mean_x).sum()
    expected = np.sqrt(np.square(test_x).sum() / variance - 1)
    assert offset.value == pytest.approx(float(expected), rel=1e-9)
    spread = np.sqrt(np.square(test_x - test_x.mean(0)).sum() / len(test_x))
    assert offset.value == pytest.approx(float(np.linalg.norm(test_x.mean(0)) / spread), rel=0.02)
    assert offset.low is not None and offset.high is not None
    assert offset.low < expected < offset.high


@pytest.mark.parametrize(
    ("offset", "warned"),
    [
        (Value(2.0, 1.9, 2.1), True),
        (Value(0.4, 0.38, 0.42), False),
        (Value(FAR_FROM_ORIGIN, FAR_FROM_ORIGIN - 0.1, FAR_FROM_ORIGIN + 0.1), False),
        (Value(2.0), False),
    ],
)
def test_the_verdict_warns_where_the_whole_interval_is_far(offset: Value, warned: bool) -> None:
    numbers = {"fvu": Value(0.2), "fvu_nonlinear": Value(0.1), OFF_CENTRE: offset}
    sentences = FvuSplit.sentences({FvuSplit.name: numbers})
    assert any("without centring" in line for line in sentences) == warned
