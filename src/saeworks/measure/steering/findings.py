"""What steering says, in sentences."""

from collections.abc import Mapping, Sequence

from saeworks.measure.steering.config import SteeringConfig
from saeworks.measure.steering.metrics import ADVANTAGE, SPANS
from saeworks.results.metric import Value
from saeworks.results.series import AtCost, SteeredConcept
from saeworks.results.words import percent, points


def findings(
    concepts: Mapping[str, Sequence[SteeredConcept]],
    sites: Mapping[str, Mapping[str, Value]],
    config: SteeringConfig,
) -> tuple[str, ...]:
    """A sentence on each site, then on each concept, then what the numbers do not say."""
    cost = f"{config.cost:g} nats of ΔCE per token"
    overall = [
        f"At {site}, pushes that cost {cost} moved the rate of {_count(concepts[site])} by "
        f"{_points(values[SPANS['latents']])} with latents and "
        f"{_points(values[SPANS['mean difference']])} with the difference of means, which needs no "
        f"SAE: {_verdict(values[ADVANTAGE])}."
        for site, values in sites.items()
    ]
    single = [_concept(site, concept) for site, of_site in concepts.items() for concept in of_site]
    return (*overall, *single, _limits(concepts, config))


def _count(concepts: Sequence[SteeredConcept]) -> str:
    if len(concepts) == 1:
        return concepts[0].concept
    return f"{len(concepts)} concepts (mean)"


def _concept(site: str, concept: SteeredConcept) -> str:
    kinds = {at.by: at for at in concept.at_cost}
    untouched = next(point for point in concept.curves[0].points if point.strength == 0)
    latents, means = kinds["latents"], kinds["mean difference"]
    named = " + ".join(map(str, concept.latents))
    sentence = (
        f"{concept.concept} at {site} is {percent(untouched.rate)} of what the model writes; "
        f"latent {named} takes it {_range(latents)}, the difference of means {_range(means)}: "
        f"{_verdict(concept.advantage)}."
    )
    controls = [kinds[by].span for by in ("random latents", "random directions") if by in kinds]
    if controls:
        spans = " and ".join(_points(span) for span in controls)
        sentence += f" Random latents and directions move it by {spans}."
    return sentence


def _range(at: AtCost) -> str:
    return f"down to {percent(at.down)} and up to {percent(at.up)}"


def _verdict(advantage: Value) -> str:
    if advantage.value is None or advantage.low is None or advantage.high is None:
        return "there are too few prompts to tell them apart"
    told = _points(advantage)
    if advantage.low > 0:
        return f"latents do more ({told})"
    if advantage.high < 0:
        return f"latents do less ({told})"
    return f"the difference is within its interval ({told})"


def _points(value: Value) -> str:
    return f"{points(value)} points"


def _limits(concepts: Mapping[str, Sequence[SteeredConcept]], config: SteeringConfig) -> str:
    weak = [
        f"{at.by} for {concept.concept} at {site}"
        for site, of_site in concepts.items()
        for concept in of_site
        for at in concept.at_cost
        if any(reached is not None and reached < config.cost for reached in at.reached)
    ]
    judges = ", ".join(
        dict.fromkeys(concept.judge for of_site in concepts.values() for concept in of_site)
    )
    told = (
        f"Rates are judged by {judges}; intervals are over prompts, with costs and the choice of "
        "latents taken as they are."
    )
    if weak:
        told += (
            f" The strongest push cost less than {config.cost:g} nats and stands in its place: "
            f"{', '.join(weak)}."
        )
    return told
