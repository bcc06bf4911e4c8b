"""What the commands wrote, as one record."""

from collections.abc import Sequence
from pathlib import Path

from experiments.interp.arms import suites
from experiments.runs import Found, machine, read

TASKS = ("ioi", "greater_than", "agreement")
CIRCUITS = (
    "faithful_auc",
    "faithful_auc_error",
    "complete_auc",
    "latents_kept",
    "error_kept",
    "latents_enough",
    "attribution_rank",
    "task_difference",
    "zero_faithful_auc",
    "zero_faithful_auc_error",
    "random_directions_faithful_auc",
    "random_latents_faithful_auc",
)
CONCEPTS = (
    "coverage",
    "concept_f1",
    "random_coverage",
    "neuron_coverage",
    "dense_coverage",
    "absorption",
    "coding_experts",
    "one_expert",
    "expert_cosine",
)
EXPLANATIONS = (
    "program_detection",
    "program_f1",
    "program_token_f1",
    "program_shuffled_f1",
    "program_balanced",
    "explained_latents",
)
FILES = {
    **{f"circuits_{task}": CIRCUITS for task in TASKS},
    "concepts": CONCEPTS,
    "explanations": EXPLANATIONS,
}
"""File of a suite's results → the metrics that are kept."""


def measured(setting: str, seeds: Sequence[int]) -> Found:
    """Seed → what is compared → file → site → metric → value and ends of its interval."""
    runs = {
        str(seed): {name: of_suite(path) for name, path in suites(setting, seed).items()}
        for seed in seeds
    }
    return {"runs": runs, "machine": machine()}


def of_suite(path: Path) -> Found:
    """The kept metrics of one suite, and how long its SAEs were trained."""
    meta = read(path / "suite.json")
    (width,) = {group["width"] for group in meta["groups"].values()}
    files = {
        name: kept(read(path / "results" / f"{name}.json"), metrics)
        for name, metrics in FILES.items()
        if (path / "results" / f"{name}.json").exists()
    }
    return {"saes": len(meta["groups"]), "width": width, "vectors": meta["tokens"], **files}


def kept(result: Found, metrics: Sequence[str]) -> Found:
    return {
        site: {
            metric: [values[metric][end] for end in ("value", "low", "high")]
            for metric in metrics
            if metric in values
        }
        for site, values in result["sites"].items()
    }
