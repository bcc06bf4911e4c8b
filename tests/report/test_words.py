import json

import pytest

from saeworks.report import summary
from saeworks.report.numbers import (
    count,
    decimals,
    measured,
    number,
    rounded,
)
from saeworks.report.suites import read_suites
from saeworks.results.metric import Value
from saeworks.results.tokens import legible

EVALUATIONS = ("reconstruction", "splice")


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", " the"),
        ("\n", "↵"),
        (" \n\t", " ↵⇥"),
        ("", "∅"),
        ("\x00", "␀"),
        ("\u202e", "⟨U+202E⟩"),
        ("\u00a0", "⍽"),
        ("é字🙂", "é字🙂"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
    ],
)
def test_tokens_can_be_seen(token, shown):
    assert legible(token) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0"),
        (0.0849, "0.0849"),
        (0.1, "0.100"),
        (-0.25, "−0.250"),
        (32.0, "32"),
        (1234.5, "1,234"),
        (0.00012, "1.2e−4"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_counts():
    assert [count(x) for x in (None, 980, 8_192_000, 2.4)] == ["–", "980", "8.19 million", "2.40"]


def test_decimals_follow_the_median_interval():
    values = [Value(value=0.5, low=0.5 - half, high=0.5 + half) for half in (0.001, 0.03, 0.05)]
    assert decimals([*values, None, Value(value=1.0)]) == 3
    assert decimals([Value(value=1.0)]) is None
    assert measured(values[1], 3) == ("0.500", "0.470 to 0.530")
    assert measured(Value(value=32.0), None) == ("32", "")
    assert measured(None, 3) == ("–", "")


def test_rounded():
    assert rounded(0.123456789) == 0.12346
    assert rounded(float("inf")) is None


def test_the_summary_names_the_ends(make_suite):
    suite = read_suites([make_suite()])[0]
    fvu, loss, dead = summary.about(suite)
    assert "0.0600 (layers.0) to 0.135 (layers.3), with 32 active latents" in fvu
    assert "0.0100 (layers.0) to 0.0700 (layers.3) nats" in loss
    assert dead == "At most 4.0% of a site's latents never fired on these tokens (layers.3)."
    assert "over 980 held-out documents" in summary.caution([suite])


def test_many_dead_latents_are_told(make_suite):
    path = make_suite()
    file = path / "results" / "reconstruction.json"
    result = json.loads(file.read_text(encoding="utf-8"))
    result["sites"]["layers.1"]["dead_share"] = {"value": 0.4}
    file.write_text(json.dumps(result), encoding="utf-8")
    assert "more than 10% at one site" in summary.about(read_suites([path])[0])[-1]


def test_rows_go_site_by_site(make_suite):
    suites = read_suites([make_suite(k=16), make_suite(k=64)])
    shown = summary.columns(suites, headline=True)
    rows = summary.rows(suites, shown)
    assert [(row.site, row.suite) for row in rows[:3]] == [
        ("layers.0", 0),
        ("layers.0", 1),
        ("layers.1", 0),
    ]
    assert [c.id for c in shown] == ["fvu", "delta_ce", "loss_recovered_zero", "l0", "dead_share"]


def test_intervals_that_touch_are_not_apart(make_suite):
    wide, narrow = make_suite(k=16), make_suite(k=64)
    file = wide / "results" / "reconstruction.json"
    result = json.loads(file.read_text(encoding="utf-8"))
    for values in result["sites"].values():
        values["fvu"]["low"] = 0.0
    file.write_text(json.dumps(result), encoding="utf-8")
    fvu, _ = summary.comparison(read_suites([wide, narrow]))
    assert "at 4 of 4 sites (intervals apart at 0) and a higher one at 0 of 4 sites." in fvu


def test_without_intervals_nothing_is_said_of_them(make_suite):
    folders = [make_suite(k=16), make_suite(k=64)]
    for file in [path / "results" / f"{name}.json" for path in folders for name in EVALUATIONS]:
        result = json.loads(file.read_text(encoding="utf-8"))
        for values in result["sites"].values():
            for value in values.values():
                value["low"] = value["high"] = None
        file.write_text(json.dumps(result), encoding="utf-8")
    suites = read_suites(folders)
    fvu, _ = summary.comparison(suites)
    assert "at 4 of 4 sites (no intervals) and a higher one at 0 of 4 sites." in fvu
    assert summary.caution(suites).startswith("There are no intervals: too few held-out documents")
