"""The benchmarks at sizes for a moment: that they run, and compute what they say."""

import importlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from helpers.threads import torch_threads
from saeworks.config import RunConfig, from_mapping

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
SIZES = {"d": 16, "width": 64, "k": 4, "batch": 32, "rounds": 2, "threads": 1}
TINY = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks import each other by their file names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def benchmark(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "jumprelu", "gated", "matryoshka"])
@pytest.mark.parametrize("name", ["saeworks", "saeworks-bf16"])
def test_what_is_timed_is_the_architecture(arch: str, name: str) -> None:
    trainers = benchmark("trainers")
    o = trainers.Options(d=16, width=64, k=4, batch=128, steps=100, lr=1e-2)
    trainer = trainers.build(name, o, arch)
    x_BD = torch.randn(128, 16, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        trainer.step(x_BD)
    with torch.no_grad():
        plain = trainers.reconstruction(arch, trainer.arrays(), x_BD, o.k, trainer.shifted)
        ours = trainer.forward(x_BD)
    assert float((ours - plain).norm() / plain.norm()) < 1e-5
    assert plain.abs().max() > 0


def test_who_fails_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    step, trainers = benchmark("step"), benchmark("trainers")
    monkeypatch.setattr(step, "python_of", lambda name: sys.executable)
    o = trainers.Options(d=16, width=64, k=4, batch=64, steps=100, lr=1e-3)
    names = ["saeworks", "nobody"]
    results = step.measure(names, o, threads=1, rounds=2, lenient=True)
    assert "ended" in results["nobody"]["failed"]
    assert len(results["saeworks"]["seconds_per_step"]["rounds"]) == 2
    assert results["saeworks"]["difference"] < 1e-5
    assert step.ratios(results) == {}


def test_ratios_are_by_round_and_of_medians() -> None:
    step = benchmark("step")

    def rounds(*seconds: float) -> dict[str, Any]:
        return {"seconds_per_step": {"rounds": list(seconds)}}

    found = step.ratios({"saeworks": rounds(1, 2, 4), "peer": rounds(3, 4, 4)})["peer"]
    assert found == {"of_medians": 2, "min": 1, "max": 3, "rounds": [3, 2, 1]}


def test_a_disturbed_round_is_run_again_and_else_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    step = benchmark("step")
    monkeypatch.setattr(step, "await_quiet", lambda patience: 0.25)
    quiet = iter([False, True])
    again = step.undisturbed(lambda: {"quiet": next(quiet)}, patience=0, retries=1)
    assert again == {"quiet": True, "busy_cores_before": 0.25, "attempts": 2}
    assert not step.undisturbed(lambda: {"quiet": False}, patience=0, retries=1)["quiet"]


def test_a_pipeline_trains_an_sae_on_every_block(tmp_path: Path) -> None:
    pipelines, peers = benchmark("pipelines"), benchmark("peers")
    model, text = peers.material(tmp_path)
    o = pipelines.Pipeline(str(model), str(text), 2048, 64, 4, 512, buffer=1024)
    train, report = pipelines.saeworks(o, "float32", tmp_path / "run")
    train()
    d = 128
    assert report() == {"saes": 6, "parameters": 6 * (2 * 64 * d + 64 + d)}
    assert pipelines.blocks(o) == [f"layers.{at}" for at in range(6)]


def test_switch_beside_topk_and_dense_and_mask(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("switch").main([*TINY, "--experts", "2", "8"])
    found = json.loads(capsys.readouterr().out)
    assert list(found["results"]) == ["topk", "switch-2", "switch-8", "dense-and-mask"]
    for name, result in found["results"].items():
        assert result["tokens_per_second"] > 0 and len(result["seconds_per_step"]) == 2
        assert ("stages" in result) == (name != "dense-and-mask")
    assert found["results"]["topk"]["times_topk"] == 1


def test_gpu_kernels_on_the_processor() -> None:
    found = benchmark("gpu").kernels("cpu", tiny=True)
    assert found["exit_code"] == 0
    assert {"gather_sum", "gather_dot", "segment_outer"} <= found["results"].keys()
    assert all(one["seconds"] > 0 for one in found["results"].values())


def test_gpu_writes_after_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, out = benchmark("gpu"), tmp_path / "gpu.json"
    seen = []

    def measured(part: str, device: str, tiny: bool, limit: float) -> dict[str, Any]:
        seen.append(part)
        assert list(gpu.PARTS)[: len(seen)] == seen
        assert all(done in json.loads(out.read_text()) for done in seen[:-1])
        return {"exit_code": 1} if part == "switch" else {"took_seconds": 1.0}

    monkeypatch.setattr(gpu, "measured", measured)
    options = ["gpu.py", "--device", "cpu", "--tiny", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", options)
    with pytest.raises(SystemExit, match="failed: switch"):
        gpu.main()
    assert seen == list(gpu.PARTS)
    assert gpu.PARTS.keys() <= json.loads(out.read_text()).keys()
    monkeypatch.setattr(sys, "argv", [*options, "--seconds", "1"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "left_out" in json.loads(out.read_text())["tests"]


def test_a_part_is_ended_at_its_limit_and_a_failure_told(tmp_path: Path) -> None:
    gpu = benchmark("gpu")
    assert "left_out" in gpu.measured("kernels", "cpu", True, 0.1)
    assert gpu.measured("kernels", "no such device", True, 60)["exit_code"] == 1


def test_gpu_sizes_are_those_of_the_claims() -> None:
    gpu = benchmark("gpu")
    assert (gpu.C.d, gpu.C.width, gpu.C.k, gpu.C.batch) == (768, 24576, 32, 8192)
    assert {(o.d, o.width) for o in gpu.WIDE.values()} == {(2304, 65_536), (2304, 131_072)}
    assert sum(limit for _, limit in gpu.PARTS.values()) <= 13 * 60


def test_exponents_are_fitted_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    growth = benchmark("growth")

    def alone(what: str, sizes: dict[str, int]) -> dict[str, Any]:
        return {"seconds": 1e-6 * sizes["latents"] ** 2, "bytes": 100 * sizes["latents"]}

    monkeypatch.setattr(growth, "alone", alone)
    row = growth.ROWS["eval/latents"]
    found = growth.grown("eval/latents", row, 2, tiny=False)
    assert found["seconds_exponent"]["value"] == pytest.approx(2)
    assert found["bytes_exponent"]["value"] == pytest.approx(1)
    assert found["too_fast"]
    assert not growth.grown("eval/latents", replace(row, demanded=2), 2, tiny=True)["too_fast"]


def test_stages_are_timed_in_turns_and_together() -> None:
    stages = benchmark("stages")
    run = {
        "text": {"max_documents": 60},
        "sites": ["layers.0", "layers.1"],
        "saes": [{"arch": "topk", "width": 64, "k": 4}],
        "buffer": {"memory": "1MiB"},
        "train": {"tokens": 100_000, "batch": 128, "eval_every": 0, "precision": "float32"},
        "device": "cpu",
    }
    with torch_threads(2):
        found = stages.measured(from_mapping(RunConfig, run, "test"), rounds=1)
    turns, together = (found["seconds"][name] for name in ("in turns", "together"))
    parts = sum(turns[part]["median"] for part in ("read", "draw", "step"))
    assert parts == pytest.approx(turns["whole"]["median"], rel=0.5)
    assert found["together_of_alone"]["in turns"] >= 1 and together["whole"]["median"] > 0
    shown = page("performance").stages(
        {**found, "benchmark": "stages.py", "processor": "Abacus", "threads": 2}
    )
    assert "| together |" in shown and f"{found['slots']:,} tokens" in shown


def page(name: str) -> ModuleType:
    """A module of the documentation, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_from_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    performance = page("performance")
    monkeypatch.setattr(performance, "RESULTS", tmp_path)
    markers = "<!-- peers --> <!-- stages --> <!-- growth --> <!-- gpu -->"
    assert performance.filled(markers) == " ".join(["*Not measured yet.*"] * 4)
    seconds = {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [1.0, 2.0, 3.0]}
    ours: dict[str, Any] = {"tokens_per_second": 4096.0, "seconds_per_step": seconds}
    ours["peak_rss_above_start_bytes"] = 2**30
    ratio = {"of_medians": 2.5, "min": 2.0, "max": 3.0}
    part: dict[str, Any] = {"d": 768, "width": 24576, "k": 32, "batch": 8192, "quiet": False}
    part["results"] = {"saeworks": ours, "saelens": {**ours, "tokens_per_second": 1024.0}}
    part["faster_by"] = {"saeworks": {"saelens": ratio}}
    part["faster_than_the_fastest_peer"] = {"saeworks": {"peer": "saelens", **ratio}}
    found = {"processor": "Abacus", "threads": 4, "python": "3", "versions": {"torch": "2"}}
    (tmp_path / "peers.json").write_text(json.dumps(found | {"step": part}))
    shown = performance.filled("<!-- peers -->")
    assert "| SAELens | 1,024 | 2 | 1–3 | 1.00 GiB | 2.50× (2.00–3.00) |" in shown
    assert "Other processes were at work" in shown
    assert shown.count("<rect") == 2 and 'width="95.0"' in shown  # a quarter of the longest bar
