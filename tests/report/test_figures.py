"""Figures as charts."""

from saeworks.report.marks import stacked


def test_whiskers_stand_on_the_tops_of_their_parts() -> None:
    bars = [
        {"name": "a", "x": [0], "y": [1.0], "low": [0.9], "high": [1.2], "kind": "bars"},
        {"name": "b", "x": [0], "y": [2.0], "low": [1.5], "high": [None], "kind": "bars"},
        {"name": "c", "x": [0], "y": [-1.0], "low": [-2.0], "high": [0.0], "kind": "bars"},
    ]
    found = stacked(bars)
    assert all(one["low"] == [None] for one in found[:3])
    assert [(one["y"], one["low"], one["high"]) for one in found[3:]] == [
        ([1.0], [0.9], [1.2]),
        ([3.0], [2.5], [None]),
        ([-1.0], [-2.0], [0.0]),
    ]
