"""What a run says about groups becomes sites of one width, each in one group."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.plans import SITES, measured
from saeworks.config import GroupsConfig, RunConfig, from_mapping
from saeworks.errors import UserError
from saeworks.groups import partition as parts
from saeworks.groups.grouping import Groupings
from saeworks.groups.plan import make_plan
from saeworks.results.groups import amad

WIDTHS = dict.fromkeys(SITES, 8)
MODEL = Groupings(WIDTHS, "f" * 64, "tiny")


@pytest.fixture
def plan(tmp_path: Path) -> str:
    path = tmp_path / "plan.json"
    make_plan(measured(), 3).write(path)
    return str(path)


def resolved(spec: object) -> list[Any]:
    return replace(MODEL, _plans={}).resolve(spec, "groups")


def test_per_site() -> None:
    (grouping,) = resolved("per-site")
    assert grouping.groups == {site: (site,) for site in SITES}
    assert (grouping.name, grouping.method) == ("", "per-site")


def test_a_plan_gives_its_own_groups(plan: str) -> None:
    (grouping,) = resolved({"plan": plan})
    distances = measured().raw
    partition = parts.partition(distances, 3)
    assert [list(sites) for sites in grouping.groups.values()] == [
        [SITES[i] for i in group] for group in partition
    ]
    assert grouping.name == "g3-complete"
    assert grouping.amad == amad(distances, partition)
    assert grouping.plan is not None and len(grouping.plan) == 64


def test_a_plan_gives_other_numbers_and_methods(plan: str) -> None:
    one, four = resolved({"plan": plan, "groups": [1, 4]})
    assert [g.name for g in (one, four)] == ["g1-complete", "g4-complete"]
    assert one.groups == {"group-0": SITES}
    (best,) = resolved({"plan": plan, "groups": 2, "method": "contiguous", "objective": "max"})
    partition = parts.partition(measured().raw, 2, "contiguous", "max")
    assert [len(sites) for sites in best.groups.values()] == [len(p) for p in partition]
    assert best.name == "g2-contiguous-max"
    (same,) = resolved({"plan": plan, "method": "even"})
    assert same.name == "g3-even"


def test_even_needs_no_plan() -> None:
    (grouping,) = resolved(GroupsConfig(method="even", groups=2, draw="all"))
    assert list(grouping.groups.values()) == [SITES[:3], SITES[3:]]
    assert (grouping.name, grouping.amad) == ("g2-even-all", None)
    assert grouping.describe()["groups"] == 2


def test_groups_by_name() -> None:
    names = [[SITES[4], SITES[0]], list(SITES[1:4])]
    (grouping,) = resolved({"groups": names})
    assert list(grouping.groups.values()) == [(SITES[0], SITES[4]), SITES[1:4]]
    assert grouping.name == "g2-user"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("per-layer", "groups = 'per-layer': write per-site, or a mapping"),
        ({"method": "even"}, "groups: method even needs groups, how many"),
        ({"method": "complete", "groups": 2}, "give plan, a file that `saeworks plan` wrote"),
        ({}, "give plan, a file"),
        ({"method": "even", "groups": 6}, "groups = 6: it must be from 1 to 5"),
        ({"method": "even", "groups": 0}, "groups = 0: it must be from 1 to 5"),
        ({"method": "even", "groups": 2, "objective": "max"}, "goes with method 'contiguous'"),
        ({"groups": [["layers.0", "layers.9"]]}, "names the unknown site 'layers.9'; nearest"),
        ({"groups": [["layers.0", "layers.1"], ["layers.1"]]}, "is in group 0 and again in group"),
        ({"groups": [["layers.0"]]}, "is in no group"),
        ({"groups": [list(SITES)], "method": "even"}, "method does not go with groups that are na"),
        ({"plan": "nowhere.json"}, "nowhere.json"),
        ({"number": 3}, "groups: unknown key 'number'"),
    ],
)
def test_bad_groups_are_one_clear_line(spec: object, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        resolved(spec)
    assert "\n" not in str(raised.value)


def test_a_plan_of_another_model_or_of_other_sites_is_refused(plan: str) -> None:
    with pytest.raises(UserError, match=r"the plan was made for 'tiny'.*not for other"):
        Groupings(WIDTHS, "e" * 64, "other").resolve({"plan": plan}, "groups")
    with pytest.raises(UserError, match=r"site 'layers.5' of this run is not in plan .*--last"):
        Groupings(WIDTHS | {"layers.5": 8}, "f" * 64, "tiny").resolve({"plan": plan}, "groups")
    with pytest.raises(UserError, match=r"the plan's site 'layers.4' is none of this run's"):
        Groupings(dict.fromkeys(SITES[:4], 8), "f" * 64, "tiny").resolve({"plan": plan}, "groups")


def test_a_group_of_two_widths_is_refused() -> None:
    mixed = Groupings(WIDTHS | {"layers.3": 16}, "f" * 64, "tiny")
    with pytest.raises(UserError, match=r"group 1 mixes widths: 'layers.3' has 16, 'layers.4' 8"):
        mixed.resolve({"method": "even", "groups": 2}, "groups")


def test_a_run_configuration_holds_them() -> None:
    text = '{"groups": ["per-site", {"method": "even", "groups": [1, 2]}]}'
    config = from_mapping(RunConfig, json.loads(text), "run.yaml")
    assert config.groups == ("per-site", GroupsConfig(method="even", groups=(1, 2)))
    with pytest.raises(UserError, match=r"run.yaml: .*groups"):
        from_mapping(RunConfig, {"groups": [{"plans": "x"}]}, "run.yaml")
