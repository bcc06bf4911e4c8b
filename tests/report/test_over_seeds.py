"""The same comparison with several seeds, in the report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from helpers.editing import edit
from helpers.reports import text_of
from helpers.toy_comparisons import SITES, comparison
from saeworks.report import over_seeds
from saeworks.report.build import write_report
from saeworks.report.suites import read_suites
from saeworks.results.comparison import Named


@pytest.fixture
def seeds(fake_suite: Callable[..., Path], tmp_path: Path) -> list[Path]:
    """A variant with three seeds, each beside the baseline of its own seed."""
    paths = []
    for seed, gap in enumerate((0.01, 0.02, 0.06)):
        path = fake_suite(tmp_path / str(seed), k=32, sites=SITES, seed=seed)
        one = comparison(f"base-{seed}", gap, {})
        replace(one, baseline=Named(f"../base-{seed}", "base", seed)).write(path)
        paths.append(path)
    return paths


def test_mean_and_students_interval(seeds: list[Path], tmp_path: Path) -> None:
    columns, rows = over_seeds.table(read_suites(seeds))
    assert [(row.site, row.label) for row in rows] == [
        (site, "topk-x8-k32, 3 seeds") for site in (*SITES, "mean over sites")
    ]
    at = [column.id for column in columns].index("fvu difference")
    expected = stats.ttest_1samp([0.01, 0.02, 0.06], 0.0).confidence_interval(0.95)
    for row in rows:
        assert row.cells[at].key == pytest.approx(0.03)
        low, high = (float(x.replace("−", "-")) for x in row.cells[at].interval.split(" to "))
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.01)
    page = text_of(write_report(seeds, tmp_path / "out"), "compare")
    assert "Means over seeds" in page


def test_one_seed_or_the_same_twice_is_no_mean(seeds: list[Path], tmp_path: Path) -> None:
    assert over_seeds.table(read_suites(seeds[:1])) == ([], [])
    edit(seeds[1] / "suite.json", lambda meta: meta.update(seed=0))
    assert over_seeds.table(read_suites(seeds[:2])) == ([], [])
    page = text_of(write_report(seeds[:1], tmp_path / "out"))
    assert "Means over seeds" not in page
