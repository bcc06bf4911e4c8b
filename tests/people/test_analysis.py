"""The analysis of answers that are known."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.reports import text_of
from helpers.studied import SITES, judge, two_suites
from saeworks.errors import UserError
from saeworks.people.analysis import (
    DIFFERENCE,
    GROUP,
    JUDGED,
    YES,
    YES_OR_MAYBE,
    as_plain,
    results,
    summary_rows,
    write_results,
)
from saeworks.people.findings import all_findings, power_sentence
from saeworks.people.judged import read_analysis
from saeworks.people.raters import Answer, open_answers
from saeworks.people.statistics import Count, Verdict, difference, share
from saeworks.people.study import DrawnLatent, HumanStudy
from saeworks.people.table import write_csv
from saeworks.report.build import write_report
from saeworks.results.metric import Value
from saeworks.results.result import Result
from saeworks.results.series import OF_LATENTS


def known(drawn: DrawnLatent) -> Verdict:
    """Three quarters of the first suite are interpretable, half of the second."""
    if drawn.suite == 0:
        return "no" if drawn.latent % 4 == 0 else "yes"
    return "maybe" if drawn.latent % 2 == 0 else "yes"


@pytest.fixture(scope="module")
def made_whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], HumanStudy, Path]:
    return two_suites(tmp_path_factory.mktemp("whole"), latents=96)


@pytest.fixture
def study(
    made_whole: tuple[list[Path], HumanStudy, Path], tmp_path: Path
) -> tuple[list[Path], HumanStudy, Path]:
    """The suites, a study of them, and its folder, which is the test's own and has no answers."""
    paths, study, folder = made_whole
    shutil.copytree(folder, tmp_path / "study")
    return paths, study, tmp_path / "study"


def count(study: HumanStudy, suite: int, site: str | None = None) -> Count:
    """How many `known` calls interpretable, counted plainly."""
    of_suite = [d for d in study.latents if d.suite == suite and site in (None, d.site)]
    return Count(sum(known(drawn) == "yes" for drawn in of_suite), len(of_suite))


def near(value: Value, other: Value) -> bool:
    return (value.value, value.low, value.high) == pytest.approx(
        (other.value, other.low, other.high)
    )


def test_shares_and_differences_of_one_rater(study) -> None:
    _, shown, folder = study
    judge(folder, shown, "ann", known)
    first, second = results(read_analysis(folder, shown))
    for site in SITES:
        assert near(first.sites[site][YES], share(count(shown, 0, site)))
        assert second.sites[site][YES_OR_MAYBE].value == 1.0
        assert second.sites[site][JUDGED].value == 48
        pair = (count(shown, 1, site), count(shown, 0, site))
        assert near(second.sites[site][DIFFERENCE], difference([pair]))
        assert DIFFERENCE not in first.sites[site] and GROUP not in first.sites[site]
    gap = difference([(count(shown, 0, site), count(shown, 1, site)) for site in SITES])
    assert gap.value is not None and gap.low is not None and gap.low > 0
    assert f": {100 * gap.value:+.0f} [{100 * gap.low:+.0f}," in first.findings[1]
    assert "72 of" not in first.findings[0] and "75% [" in first.findings[0]
    assert "of 96 live latents judged interpretable" in first.findings[0]
    assert "; by site from" in first.findings[0]
    assert "One person judged (ann)" in first.findings[2]
    told = all_findings(read_analysis(folder, shown))
    assert [*told[:1], *told[3:]] == [first.findings[0], *first.findings[2:]]
    assert told[1:3] == list(second.findings[:2])


def test_two_raters_count_a_latent_once(study) -> None:
    _, shown, folder = study
    judge(folder, shown, "ann", lambda drawn: "yes")
    judge(folder, shown, "ben", lambda drawn: "yes" if drawn.latent % 2 else "no")
    analysis = read_analysis(folder, shown)
    counted = analysis.count(0, shown.sites)
    assert counted.n == 96 and 48 < counted.x < 96
    kappa = "Cohen's κ of ann and ben: 0.00 [0.00, 0.00] on 192 latents, little agreement"
    assert kappa in results(analysis)[0].findings[2]


def test_three_raters_who_agree(study) -> None:
    _, shown, folder = study
    for name in ("ann", "ben", "cat"):
        judge(folder, shown, name, known)
    findings = results(read_analysis(folder, shown))[0].findings
    assert "Fleiss' κ of 3 raters: 1.00" in findings[2]
    assert sum("Cohen's κ" in finding for finding in findings) == 3
    plain = as_plain(read_analysis(folder, shown))
    assert plain["agreement"]["fleiss"]["value"] == 1.0
    assert plain["raters"] == {"ann": 192, "ben": 192, "cat": 192}


