"""SAEBench's results of a suite, from what was measured of it: core, and sparse probing.

The schema is that of SAEBench 0.6.0 (`evals/core/eval_output.py` and
`evals/sparse_probing_sae_probes/eval_output.py`). A number that was not measured here, or not as
SAEBench defines it, is null. Ours are of the suite's own held-out text, not of SAEBench's data
sets, and are named so in `eval_config`.
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saeworks import __version__
from saeworks.errors import UserError
from saeworks.files.access import inside, is_file, write_json
from saeworks.files.seals import RESULTS, suite_digest
from saeworks.results.headlines import (
    COSINE,
    DEAD_SHARE,
    FVU,
    KL,
    L0,
    LOSS_RECOVERED_ZERO,
)
from saeworks.results.names import CONCEPTS
from saeworks.results.records import parse
from saeworks.results.result import Result
from saeworks.results.series import KNOWN_CONCEPTS, Histogram, KnownConcept
from saeworks.results.suite_meta import SuiteMeta

CORE, PROBING = "core", "sparse_probing_sae_probes"
KS = (1, 2, 5, 10, 20, 50, 100)
"""Latents of the sparse probes that SAEBench has places for."""
_OURS = f"saeworks {__version__}"


def export(
    path: Path, meta: SuiteMeta, out: Path, sites: Sequence[str], say: Callable[[str], None]
) -> None:
    """Write what was measured of a suite at some sites: `core/…_eval_results.json`, and of known
    concepts, where `saeworks concepts` measured them, `sparse_probing_sae_probes/…`. It takes no
    time, so it has no progress to `say`.

    Raises:
        UserError: if the suite was not evaluated.
    """
    results = {name: _read(path, name) for name in ("reconstruction", "splice", CONCEPTS)}
    reconstruction, concepts = results["reconstruction"], results[CONCEPTS]
    if reconstruction is None:
        raise UserError(f"{path} has no {RESULTS}/reconstruction.json; run `saeworks eval {path}`")
    for site in sites:
        name = f"{meta.variant}_{site}_eval_results.json".replace("/", "_")
        base = _base(path, meta, site)
        core = _core(meta, site, reconstruction, results["splice"])
        write_json(out / CORE / name, base | core)
        if concepts is not None and site in concepts.sites:
            write_json(out / PROBING / name, base | _probing(meta, site, concepts))


def _read(path: Path, evaluation: str) -> Result | None:
    file = inside(path, f"{RESULTS}/{evaluation}.json")
    return Result.read(file) if is_file(file) else None


def _base(path: Path, meta: SuiteMeta, site: str) -> dict[str, Any]:
    """The fields that every evaluation has; the identifier is that of suite and site, so the same
    suite has the same one each time."""
    return {
        "eval_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"saeworks:{suite_digest(path)}/{site}")),
        "datetime_epoch_millis": int(time.time() * 1000),
        "sae_bench_commit_hash": f"not run by SAEBench: {_OURS}",
        "sae_lens_id": site,
        "sae_lens_release_id": meta.variant,
        "sae_lens_version": None,
        "sae_cfg_dict": {
            "architecture": meta.arch,
            "model_name": meta.model.name,
            "hook_name": site,
            "d_in": meta.sites[site].d,
            "d_sae": meta.groups[meta.sites[site].group].width,
            "context_size": meta.text.get("context"),
            "dataset_path": meta.text.get("source"),
            "training_tokens": meta.tokens,
        },
    }


def _core(
    meta: SuiteMeta, site: str, reconstruction: Result, splice: Result | None
) -> dict[str, Any]:
    """`CoreEvalOutput`."""

    def of(key: str) -> float | None:
        return _value(reconstruction, site, key)

    def spliced(key: str) -> float | None:
        return None if splice is None else _value(splice, site, key)

    fvu, dead, recovered = of(FVU), of(DEAD_SHARE), spliced(LOSS_RECOVERED_ZERO)
    clean, with_sae = spliced("ce_clean"), spliced("ce_spliced")
    context = meta.text.get("context")
    return {
        "eval_type_id": CORE,
        "eval_config": {
            "model_name": meta.model.name,
            "dataset": f"{meta.text.get('source')} (held out)",
            **({"context_size": context} if context else {}),
            "compute_kl": splice is not None,
            "compute_ce_loss": splice is not None,
            "compute_l2_norms": True,
            "compute_sparsity_metrics": True,
            "compute_variance_metrics": True,
            "compute_featurewise_density_statistics": False,
            "compute_featurewise_weight_based_metrics": False,
            "exclude_special_tokens_from_reconstruction": bool(meta.text.get("exclude_bos", True)),
        },
        "eval_result_metrics": {
            "model_behavior_preservation": {
                "kl_div_score": None,
                "kl_div_with_ablation": None,
                "kl_div_with_sae": spliced(KL),
            },
            "model_performance_preservation": {
                "ce_loss_score": recovered,
                "ce_loss_with_ablation": _ablated(clean, with_sae, recovered),
                "ce_loss_with_sae": with_sae,
                "ce_loss_without_sae": clean,
            },
            "reconstruction_quality": {
                "explained_variance": None if fvu is None else 1 - fvu,
                "explained_variance_legacy": None,
                "mse": None,  # theirs is divided by the tokens of a batch
                "cossim": of(COSINE),
            },
            "shrinkage": {
                "l2_norm_in": None,
                "l2_norm_out": None,
                "l2_ratio": of("l2_ratio"),
                "relative_reconstruction_bias": of("relative_bias"),
            },
            "sparsity": {"l0": of(L0), "l1": of("l1")},
            "token_stats": {
                "total_tokens_eval_reconstruction": 0 if splice is None else splice.tokens,
                "total_tokens_eval_sparsity_variance": reconstruction.tokens,
            },
            "misc_metrics": {
                **_frequencies(reconstruction, site),
                "normalized_freq_over_1_percent": None,
                "normalized_freq_over_10_percent": None,
                "average_max_encoder_cosine_sim": None,
                "average_max_decoder_cosine_sim": None,
                "frac_alive": None if dead is None else 1 - dead,
            },
        },
        "eval_result_details": [],
        "eval_result_unstructured": {
            "measured_by": _OURS,
            **reconstruction.values().get(site, {}),
            **({} if splice is None else splice.values().get(site, {})),
        },
    }


def _value(result: Result, site: str, key: str) -> float | None:
    value = result.sites.get(site, {}).get(key)
    return None if value is None else value.value


def _ablated(clean: float | None, with_sae: float | None, recovered: float | None) -> float | None:
    """The cross-entropy z with the site set to 0, of r = (z − spliced) / (z − clean)."""
    if clean is None or with_sae is None or recovered is None or recovered == 1:
        return None
    return (with_sae - recovered * clean) / (1 - recovered)


def _frequencies(result: Result, site: str) -> dict[str, float | None]:
    """Shares of latents that fire on more than 1% and 10% of the tokens, of the histogram of
    log₁₀ frequencies, which has edges there."""
    series = result.series.get(site, {}).get("log10_frequency_histogram")
    names = {"freq_over_1_percent": -2.0, "freq_over_10_percent": -1.0}
    if not isinstance(series, Mapping):
        return dict.fromkeys(names)
    histogram = Histogram(series["edges"], series["counts"])
    width = sum(histogram.counts) + series["dead"]
    edges = histogram.edges[:-1]
    return {
        name: sum(n for low, n in zip(edges, histogram.counts) if low >= least) / width
        if least in histogram.edges
        else None
        for name, least in names.items()
    }


def _probing(meta: SuiteMeta, site: str, concepts: Result) -> dict[str, Any]:
    """`SparseProbingSaeProbesEvalOutput`: a concept is a data set, each token an example."""
    values = {key: _value(concepts, site, key) for key in concepts.sites[site]}
    known = [
        parse(KnownConcept, concept, f"{CONCEPTS}.json", "run `saeworks concepts` again", site)
        for concept in concepts.series.get(site, {}).get(KNOWN_CONCEPTS, [])
    ]
    return {
        "eval_type_id": PROBING,
        "eval_config": {
            "model_name": meta.model.name,
            "random_seed": concepts.config.get("seed", 0),
            "dataset_names": [_named(concept) for concept in known],
            "reg_type": "l2",
            "setting": "normal",
            "ks": [k for k in KS if f"probe_{k}_f1" in values],
            "binarize": False,
            "results_path": "",
            "model_cache_path": None,
            "include_llm_baseline": True,
            "baseline_method": "logreg",
        },
        "eval_result_metrics": {
            "llm": {
                "llm_test_accuracy": None,
                "llm_test_auc": None,
                "llm_test_f1": values.get("dense_f1"),
            },
            "sae": _probes(
                {k: (values.get(f"probe_{k}_f1"), values.get(f"probe_{k}_auroc")) for k in KS}
            ),
        },
        "eval_result_details": [
            {
                "dataset_name": _named(concept),
                "llm_test_accuracy": None,
                "llm_test_auc": None,
                "llm_test_f1": concept.dense,
                **_probes({probe.k: (probe.f1, probe.auroc) for probe in concept.probes}),
                "sae_metrics_by_k": None,
            }
            for concept in known
        ],
        "sae_metrics_by_k": None,
        "eval_result_unstructured": {"measured_by": _OURS, **concepts.values()[site]},
    }


def _named(concept: KnownConcept) -> str:
    return f"{concept.concept}: {concept.value}"


def _probes(by_k: Mapping[int, tuple[float | None, float | None]]) -> dict[str, float | None]:
    """`SaeProbesSaeMetrics`: F1 and area under the curve by k; accuracy says little of concepts
    that few tokens have, and is not measured."""
    fields: dict[str, float | None] = {"sae_test_accuracy": None}
    for k in KS:
        f1, auroc = by_k.get(k, (None, None))
        fields |= {
            f"sae_top_{k}_test_accuracy": None,
            f"sae_top_{k}_test_auc": auroc,
            f"sae_top_{k}_test_f1": f1,
        }
    return fields
