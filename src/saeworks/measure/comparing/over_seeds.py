"""What the same comparison gave with several seeds: means with Student's t intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.errors import UserError
from saeworks.files.access import write_json
from saeworks.results import statistics
from saeworks.results.comparison import Comparison, Paired
from saeworks.results.metric import Metric, Value


@dataclass(frozen=True, config=STRICT)
class PairedOverSeeds:
    """Means over the seeds with 95% intervals over the seeds, and what each seed gave."""

    suite: Value
    baseline: Value
    difference: Value
    ratio: Value | None
    per_seed: list[Paired]
    """In the order of `seeds`; their intervals are over documents."""


@dataclass(frozen=True, config=STRICT)
class OverSeeds:
    """A variant beside its baseline, each seed with the baseline of its own seed."""

    variant: str
    baseline: str
    seeds: list[int | None]
    metrics: dict[str, Metric]
    sites: dict[str, dict[str, PairedOverSeeds]]
    mean: dict[str, PairedOverSeeds]
    """Of the mean over sites."""
    evaluation: Literal["over_seeds"] = "over_seeds"
    schema: Literal[1] = 1

    def write(self, path: Path) -> None:
        """Write JSON atomically."""
        write_json(path, asdict(self))


def over_seeds(comparisons: Sequence[Comparison]) -> OverSeeds:
    """The mean of each seed's difference, with Student's interval over the seeds.

        mean ± t₀.₉₇₅(S − 1) · s / √S

    for S seeds with standard deviation s (denominator S − 1); no interval with one seed. The
    intervals over documents of each seed stand beside it: they do not tell what another seed
    would give, and this one does not tell what other documents would.

    Raises:
        UserError: if there is none, they are of different variants or sites, or of the same seed.
    """
    if not comparisons:
        raise UserError("no comparison to take the mean of; give one for each seed")
    first, seeds = comparisons[0], [comparison.suite.seed for comparison in comparisons]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"comparisons of the seeds {seeds}: give one for each seed")
    for comparison in comparisons[1:]:
        if (_what(comparison)) != (_what(first)):
            raise UserError(
                f"the comparisons of {comparison.suite.variant} (seed {comparison.suite.seed}) and "
                f"{first.suite.variant} (seed {first.suite.seed}) differ in more than their seed: "
                "in variant, baseline, sites or metrics"
            )
    return OverSeeds(
        first.suite.variant,
        first.baseline.variant,
        seeds,
        dict(first.metrics),
        {
            site: _over(
                [comparison.sites[site] for comparison in comparisons], list(first.sites[site])
            )
            for site in first.sites
        },
        _over([comparison.mean for comparison in comparisons], list(first.mean)),
    )


def _what(comparison: Comparison) -> tuple[object, ...]:
    metrics = {site: set(values) for site, values in comparison.sites.items()}
    return comparison.suite.variant, comparison.baseline.variant, metrics, set(comparison.mean)


def _over(
    rows: Sequence[Mapping[str, Paired]], metrics: Sequence[str]
) -> dict[str, PairedOverSeeds]:
    out = {}
    for metric in metrics:
        pairs = [row[metric] for row in rows]
        ratios = [pair.ratio for pair in pairs if pair.ratio is not None]
        out[metric] = PairedOverSeeds(
            student([pair.suite.value for pair in pairs]),
            student([pair.baseline.value for pair in pairs]),
            student([pair.difference.value for pair in pairs]),
            student([ratio.value for ratio in ratios]) if ratios else None,
            pairs,
        )
    return out


def student(values: Sequence[float | None]) -> Value:
    """The mean with Student's 95% interval; none if a value is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Value(None)
    return Value(*statistics.student(known))