def test_what_is_not_judged_yet_is_said_and_not_counted(study) -> None:
    _, shown, folder = study
    judge(folder, shown, "ann", lambda drawn: "yes" if drawn.site == SITES[0] else None)
    first, _ = results(read_analysis(folder, shown))
    assert first.sites[SITES[1]] == {JUDGED: Value(0.0)}
    assert "48 latents are not judged yet" in first.findings[0]
    assert "may be chance: with 48 latents per suite a difference of" in first.findings[1]
    heads, rows = summary_rows(read_analysis(folder, shown))
    assert heads[:3] == ["suite", "site", "judged"] and len(rows) == 6
    assert rows[-1][1:3] == ["all 2 sites", "48"]


def test_nobody_has_judged(study) -> None:
    _, shown, folder = study
    with pytest.raises(UserError, match="has no answers yet"):
        read_analysis(folder, shown)
    with open_answers(folder, shown, "ann"):
        pass
    with pytest.raises(UserError, match="has no answers yet"):
        read_analysis(folder, shown)


def test_power_is_told_before_anybody_judges(study) -> None:
    said = "with 96 latents per suite a difference of 20 points is found with 80% probability"
    _, shown, _ = study
    assert power_sentence(shown) == said
    alone = [drawn for drawn in shown.latents if drawn.suite == 0]
    of_one = replace(shown, suites=shown.suites[:1], latents=alone)
    assert power_sentence(of_one) == "with 96 latents a share of a half is known to ±10 points"


def test_each_suite_gets_its_result(study) -> None:
    paths, shown, folder = study
    judge(folder, shown, "ann", known)
    written = write_results(read_analysis(folder, shown), [paths[0], None])
    assert written == [paths[0] / "results" / "study.json"]
    read = Result.read(written[0])
    assert read == results(read_analysis(folder, shown))[0]
    assert read.evaluation == "study" and read.config["raters"] == ["ann"]
    verdicts = read.series[SITES[0]][OF_LATENTS]
    assert len(verdicts) == 48 and set(verdicts[0]) == {"latent", "verdict", "note", "rater"}


def test_the_report_says_what_people_say(study, tmp_path: Path) -> None:
    paths, shown, folder = study
    judge(folder, shown, "ann", known)
    write_results(read_analysis(folder, shown), paths)
    page = text_of(write_report(paths, tmp_path / "report"), "meaning")
    assert "What people say of the latents" in page and "One person judged (ann)" in page
    assert '<section id="study"' in page


def test_a_cell_is_no_formula(study, tmp_path: Path) -> None:
    _, shown, folder = study
    notes = ['=HYPERLINK("http://evil")', "+1", "-1", "@SUM(A1)", "\t=1", " =1", 'fine, "so"\n2']
    with open_answers(folder, shown, "ann") as answers:
        for place, note in enumerate(notes):
            answers.save(Answer(place, "yes", note, 1.0))
    file = tmp_path / "answers.csv"
    assert write_csv(read_analysis(folder, shown), file) == len(notes)
    with file.open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [row["note"] for row in rows] == [*(f"'{note}" for note in notes[:-1]), notes[-1]]
    for row, drawn in zip(rows, shown.latents, strict=False):
        assert row["suite"] == shown.suites[drawn.suite].label
        assert (row["site"], row["latent"], row["rater"]) == (drawn.site, str(drawn.latent), "ann")
    with pytest.raises(UserError, match=r"ends with \.csv"):
        write_csv(read_analysis(folder, shown), folder / "study.json")


def test_sites_that_share_an_sae_have_a_share_together(study) -> None:
    _, shown, folder = study
    judge(folder, shown, "ann", known)
    grouped = replace(shown.suites[1], groups=dict.fromkeys(SITES, "group-0"))
    of_groups = replace(shown, suites=[shown.suites[0], grouped])
    analysis = replace(read_analysis(folder, shown), study=of_groups)
    first, second = results(analysis)
    assert GROUP not in first.sites[SITES[0]]
    for site in SITES:
        assert near(second.sites[site][GROUP], share(count(shown, 1)))
    _, rows = summary_rows(analysis)
    assert [row[1] for row in rows[3:]] == [*SITES, "group-0 (2 sites)", "all 2 sites"]
