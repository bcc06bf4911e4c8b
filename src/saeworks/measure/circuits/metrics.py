"""The numbers of circuits: their keys, what they mean, and beside which controls they stand."""

from saeworks.measure.circuits.curves import ENOUGH
from saeworks.results.metric import Metric

SUITE = "suite"
BASELINE = "baseline"
RANDOM_LATENTS = "random_latents"
RANDOM_DIRECTIONS = "random_directions"
ZERO = "zero"
CONTROLS = {
    RANDOM_LATENTS: "random latents",
    RANDOM_DIRECTIONS: "random directions",
    ZERO: "zero SAE",
}
"""Key → words. The SAEs are those of `measure/controls.py`."""

FAITHFUL, FAITHFUL_ERROR = "faithful_auc", "faithful_auc_error"
COMPLETE, COMPLETE_ERROR = "complete_auc", "complete_auc_error"
SPLICED_AUC = "faithful_auc_spliced"
LATENTS_KEPT, ERROR_KEPT = "latents_kept", "error_kept"
LATENTS_ENOUGH, NODES_ENOUGH = "latents_enough", "nodes_enough"
RANK = "attribution_rank"
DIFFERENCE, ABLATED = "task_difference", "task_ablated"

_AREA = "mean over log N of the curve from the smallest circuit to the largest"
_WITHOUT = "The error is ablated throughout."
_WITH = "The error of the site is a node, ranked among the latents."
AREAS = {
    FAITHFUL: Metric(
        "Faithfulness",
        f"(m(C) − m(∅)) / (m(M) − m(∅)), C the top N latents, M the untouched model; {_AREA}. "
        f"{_WITHOUT}",
        better="higher",
    ),
    FAITHFUL_ERROR: Metric(
        "Faithfulness, error nodes",
        f"The same with C the top N nodes. {_WITH}",
        better="higher",
    ),
    COMPLETE: Metric(
        "Completeness",
        f"(m(all latents but C) − m(∅)) / (m(M) − m(∅)); {_AREA}. {_WITHOUT}",
        better="lower",
    ),
    COMPLETE_ERROR: Metric(
        "Completeness, error nodes",
        f"(m(M without C) − m(∅)) / (m(M) − m(∅)); {_AREA}. {_WITH}",
        better="lower",
    ),
}
CURVES = dict(zip(AREAS, ((False, False), (True, False), (False, True), (True, True)), strict=True))
"""Key of an area → whether the error is a node, whether C is taken out."""


def of(who: str, area: str) -> str:
    """The key of an area under a curve of the suite, or of a control."""
    return area if who == SUITE else f"{who}_{area}"


def less_baseline(area: str) -> str:
    """The key of an area less the baseline's."""
    return f"{area}_less_baseline"


METRICS: dict[str, Metric] = {
    **AREAS,
    SPLICED_AUC: Metric(
        "Faithfulness to the spliced model",
        "As faithfulness, with M the model with all latents and no error: (m(C) − m(∅)) / "
        "(m(all latents) − m(∅)). It says nothing of what the SAE has lost.",
        better="higher",
    ),
    LATENTS_KEPT: Metric(
        "Kept by all latents",
        "Faithfulness of all latents with the error ablated: what of the task the SAE keeps.",
        better="higher",
    ),
    ERROR_KEPT: Metric(
        "Kept by the error",
        "Faithfulness of the error alone, with all latents ablated.",
        better="lower",
    ),
    LATENTS_ENOUGH: Metric(
        f"Latents for {ENOUGH:.0%}",
        f"Latents per site whose faithfulness reaches {ENOUGH:.0%}, between two sizes by the line "
        f"over log N; undefined where no circuit does. {_WITHOUT}",
        "latents",
        "lower",
    ),
    NODES_ENOUGH: Metric(
        f"Nodes for {ENOUGH:.0%}, error nodes", f"The same in nodes. {_WITH}", "nodes", "lower"
    ),
    RANK: Metric(
        "Attribution against patching",
        "Spearman's correlation of the effects of latents, drawn from those that the patch "
        "changes, by attribution and by patching each alone; both mean over prompts.",
        better="higher",
    ),
    DIFFERENCE: Metric("m(M)", "m of the untouched model, mean over prompts.", "logits"),
    ABLATED: Metric("m(∅)", "m with the site at its mean (of each case and position).", "logits"),
}
BESIDE = {BASELINE: "baseline", **CONTROLS}
"""Key → words of all that stands beside a suite."""
for _control, _words in BESIDE.items():
    METRICS |= {
        of(_control, _key): Metric(f"{_metric.title}: {_words}", _metric.description)
        for _key, _metric in AREAS.items()
    }
METRICS |= {
    less_baseline(_key): Metric(
        f"{_metric.title} − baseline",
        f"The suite's less that of the baseline at the same site, on the same prompts. "
        f"{_metric.description}",
        better=_metric.better,
    )
    for _key, _metric in AREAS.items()
}
