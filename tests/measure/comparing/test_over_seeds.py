import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from saeworks.errors import UserError
from saeworks.measure.comparing.over_seeds import over_seeds, student
from saeworks.results.comparison import Comparison, Named, Paired
from saeworks.results.metric import Metric, Value


def comparison(seed: int, own: float, other: float) -> Comparison:
    pair = Paired(Value(own), Value(other), Value(own - other, -1.0, 1.0), Value(own / other))
    plain = Paired(Value(own), Value(other), Value(own - other))
    values = {"fvu": pair, "l0": plain}
    return Comparison(
        Named(".", "g2", seed),
        Named("../base", "base", seed),
        [],
        {},
        {},
        {},
        {name: Metric(name, "") for name in values},
        {"layers.0": values},
        values,
    )


def test_students_interval(tmp_path: Path) -> None:
    pairs = [(0.12, 0.10), (0.15, 0.11), (0.13, 0.12)]
    comparisons = [comparison(seed, *pair) for seed, pair in enumerate(pairs)]
    found = over_seeds(comparisons)
    assert found.seeds == [0, 1, 2]
    cell = found.sites["layers.0"]["fvu"]
    differences = [own - other for own, other in pairs]
    test = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert cell.difference.value == pytest.approx(sum(differences) / 3)
    assert (cell.difference.low, cell.difference.high) == pytest.approx((test.low, test.high))
    assert cell.per_seed == [one.sites["layers.0"]["fvu"] for one in comparisons]
    assert cell.ratio is not None
    assert cell.ratio.value == pytest.approx(sum(own / other for own, other in pairs) / 3)
    assert found.mean["l0"].ratio is None
    found.write(tmp_path / "seeds.json")
    written = json.loads((tmp_path / "seeds.json").read_text())
    assert written["sites"]["layers.0"]["fvu"]["difference"]["low"] == pytest.approx(test.low)


def test_one_seed_has_no_interval() -> None:
    found = over_seeds([comparison(0, 0.2, 0.1)]).mean["fvu"].difference
    assert (found.value, found.low, found.high) == (0.1, None, None)
    assert student([1.0, None]) == Value(None)


def test_what_differs_in_more_than_its_seed_is_refused() -> None:
    one, two = comparison(0, 0.2, 0.1), comparison(1, 0.2, 0.1)
    for comparisons, message in [
        ([], "no comparison"),
        ([one, one], "one for each seed"),
        ([one, replace(two, suite=Named(".", "g3", 1))], "more than their seed"),
        ([one, replace(two, sites={"layers.1": two.mean})], "more than their seed"),
    ]:
        with pytest.raises(UserError, match=message):
            over_seeds(comparisons)
