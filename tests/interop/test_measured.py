"""Results as Neuronpedia and SAEBench have them: every field, and the numbers of ours."""

from pathlib import Path
from typing import Any

import pytest

from helpers.foreign_results import BenchCore, BenchProbes, DashboardBatch
from helpers.studied import SITES, studied
from saeworks.errors import UserError
from saeworks.files.access import read_json
from saeworks.interop import neuronpedia
from saeworks.interop.measured import export
from saeworks.measure.concepts import values
from saeworks.measure.studies import reconstruction, splice
from saeworks.results.metric import Metric, Value
from saeworks.results.records import plain
from saeworks.results.result import Result
from saeworks.results.series import (
    KNOWN_CONCEPTS,
    ConceptCarried,
    ConceptProbe,
    KnownConcept,
)


def result(name: str, metrics: dict[str, Metric], **series: Any) -> Result:
    """A result that has a number of its own for every metric that the study has."""
    values = {key: Value((at + 1) / 16) for at, key in enumerate(metrics)}
    return Result(
        name,
        name,
        {},
        1000,
        10,
        metrics,
        dict.fromkeys(SITES, values),
        dict.fromkeys(SITES, series),
    )


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = studied(tmp_path / "suite", latents=48)
    edges, counts = [-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0], [8, 8, 8, 4, 2, 2]
    series = {reconstruction.FREQUENCY: {"edges": edges, "counts": counts, "dead": 32}}
    measured = result("reconstruction", reconstruction.METRICS, **series)
    measured.write(path / "results" / "reconstruction.json")
    result("splice", splice.METRICS).write(path / "results" / "splice.json")
    return path


def value(metrics: dict[str, Metric], key: str) -> float:
    """What `result` has put there."""
    return (list(metrics).index(key) + 1) / 16


def test_neuronpedias_batches(suite: Path, tmp_path: Path) -> None:
    files = export([suite], "neuronpedia", tmp_path / "out")
    assert files == [tmp_path / "out" / site / "batch-0.json" for site in SITES]
    for layer, file in enumerate(files):
        batch = DashboardBatch.model_validate_json(file.read_text(encoding="utf-8"))
        assert (batch.model_id, batch.layer, batch.sae_set) == ("fake", layer, "topk-w64-k4")
        assert [feature.feature_index for feature in batch.features] == list(range(48))
        feature = batch.features[7]
        assert (feature.pos_str, feature.pos_values) == ([" up\n"], [0.5])
        assert (feature.neg_str, feature.neg_values) == ([" down"], [-0.5])
        assert feature.frac_nonzero == 0.01 and feature.n_prompts_total == 20
        assert feature.freq_hist_data_bar_heights == [7] and feature.dataset == "embedded"
        assert feature.freq_hist_data_bar_values == [2.0]
        first, *_, last = feature.activations
        assert (first.bin_min, first.bin_max, first.bin_contains) == (-1, 4.0, -1)
        assert first.tokens[2] == " peak" and first.values[first.qualifying_token_index] == 4.0
        assert max(first.values) == first.values[first.qualifying_token_index]
        assert (last.bin_min, last.bin_max, last.bin_contains) == (0.0, 4.0, 1.0)


def test_a_batch_has_so_many_latents(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuronpedia, "BATCH", 20)
    files = export([suite], "neuronpedia", tmp_path / "out", [SITES[1]])
    batches = [DashboardBatch.model_validate_json(file.read_text()) for file in files]
    assert [file.name for file in files] == [f"batch-{at}.json" for at in range(3)]
    numbers = [feature.feature_index for batch in batches for feature in batch.features]
    assert numbers == list(range(48))


