"""What Neuronpedia and SAEBench read, written down from their sources.

SAEDashboard 0.8.0, `sae_dashboard/neuronpedia/neuronpedia_dashboard.py` (`to_dict` of each class),
whose files Neuronpedia's `convert-saedashboard-to-neuronpedia-export.py` reads. SAEBench 0.6.0,
`sae_bench/evals/base_eval_output.py`, `core/eval_output.py` and `core/eval_config.py`, and those of
`sparse_probing_sae_probes`. A number may be null here, where it was not measured; SAEBench's own
classes for `core` ask for a number.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, create_model

Number = FiniteFloat | None


class Strict(BaseModel):
    """Every key, and no other."""

    model_config = ConfigDict(extra="forbid", strict=True)


Numbers = dict[str, Number]


def exactly(*keys: str) -> AfterValidator:
    """Of a mapping of numbers: these keys, and no other; each may be null."""

    def check(values: Numbers) -> Numbers:
        assert values.keys() == set(keys), values.keys() ^ set(keys)
        return values

    return AfterValidator(check)


class DashboardActivation(Strict):
    bin_min: float
    bin_max: float
    bin_contains: float
    tokens: list[str]
    values: list[float]
    qualifying_token_index: int


class DashboardFeature(Strict):
    feature_index: int
    neuron_alignment_indices: list[int]
    neuron_alignment_values: list[float]
    neuron_alignment_l1: list[float]
    correlated_neurons_indices: list[int]
    correlated_neurons_l1: list[float]
    correlated_neurons_pearson: list[float]
    correlated_features_indices: list[int]
    correlated_features_l1: list[float | None]
    correlated_features_pearson: list[float | None]
    neg_str: list[str]
    neg_values: list[float]
    pos_str: list[str]
    pos_values: list[float]
    frac_nonzero: float
    freq_hist_data_bar_values: list[float]
    freq_hist_data_bar_heights: list[float]
    logits_hist_data_bar_heights: list[float]
    logits_hist_data_bar_values: list[float]
    n_prompts_total: int
    n_tokens_in_prompt: int
    dataset: str
    decoder_weights_dist: list[float]
    activations: list[DashboardActivation]
    vector: list[float]


class DashboardBatch(Strict):
    """A file `batch-N.json`."""

    model_id: str
    layer: int
    sae_set: str
    sae_id_suffix: str | None
    features: list[DashboardFeature]


class BenchOutput(Strict):
    """`BaseEvalOutput`."""

    eval_id: str
    datetime_epoch_millis: int = Field(ge=0, le=9999999999999)
    sae_bench_commit_hash: str
    sae_lens_id: str | None
    sae_lens_release_id: str | None
    sae_lens_version: str | None
    sae_cfg_dict: dict[str, Any] | None
    eval_result_unstructured: Any


class BenchCoreConfig(Strict):
    """Keys that are not there have SAEBench's defaults."""

    model_name: str
    dataset: str
    context_size: int = 128
    compute_kl: bool
    compute_ce_loss: bool
    compute_l2_norms: bool
    compute_sparsity_metrics: bool
    compute_variance_metrics: bool
    compute_featurewise_density_statistics: bool
    compute_featurewise_weight_based_metrics: bool
    exclude_special_tokens_from_reconstruction: bool


class BenchTokens(Strict):
    total_tokens_eval_reconstruction: int
    total_tokens_eval_sparsity_variance: int


class BenchCoreMetrics(Strict):
    model_behavior_preservation: Annotated[
        Numbers, exactly("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae")
    ]
    model_performance_preservation: Annotated[
        Numbers,
        exactly(
            "ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae"
        ),
    ]
    reconstruction_quality: Annotated[
        Numbers, exactly("explained_variance", "explained_variance_legacy", "mse", "cossim")
    ]
    shrinkage: Annotated[
        Numbers,
        exactly("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    ]
    sparsity: Annotated[Numbers, exactly("l0", "l1")]
    token_stats: BenchTokens
    misc_metrics: Annotated[
        Numbers,
        exactly(
            "freq_over_1_percent",
            "freq_over_10_percent",
            "normalized_freq_over_1_percent",
            "normalized_freq_over_10_percent",
            "average_max_encoder_cosine_sim",
            "average_max_decoder_cosine_sim",
            "frac_alive",
        ),
    ]


class BenchCore(BenchOutput):
    eval_type_id: Literal["core"]
    eval_config: BenchCoreConfig
    eval_result_metrics: BenchCoreMetrics
    eval_result_details: list[Any] = Field(max_length=0)
    """A number for each latent; none may be null, so there are none."""


class BenchProbesConfig(Strict):
    model_name: str
    random_seed: int
    dataset_names: list[str]
    reg_type: Literal["l1", "l2"]
    setting: Literal["normal", "scarcity", "imbalance"]
    ks: list[int]
    binarize: bool
    results_path: str
    model_cache_path: str | None
    include_llm_baseline: bool
    baseline_method: str


LLM = ("llm_test_accuracy", "llm_test_auc", "llm_test_f1")
SAE = (
    "sae_test_accuracy",
    *(
        f"sae_top_{k}_test_{metric}"
        for k in (1, 2, 5, 10, 20, 50, 100)
        for metric in ("accuracy", "auc", "f1")
    ),
)


class BenchProbesMetrics(Strict):
    llm: Annotated[Numbers, exactly(*LLM)]
    sae: Annotated[Numbers, exactly(*SAE)]


_DETAIL_NUMBERS: dict[str, Any] = dict.fromkeys((*LLM, *SAE), (Number, ...))
_Detail = create_model(
    "_Detail",
    __base__=Strict,
    dataset_name=(str, ...),
    sae_metrics_by_k=(dict[str, dict[str, float]] | None, ...),
    **_DETAIL_NUMBERS,
)


def _detail(values: dict[str, Any]) -> dict[str, Any]:
    _Detail.model_validate(values)
    return values


BenchProbesDetail = Annotated[dict[str, Any], AfterValidator(_detail)]


class BenchProbes(BenchOutput):
    eval_type_id: Literal["sparse_probing_sae_probes"]
    eval_config: BenchProbesConfig
    eval_result_metrics: BenchProbesMetrics
    eval_result_details: list[BenchProbesDetail]
    sae_metrics_by_k: dict[str, dict[str, float]] | None
