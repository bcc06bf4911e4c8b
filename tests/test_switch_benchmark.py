"""The benchmarks of Switch at sizes for a moment: the way they go on a GPU, on the processor."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SIZES = {"d": 16, "width": 64, "k": 4, "batch": 32, "rounds": 2, "threads": 1}
TINY = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", BENCHMARKS / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_switch_beside_topk_and_dense_and_mask(gpu: ModuleType):
    found = gpu.switch([*TINY, "--experts", "2", "8"], device="cpu")
    assert list(found["results"]) == ["topk", "switch-2", "switch-8", "dense-and-mask"]
    for name, result in found["results"].items():
        assert result["tokens_per_second"] > 0 and len(result["seconds_per_step"]) == 2
        assert ("stages" in result) == (name != "dense-and-mask")
    assert found["results"]["topk"]["times_topk"] == 1
    assert found["options"]["device"] == "cpu"


def test_what_fails_leaves_its_exit_code(gpu: ModuleType):
    found = gpu.switch([*TINY, "--experts", "3"], device="cpu")
    assert found["with_dense_and_mask"]["exit_code"] != 0 and "results" not in found


def test_the_rows_for_a_gpu_are_those_of_the_processor_and_a_wider_one(gpu: ModuleType):
    assert [o for o in gpu.SWITCH["M 24576"] if o.isdigit()] == ["4", "16", "64"]
    assert gpu.SWITCH["M 131072"][:2] == ["--width", "131072"]