def test_saebenchs_core(suite: Path, tmp_path: Path) -> None:
    files = export([suite], "saebench", tmp_path / "out")
    assert [file.parent.name for file in files] == ["core", "core"]
    assert files[0].name == "topk-w64-k4_layers.0_eval_results.json"
    core = BenchCore.model_validate_json(files[0].read_text(encoding="utf-8"))
    metrics: dict[str, Any] = core.eval_result_metrics.model_dump()
    ours = reconstruction.METRICS
    assert metrics["reconstruction_quality"] == {
        "explained_variance": 1 - value(ours, "fvu"),
        "explained_variance_legacy": None,
        "mse": None,
        "cossim": value(ours, "cosine"),
    }
    assert metrics["sparsity"] == {"l0": value(ours, "l0"), "l1": value(ours, "l1")}
    assert metrics["shrinkage"]["l2_ratio"] == value(ours, "l2_ratio")
    assert metrics["shrinkage"]["relative_reconstruction_bias"] == value(ours, "relative_bias")
    assert metrics["misc_metrics"]["frac_alive"] == 1 - value(ours, "dead_share")
    assert metrics["misc_metrics"]["freq_over_1_percent"] == 16 / 64
    assert metrics["misc_metrics"]["freq_over_10_percent"] == 4 / 64
    kept = metrics["model_performance_preservation"]
    assert kept["ce_loss_without_sae"] == value(splice.METRICS, "ce_clean")
    assert kept["ce_loss_with_sae"] == value(splice.METRICS, "ce_spliced")
    assert kept["ce_loss_score"] == value(splice.METRICS, "loss_recovered_zero")
    zero, with_sae = kept["ce_loss_with_ablation"], kept["ce_loss_with_sae"]
    recovered = (zero - with_sae) / (zero - kept["ce_loss_without_sae"])
    assert recovered == pytest.approx(kept["ce_loss_score"])
    assert metrics["model_behavior_preservation"]["kl_div_with_sae"] == value(splice.METRICS, "kl")
    again = export([suite], "saebench", tmp_path / "again")
    assert read_json(again[0])["eval_id"] == core.eval_id != read_json(files[1])["eval_id"]


def test_saebench_of_a_suite_that_was_not_spliced(suite: Path, tmp_path: Path) -> None:
    (suite / "results" / "splice.json").unlink()
    file, _ = export([suite], "saebench", tmp_path / "out")
    core = BenchCore.model_validate_json(file.read_text(encoding="utf-8"))
    assert not core.eval_config.compute_kl
    kept = core.eval_result_metrics.model_performance_preservation
    assert set(kept.values()) == {None}


def test_saebenchs_sparse_probing(suite: Path, tmp_path: Path) -> None:
    metrics = values.METRICS | values.probe_metrics((1, 5))
    probes = [ConceptProbe(5, [1, 2], 0.75, 0.875)]
    known = KnownConcept(
        "pos", "noun", 40, 400, 0.2, 1, 0.0, 0.6, 0.5, 0.7, 0.8, 0.6, probes, [1], 0.5, None, None,
        None, ConceptCarried(30, 3, 1, 0, [], 1, [1]), [], 0,
    )  # fmt: skip
    series = {KNOWN_CONCEPTS: [plain(known)]}
    result("concepts", metrics, **series).write(suite / "results" / "concepts.json")
    files = export([suite], "saebench", tmp_path / "out", [SITES[0]])
    assert [file.parent.name for file in files] == ["core", "sparse_probing_sae_probes"]
    probing = BenchProbes.model_validate_json(files[1].read_text(encoding="utf-8"))
    assert probing.eval_config.ks == [1, 5]
    assert probing.eval_config.dataset_names == ["pos: noun"]
    sae = probing.eval_result_metrics.sae
    assert sae["sae_top_5_test_f1"] == value(metrics, "probe_5_f1")
    assert sae["sae_top_1_test_auc"] == value(metrics, "probe_1_auroc")
    assert sae["sae_top_2_test_f1"] is None
    assert probing.eval_result_metrics.llm["llm_test_f1"] == value(metrics, "dense_f1")
    detail = probing.eval_result_details[0]
    assert (detail["dataset_name"], detail["sae_top_5_test_f1"]) == ("pos: noun", 0.75)
    assert detail["llm_test_f1"] == 0.5 and detail["sae_top_1_test_f1"] is None


def test_several_suites_have_a_folder_each(suite: Path, tmp_path: Path) -> None:
    other = studied(tmp_path / "other", latents=2, seed=1)
    files = export([suite, other], "neuronpedia", tmp_path / "out")
    assert {file.relative_to(tmp_path / "out").parts[0] for file in files} == {"suite", "other"}
    alike = studied(tmp_path / "x" / "suite", latents=2, seed=2)
    with pytest.raises(UserError, match="folders of the same name"):
        export([suite, alike], "neuronpedia", tmp_path / "new")


def test_what_cannot_be_exported(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"has no site 'x'; it has layers\.0, layers\.1"):
        export([suite], "saebench", out, ["x"])
    bare = studied(tmp_path / "bare", latents=2, seed=1)
    with pytest.raises(UserError, match=r"has no results/reconstruction\.json; run `saeworks eval"):
        export([bare], "saebench", out)
    (bare / "results" / "latents.json").unlink()
    with pytest.raises(UserError, match=r"has no results/latents\.json; run `saeworks eval"):
        export([bare], "neuronpedia", out)
    unnumbered = studied(tmp_path / "unnumbered", latents=2, sites=("embed",))
    with pytest.raises(UserError, match="names no layer"):
        export([unnumbered], "neuronpedia", out)
    assert not out.exists()
    out.mkdir()
    (out / "file").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        export([suite], "neuronpedia", out)
