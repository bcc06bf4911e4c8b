"""What an SAE costs: operations per token of its training, seconds, parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from saeworks.report.numbers import count, number
from saeworks.report.suites import SuiteData
from saeworks.report.summary import all_sites
from saeworks.report.tables import Cell, Column, Row, Table
from saeworks.results.metric import Metric


@dataclass(frozen=True)
class CostAxis:
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


def _step_seconds(suite: SuiteData, site: str) -> float | None:
    logged = [line.step_seconds for line in suite.logged if line.site == site]
    return next((seconds for seconds in reversed(logged) if seconds is not None), None)


def _run_seconds(suite: SuiteData, site: str) -> float | None:
    return suite.meta.seconds


def _parameters(suite: SuiteData, site: str) -> float | None:
    parameters = suite.parameters.get(site)
    return None if parameters is None else float(parameters)


COSTS = (
    CostAxis(
        "flops",
        "FLOPs per token of training",
        Metric(
            title="FLOPs per token",
            description="Operations of the SAE's training per token, forward and backward, as "
            "`saeworks cost` counts them; without the language model's.",
        ),
        _flops,
    ),
    CostAxis(
        "step_seconds",
        "measured seconds of the SAE's steps",
        Metric(
            title="Seconds of steps",
            unit="s",
            description="Wall-clock of the SAE's own training steps, on the threads they had, "
            "beside those of the run's other SAEs.",
        ),
        _step_seconds,
    ),
    CostAxis(
        "run_seconds",
        "measured seconds of the run",
        Metric(
            title="Seconds of the run",
            unit="s",
            description="Wall-clock of the training loop, with the language model and whatever "
            "else was trained in the same run.",
        ),
        _run_seconds,
    ),
    CostAxis(
        "parameters",
        "parameters",
        Metric(title="Parameters", description="Numbers in the weights of the site's SAE."),
        _parameters,
    ),
)


def table(suites: Sequence[SuiteData]) -> Table:
    """What each suite's SAE costs at each site; without columns where nothing is known."""
    places = [
        (order, site, index, suite)
        for order, site in enumerate(all_sites(suites))
        for index, suite in enumerate(suites)
        if site in suite.meta.sites
    ]
    known = [cost for cost in COSTS if any(cost.at(suite, site) for _, site, _, suite in places)]
    rows = [
        Row(site, order, index, suite.label, [cell(cost.at(suite, site)) for cost in known])
        for order, site, index, suite in places
    ]
    return Table("What the SAEs cost", [Column(cost.id, cost.metric) for cost in known], rows)


def cell(value: float | None) -> Cell:
    """A cost, of millions in words."""
    return Cell(number(value) if value is None or value < 1e6 else count(value), "", value)


@dataclass(frozen=True)
class TrainingCost:
    """What the training of each suite cost, by the suite's path."""

    id: str
    name: str
    unit: str
    about: str
    values: dict[Path, float]


def flops_of(suites: Sequence[SuiteData]) -> TrainingCost:
    """Operations, in the largest unit of which some suite has one."""
    values = {suite.path: x for suite in suites if (x := _training_flops(suite))}
    largest = max(values.values(), default=0.0)
    size, prefix = next(
        ((size, p) for size, p in ((1e18, "E"), (1e15, "P"), (1e12, "T")) if largest >= size),
        (1e9, "G"),
    )
    about = "As recorded by the training."
    if not all("flops" in suite.meta.cost for suite in suites):
        about = (
            "By the paper's count: N·L·(24d² + 4·context·d) for the language model, shared by all "
            "suites of a run but counted for each, and 10·d·M·N for an SAE."
        )
    values = {path: x / size for path, x in values.items()}
    return TrainingCost("flops", "FLOPs of training", f"{prefix}FLOP", about, values)


def seconds_of(suites: Sequence[SuiteData]) -> TrainingCost:
    """Seconds of the training loop."""
    values = {suite.path: suite.meta.seconds for suite in suites if suite.meta.seconds}
    about = "Wall-clock of the training loop, with whatever else was trained in the same run."
    return TrainingCost("seconds", "measured seconds", "seconds", about, values)


def _training_flops(suite: SuiteData) -> float | None:
    """As recorded; else by the paper's count: A + G·T with A = N·L·(24d² + 4·context·d) for the
    language model and T = 10·d·M·N for an SAE (Group-SAE, 2410.21508)."""
    recorded = suite.meta.cost.get("flops")
    if isinstance(recorded, int | float):
        return float(recorded)
    meta, width = suite.meta, suite.options.get("width")
    d = next((site.d for site in meta.sites.values()), None)
    if not (meta.tokens and meta.groups and d and isinstance(width, int)):
        return None
    context = meta.text.get("context")
    context = context if isinstance(context, int) else 1024
    lm = meta.tokens * (meta.model.layers or 0) * (24 * d**2 + 4 * context * d)
    return float(lm + len(meta.groups) * 10 * d * width * meta.tokens)
