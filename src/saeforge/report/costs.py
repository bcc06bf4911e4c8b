"""What an SAE costs: operations per token of its training, seconds, parameters."""

from collections.abc import Callable
from dataclasses import dataclass

from saeforge.report.inputs import Metric, SuiteData


@dataclass(frozen=True)
class Cost:
    """One kind of cost.

    Attributes:
        axis: its title on an axis.
        at: suite, site → how much, None where it is not known.
    """

    id: str
    axis: str
    metric: Metric
    at: Callable[[SuiteData, str], float | None]


def _flops(suite: SuiteData, site: str) -> float | None:
    """As the training log counts them at the site; else the mean over the suite's SAEs."""
    spent = [line for line in suite.logged if line.site == site and line.flops is not None]
    if spent and spent[-1].tokens:
        assert spent[-1].flops is not None
        return spent[-1].flops / spent[-1].tokens
    whole, tokens = suite.meta.cost.get("flops_saes"), suite.meta.tokens
    if isinstance(whole, int | float) and tokens and suite.meta.groups:
        return float(whole) / tokens / len(suite.meta.groups)
    return None


def _seconds(suite: SuiteData, site: str) -> float | None:
    return suite.meta.seconds


def _parameters(suite: SuiteData, site: str) -> float | None:
    found = suite.parameters.get(site)
    return None if found is None else float(found)


COSTS = (
    Cost(
        "flops",
        "FLOPs per token of training",
        Metric(
            title="FLOPs per token",
            description="Operations of the SAE's training per token, forward and backward, as "
            "`saeforge cost` counts them; without the language model's.",
        ),
        _flops,
    ),
    Cost(
        "seconds",
        "measured seconds of training",
        Metric(
            title="Measured seconds",
            unit="s",
            description="Wall-clock of the training loop, with the language model and whatever "
            "else was trained in the same run.",
        ),
        _seconds,
    ),
    Cost(
        "parameters",
        "parameters",
        Metric(title="Parameters", description="Numbers in the weights of the site's SAE."),
        _parameters,
    ),
)
