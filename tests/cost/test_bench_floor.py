"""`saeworks bench` alone: the shape of its answer, not the clock."""

import json
from typing import Any

import pytest

from saeworks.cli.bench import Bench, Floor, print_floor
from saeworks.cli.main import main
from saeworks.cli.parsing import parse
from saeworks.cost.bench_floor import beside_floor, needed
from saeworks.cost.bench_step import bench_step

TINY: dict[str, Any] = {"d": 8, "width": 64, "k": 4, "batch": 32, "device": "cpu", "rounds": 1}


def test_floor_is_the_encoders_matmul_and_one_pass_of_adam(capsys: pytest.CaptureFixture[str]):
    found = json.loads(json.dumps(beside_floor(bench_step(**TINY, threads=1))))
    machine, work = found["machine"], found["work"]
    assert work["encoder_flops"] == 2 * 32 * 8 * 64
    assert work["parameters"] == 2 * 64 * 8 + 64 + 8
    encoder = work["encoder_flops"] / machine["matmul_float32_flops_per_second"]
    adam = 7 * 4 * work["parameters"] / machine["bytes_per_second"]
    assert found["floor_seconds"] == pytest.approx(encoder + adam)
    assert found["times_floor"] == pytest.approx(1 / found["share_of_floor"])
    assert found["bounds"].keys() - {"encoder"} <= found["stages"].keys()
    print_floor(found)
    shown = capsys.readouterr().out
    assert "GFLOP/s" in shown and "times its floor" in shown and "sparse backward" in shown


def test_experts_multiply_less():
    options = {"width": 64, "k": 4}
    switch = needed("switch", 8, {**options, "experts": 8}, 32)
    topk = needed("topk", 8, options, 32)
    router = 32 * (2 * 8 * 8) + 2 * 8 * 8  # rows, and its bias once
    assert switch["encoder_flops"] == topk["encoder_flops"] / 8 + router


def test_bench_alone_is_the_floor(capsys: pytest.CaptureFixture[str]):
    assert parse(["bench"]) == Bench(Floor())
    assert parse(["bench", "--d", "9"]) == Bench(Floor(d=9))
    options = [part for name, value in TINY.items() for part in (f"--{name}", str(value))]
    assert main(["bench", "floor", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["times_floor"] > 0
    assert main(["bench", "floor", *options]) == 0
    assert "at the machine's speed" in capsys.readouterr().out
