"""The metrics of steering."""

from saeworks.results.metric import Metric
from saeworks.results.series import SteeredBy

SPANS: dict[SteeredBy, str] = {
    "latents": "span_latents",
    "mean difference": "span_mean_difference",
    "random latents": "span_random_latents",
    "random directions": "span_random_directions",
}
ADVANTAGE = "advantage"
_HOW = (
    "the rate of the concept in generated text pushed up, less that pushed down, where both cost "
    "the ΔCE of held-out text that the options name (linear between strengths); mean over concepts."
)
METRICS = {
    ADVANTAGE: Metric(
        "Latents − mean difference",
        "Span of the latents less span of the mean difference, at the same cost.",
        better="higher",
    ),
    SPANS["latents"]: Metric("Span, latents", f"Of the concept's latents: {_HOW}", better="higher"),
    SPANS["mean difference"]: Metric(
        "Span, mean difference",
        "Of the mean of x on the concept's tokens less that on its other values' tokens (for "
        f"words: on all others), the baseline: {_HOW}",
        better="higher",
    ),
    SPANS["random latents"]: Metric("Span, random latents", f"Of random live latents: {_HOW}"),
    SPANS["random directions"]: Metric("Span, random", f"Of random directions: {_HOW}"),
}
