"""Budgets and targets, as they are written."""

import pytest

from saeworks.advice.budget import Budget, Goal
from saeworks.errors import UserError


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2h"], Budget(seconds=7200.0)),
        (["1h30min"], Budget(seconds=5400.0)),
        (["90 s", "1e17flops"], Budget(seconds=90.0, flops=1e17)),
        (["10GiB", "0.5d"], Budget(seconds=43200.0, memory=10 * 2**30)),
    ],
)
def test_budgets(texts: list[str], expected: Budget) -> None:
    assert Budget.parse(texts) == expected


def test_a_budget_is_said() -> None:
    assert str(Budget(3600.0, 1e17, 2**30)) == "1 h 0 min and 1e+17 FLOPs and 1 GiB"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "no budget is given"),
        (["2"], "budget '2': write a time"),
        (["2 weeks"], "budget '2 weeks'"),
        (["-1h"], "budget '-1h'"),
        (["0s"], "budget '0s'"),
        (["manyflops"], "budget 'manyflops'"),
        (["infflops"], "budget 'infflops'"),
        (["2h", "90s"], "'90s' is the second one of seconds"),
        (["xGiB"], "memory 'xGiB'"),
    ],
)
def test_bad_budgets(texts: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Budget.parse(texts)


def test_targets() -> None:
    assert Goal.parse("fvu = 0.1") == Goal("fvu", 0.1)
    assert str(Goal.parse("delta_ce=1.5")) == "delta_ce=1.5"


@pytest.mark.parametrize("text", ["fvu", "fvu=1", "fvu=0", "fvu=nan", "delta_ce=-1", "l0=3"])
def test_bad_targets(text: str) -> None:
    with pytest.raises(UserError, match=r"write fvu=0\.1"):
        Goal.parse(text)
