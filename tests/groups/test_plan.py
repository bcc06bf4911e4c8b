"""A plan says what it follows from, is read strictly, and belongs to one model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.plans import SITES, measured
from saeworks.errors import UserError
from saeworks.groups import partition as parts
from saeworks.groups.plan import make_plan
from saeworks.results.plan import Plan


def test_the_smallest_number_of_groups_below_the_threshold() -> None:
    distances = measured()
    plan = make_plan(distances, threshold=0.2)
    groups, found = parts.choose_groups(distances.raw, 0.2)
    assert plan.partition == found
    assert plan.groups["group-0"] == tuple(SITES[i] for i in found[0])
    assert (len(plan.groups), plan.threshold, plan.method) == (groups, 0.2, "complete")
    assert [point.amad for point in plan.curve] == [p.amad for p in parts.curve(distances.raw)]
    assert plan.measured.tolist() == distances.raw.tolist()


def test_other_ways_to_groups() -> None:
    distances = measured()
    fixed = make_plan(distances, 2, method="contiguous", matrix="centred")
    assert fixed.partition == parts.partition(distances.centred, 2, "contiguous")
    assert (fixed.threshold, fixed.objective, fixed.matrix) == (None, "amad", "centred")
    assert fixed.measured.tolist() == distances.centred.tolist()
    given = make_plan(distances, [[SITES[4], SITES[0]], list(SITES[1:4])])
    assert given.partition == [[0, 4], [1, 2, 3]]
    assert (given.method, given.threshold, given.objective) == ("user", None, None)


def test_bad_ways_to_groups() -> None:
    with pytest.raises(UserError, match="groups = 6"):
        make_plan(measured(), 6)
    with pytest.raises(UserError, match="in no group"):
        make_plan(measured(), [SITES[:3]])
    with pytest.raises(UserError, match="no number of groups"):
        make_plan(measured(), threshold=0.0)


@pytest.mark.parametrize("method", parts.METHODS)
def test_reads_what_it_wrote(tmp_path: Path, method: parts.Method) -> None:
    plan = make_plan(measured(), method=method)
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    assert plan.distances.stderr_centred[0][1] is None
    assert plan.versions["saeworks"]


def test_another_model_is_refused() -> None:
    plan = make_plan(measured())
    plan.check_model("f" * 64)
    with pytest.raises(UserError, match=r"made for 'tiny' \(fingerprint ffffffffffff\), not for x"):
        plan.check_model("0" * 64, "x")


def test_widths_of_a_run() -> None:
    plan = make_plan(measured(), [SITES[:2], SITES[2:]])
    plan.check_widths(dict.fromkeys(SITES, 16))
    with pytest.raises(UserError, match="group 1 mixes widths"):
        plan.check_widths(dict.fromkeys(SITES[:4], 16) | {SITES[4]: 8})
    with pytest.raises(UserError, match=r"'layers\.4' is none of this run's"):
        plan.check_widths(dict.fromkeys(SITES[:4], 16))


def _set(*path: Any, to: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("schema", to=2), "schema 2, this version reads 1"),
        (_set("colour", to="red"), "unknown key 'colour'"),
        (_set("tokens", to="many"), "'tokens' = 'many'"),
        (_set("groups", "group-0", to=["layers.9"]), "unknown site 'layers.9'"),
        (_set("groups", "more", to=["layers.0"]), "again in group"),
        (_set("groups", to={}), "in no group"),
        (_set("groups", "../up", to=[]), "no name of a folder"),
        (_set("sites", 1, to="layers.0"), "names one site twice"),
        (_set("distances", "raw", 0, 1, to=0.9), r"distances\[0, 1\] = 0.9 but"),
        (_set("distances", "raw", 0, 1, to=float("nan")), "not a finite number"),
        (_set("distances", "raw", 0, 1, to=None), "'distances.raw.0.1' = None"),
        (_set("distances", "centred", 2, 2, to=0.5), "must be 0"),
        (_set("distances", "stderr", 0, to=[0.0]), r"stderr is not \[5, 5\]"),
        (_set("distances", "stderr", 0, 1, to=-1.0), "no standard error"),
        (_set("curve", to=[]), "one point for every number of groups"),
        (_set("curve", 1, "amad", to=0.9), "point of 2 groups is not that of its partition"),
        (_set("curve", 1, "partition", to=[[0, 1, 2, 3, 4]]), "point of 2 groups"),
        (_set("linkage", to=[[0.0, 1.0]]), "linkage is not"),
    ],
)
def test_a_plan_from_outside_is_not_believed(
    tmp_path: Path, change: Callable[[Any], None], said: str
) -> None:
    path = tmp_path / "plan.json"
    make_plan(measured()).write(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=said) as caught:
        Plan.read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "3", "{", '{"schema": 1}', "[" * 5000])
def test_other_files_are_no_plan(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match="plan"):
        Plan.read(tmp_path / "plan.json")
    with pytest.raises(UserError, match="check the path"):
        Plan.read(tmp_path / "none.json")


def test_too_few_sites() -> None:
    one = measured()
    cells: dict[str, Any] = dict.fromkeys(
        ("raw", "centred", "stderr", "stderr_centred"), np.zeros((1, 1))
    )
    few = replace(one, sites=SITES[:1], **cells)
    with pytest.raises(UserError, match="at least two"):
        make_plan(few)
