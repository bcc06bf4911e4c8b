"""`saeworks bench step`: the shape of its answer, not the clock."""

import json
import time
from typing import Any

import pytest
import torch

from saeworks import UserError
from saeworks.cost.bench_step import bench_step
from saeworks.cost.machine import Neighbours
from saeworks.dictionary.stages import measured, stage

TINY: dict[str, Any] = {"d": 8, "width": 64, "k": 4, "batch": 32, "device": "cpu"}


def test_answer_has_every_key_and_is_json():
    threads = torch.get_num_threads()
    answer = json.loads(json.dumps(bench_step(**TINY, rounds=2, threads=1)))
    assert torch.get_num_threads() == threads
    assert {"arch", "d", "width", "k", "batch", "experts", "threads", "device", "dtype"} <= set(
        answer
    )
    assert answer["threads"] == 1
    seconds = answer["seconds_per_step"]
    assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    assert answer["tokens_per_second"] == pytest.approx(32 / seconds["median"])
    assert answer["peak_rss_bytes"] > 0
    assert {"encoder", "topk", "decode", "sparse backward", "projection", "adam"} <= set(
        answer["stages"]
    )
    assert answer["quiet"] in (True, False, None)
    assert answer["quiet_reason"]


def test_experts_are_dispatched_in_stages_of_their_own():
    answer = bench_step("switch", **TINY, experts=8, rounds=1, threads=1)
    assert answer["experts"] == 8
    assert {"routing", "encoder", "topk", "decode", "sparse backward"} <= set(answer["stages"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rounds": 0}, "rounds"),
        ({"threads": 0}, "threads"),
        ({"batch": 0}, "batch"),
        ({"d": 0}, "d = 0"),
        ({"width": 0}, "width = 0"),
        ({"k": 0}, "k = 0"),
        ({"arch": "switch", "experts": 0}, "experts = 0"),
        ({"arch": "switch", "experts": 5}, "not divisible by experts = 5"),
        ({"arch": "switch", "experts": 32}, "k = 4 is more than the 2 latents of an expert"),
        ({"device": "abacus"}, "abacus"),
        ({"k": 65}, "k = 65"),
        ({"arch": "topk", "experts": 4}, "experts"),
        ({"arch": "nothing"}, "nothing"),
    ],
)
def test_bad_options_are_refused(options, word):
    with pytest.raises(UserError, match=word):
        bench_step(**{**TINY, **options})


def test_a_busy_neighbour_is_noticed(monkeypatch):
    clock = iter([(0.0, 0.0, 0.0), *[(1.0, 1.5, 0.5)] * 2])
    monkeypatch.setattr(Neighbours, "_now", staticmethod(lambda: next(clock)))
    quiet, reason = Neighbours().verdict()
    assert not quiet
    assert "1.00 cores" in reason


def test_own_work_is_not_a_neighbours(monkeypatch):
    clock = iter([(0.0, 0.0, 0.0), *[(1.0, 4.0, 3.98)] * 2])
    monkeypatch.setattr(Neighbours, "_now", staticmethod(lambda: next(clock)))
    assert Neighbours().verdict()[0]


def test_nothing_is_called_quiet_unseen(monkeypatch):
    monkeypatch.setattr(Neighbours, "_now", staticmethod(lambda: None))
    assert not Neighbours().verdict()[0]


def test_stages_add_up_only_while_measured():
    with measured() as seconds:
        for _ in range(2):
            with stage("nap"):
                time.sleep(0.001)
    assert seconds["nap"] >= 0.002
    with stage("nap"):
        pass
    assert len(seconds) == 1
