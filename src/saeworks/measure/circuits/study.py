"""Circuits: how much of a task runs through how few latents of a suite, beside its controls.

m is the difference of the logits of the right answer to a clean prompt and of that to its patched
twin, at the last position. A node that is not in a circuit is set to its mean over the prompts of
the case, at each position.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, final

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from saeworks.measure import bootstrap
from saeworks.measure.circuits.ablation import ERROR, SPLICED
from saeworks.measure.circuits.attribution import NodeEffects
from saeworks.measure.circuits.config import CircuitsConfig
from saeworks.measure.circuits.curves import Curves
from saeworks.measure.circuits.findings import findings
from saeworks.measure.circuits.metrics import (
    ABLATED,
    AREAS,
    BASELINE,
    BESIDE,
    COMPLETE,
    CURVES,
    DIFFERENCE,
    ERROR_KEPT,
    FAITHFUL,
    FAITHFUL_ERROR,
    LATENTS_ENOUGH,
    LATENTS_KEPT,
    METRICS,
    NODES_ENOUGH,
    RANDOM_DIRECTIONS,
    RANDOM_LATENTS,
    RANK,
    SPLICED_AUC,
    SUITE,
    ZERO,
    less_baseline,
    of,
)
from saeworks.measure.engine import Measured, Study
from saeworks.measure.tasks.cases import Task
from saeworks.measure.tasks.skill import Skill
from saeworks.results.figure import GREY, Axis, Figure, Trace
from saeworks.results.metric import Metric, Value
from saeworks.results.names import CIRCUITS
from saeworks.results.records import plain
from saeworks.results.result import Result
from saeworks.results.series import GRAPH, CircuitGraph


@dataclass
class SiteNumbers:
    """What was measured of a suite at a site, or at all sites at once.

    Attributes:
        curves: `SUITE`, `BASELINE` or a control → its curves.
        effects: of the suite's nodes; None at all sites.
        sampled_n: latents that were also patched alone.
        attributed_PS, patched_PS: their effects both ways.
        graph: of the latents of all sites.
    """

    curves: dict[str, Curves] = field(default_factory=dict)
    effects: NodeEffects | None = None
    sampled_n: list[int] = field(default_factory=list)
    attributed_PS: Float[np.ndarray, "P S"] | None = None
    patched_PS: Float[np.ndarray, "P S"] | None = None
    graph: CircuitGraph | None = None


TOP = 64
"""RankedNodes latents that a result names."""


@final
class Circuits(Study):
    """One task's circuits in the SAEs of suites.

    Args:
        measured: suite → site (or `ALL_SITES`) → what was measured.
    """

    name = CIRCUITS
    title = "Circuits"
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    headline = (FAITHFUL, FAITHFUL_ERROR, COMPLETE, LATENTS_KEPT, LATENTS_ENOUGH)

    def __init__(
        self,
        task: Task,
        skill: Skill,
        config: CircuitsConfig,
        measured: Mapping[str, Mapping[str, SiteNumbers]],
    ) -> None:
        self.task, self.skill, self.config, self.measured = task, skill, config, measured

    def results(self) -> dict[str, Measured]:
        return {name: Measured(self._of(sites)) for name, sites in self.measured.items()}

    def _of(self, measured: Mapping[str, SiteNumbers]) -> Result:
        config = self.config
        prompts = self.task.prompts
        values = {site: values_of(numbers, config) for site, numbers in measured.items()}
        return Result(
            evaluation=f"{self.name}_{self.task.name}",
            title=f"{self.title}: {self.task.name}",
            config=asdict(config)
            | {
                "task": {
                    "name": self.task.name,
                    "source": self.task.source,
                    "digest": self.task.digest,
                    "left_out": dict(self.task.left_out),
                    "cases": {case.name: len(case) for case in self.task.cases},
                    "skill": self.skill.record,
                },
                "intervals": bootstrap.describe(prompts, config.bootstrap, config.seed).replace(
                    "documents", "pairs of prompts"
                ),
            },
            tokens=0,
            documents=prompts,
            metrics=METRICS,
            sites=values,
            series={site: series_of(numbers, config) for site, numbers in measured.items()},
            figures=figures(self.task.name),
            findings=findings(self.task.name, self.skill, values, config.nodes),
        )


def values_of(numbers: SiteNumbers, config: CircuitsConfig) -> dict[str, Value]:
    """Every metric at one site, with its interval over prompts."""
    suite = numbers.curves[SUITE]
    values = {
        DIFFERENCE: suite.clean,
        ABLATED: suite.ablated,
        SPLICED_AUC: suite.interval(suite.area(False, whole=SPLICED)),
        LATENTS_KEPT: suite.interval(suite.kept(SPLICED)),
        ERROR_KEPT: suite.interval(suite.kept(ERROR)),
        LATENTS_ENOUGH: suite.interval(suite.enough(False)),
        NODES_ENOUGH: suite.interval(suite.enough(True)),
    }
    for who, curves in numbers.curves.items():
        for key, (error, rest) in CURVES.items():
            values[of(who, key)] = curves.interval(curves.area(error, rest))
    if BASELINE in numbers.curves:
        baseline = numbers.curves[BASELINE]
        for key, (error, rest) in CURVES.items():
            difference_D = suite.area(error, rest) - baseline.area(error, rest)
            values[less_baseline(key)] = suite.interval(difference_D)
    if numbers.attributed_PS is not None and numbers.patched_PS is not None:
        values[RANK] = rank_correlation(
            numbers.attributed_PS, numbers.patched_PS, config.bootstrap, config.seed
        )
    return {key: values[key] for key in METRICS if key in values}


def rank_correlation(
    a_PS: Float[np.ndarray, "P S"], b_PS: Float[np.ndarray, "P S"], resamples: int, seed: int
) -> Value:
    """Spearman's correlation of two sets of mean effects, with its interval over prompts: the
    percentiles of the resamples alone, since ranks jump where a prompt is left out."""
    both_P2S = np.concatenate((a_PS, b_PS), axis=1)
    sums_D2S = bootstrap.all_sums(both_P2S, resamples, seed)
    a_DS, b_DS = (
        rankdata(part, axis=1) - (a_PS.shape[1] + 1) / 2 for part in np.split(sums_D2S, 2, axis=1)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        norm_D = np.sqrt((a_DS**2).sum(1) * (b_DS**2).sum(1))
        r_D = (a_DS * b_DS).sum(1) / norm_D
    drawn_D = np.delete(r_D, slice(1, 1 + bootstrap.left_out(len(a_PS))))
    return bootstrap.interval(drawn_D)


def series_of(numbers: SiteNumbers, config: CircuitsConfig) -> dict[str, Any]:
    """The curves of a site, its top latents, and the sampled ones."""
    series: dict[str, Any] = {"nodes": list(config.nodes)}
    for key, (error, rest) in CURVES.items():
        curve = {who: curves.drawn(error, rest)[0] for who, curves in numbers.curves.items()}
        _, low, high = numbers.curves[SUITE].drawn(error, rest)
        series[key] = {**curve, "low": low, "high": high}
    if numbers.effects is not None:
        top_n = numbers.effects.ranked_n[:TOP]
        series["top"] = {
            "latent": top_n.tolist(),
            "effect": numbers.effects.total_M[top_n].tolist(),
            "active": len(numbers.effects.ranked_n),
            "error_effect": numbers.effects.error_total,
            "error_place": numbers.effects.error_place,
        }
    if numbers.attributed_PS is not None and numbers.patched_PS is not None:
        series["check"] = {
            "latent": numbers.sampled_n,
            "attributed": numbers.attributed_PS.mean(0).tolist(),
            "patched": numbers.patched_PS.mean(0).tolist(),
        }
    if numbers.graph is not None:
        series[GRAPH] = plain(numbers.graph)
    return series


def figures(task: str) -> tuple[Figure, ...]:
    """How the results of a task are drawn; ids are of the task, since a page may show several."""
    names = {SUITE: "the suite", **BESIDE}
    inks = {SUITE: 0, BASELINE: 2, RANDOM_LATENTS: 1, RANDOM_DIRECTIONS: 4, ZERO: GREY}
    id_ = f"{CIRCUITS}-{task}".lower().replace("_", "-")
    curves = [
        Figure(
            f"{id_}-{key.replace('_', '-')}",
            "line",
            tuple(
                Trace(words, x="nodes", y=f"{key}.{who}", ink=inks[who])
                for who, words in names.items()
            ),
            metric.title,
            x=Axis("nodes kept per site" if error else "latents kept per site", log=True),
            y=Axis("share of m(M) − m(∅)", least=(0, 1)),
            caption=metric.description,
            small=True,
        )
        for (key, metric), (error, _) in zip(AREAS.items(), CURVES.values(), strict=True)
    ]
    bars = [
        Figure(
            f"{id_}-bars-{key.replace('_', '-')}",
            "bar",
            tuple(Trace(words, of(who, key), ink=inks[who]) for who, words in names.items()),
            f"Area under the curve: {AREAS[key].title}",
        )
        for key in AREAS
    ]
    check = Figure(
        f"{id_}-check",
        "scatter",
        (Trace("latents", x="check.patched", y="check.attributed"),),
        "Effects by attribution and by patching each latent alone",
        x=Axis("patched alone, logits"),
        y=Axis("attributed, logits"),
    )
    return (*bars, *curves, check)
