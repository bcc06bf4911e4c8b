import math
from pathlib import Path
from typing import Any

import pytest

from saeworks.config import TrainConfig
from saeworks.errors import UserError
from saeworks.train.variants import build_members, expand_variants, suite_dirs

SITES = {"layers.0": 16, "layers.1": 32}


def names(*saes: dict[str, Any]) -> list[str]:
    return [variant.name for variant in expand_variants(saes, SITES)]


def test_lists_mean_one_variant_each():
    assert names({"arch": "topk", "expansion": 8, "k": [2, 4]}) == ["topk-x8-k2", "topk-x8-k4"]
    both = names({"arch": "topk", "expansion": [2, 0.5], "k": [2, 4]})
    assert both == ["topk-x2-k2", "topk-x2-k4", "topk-x0.5-k2", "topk-x0.5-k4"]
    two = names({"arch": "topk", "width": 64, "k": 2}, {"arch": "topk", "width": 32, "k": 2})
    assert two == ["topk-w64-k2", "topk-w32-k2"]


def test_other_options_are_in_the_name():
    (name,) = names({"arch": "topk", "k": 2, "width": 64, "aux_coefficient": 0.0625})
    assert name == "topk-w64-k2-aux_coefficient0.0625"


def test_expansion_is_times_the_width_of_each_site():
    (variant,) = expand_variants([{"arch": "topk", "expansion": 8, "k": 4}], SITES)
    assert variant.options["layers.0"] == {"width": 128, "k": 4}
    assert variant.options["layers.1"] == {"width": 256, "k": 4}


def test_members_are_one_sae_per_variant_and_site():
    variants = expand_variants([{"arch": "topk", "expansion": 2, "k": [2, 4]}], SITES)
    members = build_members(variants, SITES)
    assert [(m.variant, m.group) for m in members] == [
        (v, site) for v in ("topk-x2-k2", "topk-x2-k4") for site in SITES
    ]
    assert [m.sae.d for m in members] == [16, 32, 16, 32]
    assert members[1].sae.width == 64


def test_one_variant_is_written_to_the_run_folder_itself():
    one = expand_variants([{"arch": "topk", "expansion": 2, "k": 2}], SITES)
    two = expand_variants([{"arch": "topk", "expansion": 2, "k": [2, 4]}], SITES)
    assert suite_dirs(one, Path("out")) == {"topk-x2-k2": Path("out")}
    assert suite_dirs(two, Path("out"))["topk-x2-k4"] == Path("out/topk-x2-k4")


@pytest.mark.parametrize(
    ("saes", "message"),
    [
        ([], "saes is empty"),
        ([{"expansion": 2, "k": 2}], r"saes\[0\] has no arch"),
        ([{"arch": "tokp", "expansion": 2, "k": 2}], "tokp"),
        ([{"arch": "topk", "k": 2}], "either width or expansion"),
        ([{"arch": "topk", "k": 2, "width": 8, "expansion": 2}], "either width or expansion"),
        ([{"arch": "topk", "k": 2, "expansion": "8"}], "expansion = '8'"),
        ([{"arch": "topk", "k": 2, "expansion": -1}], "expansion = -1"),
        ([{"arch": "topk", "k": 2, "expansion": math.inf}], "expansion = inf"),
        ([{"arch": "topk", "k": 2, "expansion": []}], "expansion is an empty list"),
        ([{"arch": "topk", "k": 64, "expansion": 2}], r"saes\[0\] at layers\.0 .*: k = 64"),
        ([{"arch": "topk", "k": 0, "expansion": 2}], "k"),
        ([{"arch": "topk", "k": "2", "expansion": 2}], "'k'"),
        ([{"arch": "topk", "kk": 2, "k": 2, "expansion": 2}], "unknown key 'kk'"),
        ([{"arch": "topk", "k": [2, 2], "expansion": 2}], "two variants are the same"),
    ],
)
def test_bad_variants_are_refused(saes: list[dict[str, Any]], message: str):
    with pytest.raises(UserError, match=message):
        expand_variants(saes, SITES)


def test_a_variants_schedule_is_checked_over_the_runs():
    saes = [{"arch": "topk", "width": 8, "k": 2, "train": {"warmup": 0.7}}]
    assert expand_variants(saes, SITES, TrainConfig(decay=0.3))[0].train == {"warmup": 0.7}
    with pytest.raises(UserError, match=r"saes\[0\]: train.warmup = 0.7 and train.decay = 0.4"):
        expand_variants(saes, SITES, TrainConfig(decay=0.4))


def test_an_sae_that_does_not_fit_into_memory_is_refused():
    variants = expand_variants([{"arch": "relu", "width": 2**31 - 1}], {"a": 2**20})
    with pytest.raises(UserError, match="width = 2147483647 does not fit into memory"):
        build_members(variants, {"a": 2**20})
