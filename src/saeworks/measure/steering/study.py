"""Steering: latents pushed up and down, against the difference of means and random controls.

Shapes: D model width, P prompts, R documents.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from saeworks.errors import UserError
from saeworks.measure import bootstrap
from saeworks.measure.asked import Work
from saeworks.measure.engine import Measured, Study, Subject
from saeworks.measure.held_out import HeldOut
from saeworks.measure.interventions import Edit, check
from saeworks.measure.progress import Tick, Tracker
from saeworks.measure.steering.config import SteeringConfig
from saeworks.measure.steering.curves import PushCurve, Way, at_cost, point, points
from saeworks.measure.steering.findings import findings
from saeworks.measure.steering.fit import ConceptSums
from saeworks.measure.steering.metrics import ADVANTAGE, METRICS, SPANS
from saeworks.measure.steering.pushes import Cost, Writer, differences
from saeworks.measure.steering.session import Bench, Steered, Trial
from saeworks.measure.steering.targets import Target, beginnings, check_counts, targets
from saeworks.measure.tasks.choose import task
from saeworks.results.figure import Axis, Figure, Trace
from saeworks.results.metric import Value
from saeworks.results.records import plain
from saeworks.results.result import Result
from saeworks.results.series import STEERED, SteeredBy, SteeredConcept, SteeredText

_TEXTS = 4
"""Prompts of each concept whose texts are kept."""
_CHOOSING = 32
"""Prompts on which the best of the candidates is taken."""


@final
class SteeringStudy(Study):
    """Concepts pushed up and down at each site, by latents and by what they are compared with."""

    name = "steer"
    title = "Steering: what pushing latents does"
    metrics: ClassVar = METRICS
    headline = (*SPANS.values(), ADVANTAGE)
    figures = (
        Figure(
            "steer-spans",
            "bar",
            (
                Trace("latents", SPANS["latents"], ink=0),
                Trace("mean difference", SPANS["mean difference"], ink=1),
                Trace("random latents", SPANS["random latents"], ink=6, shade=0.4),
                Trace("random directions", SPANS["random directions"], ink=6, shade=0.8),
            ),
            title="How far a push moves the rate of a concept",
            x=Axis("site"),
            y=Axis("rate, up − down", zero=True),
            caption="All at the same cost in the loss of held-out text; mean over concepts. A "
            "difference of means needs no SAE: it is what latents must beat.",
        ),
    )

    def __init__(self, subject: Subject, config: SteeringConfig, work: Work) -> None:
        self.subject, self.config, self.lm = subject, config, subject.lm
        held_out = subject.held_out(config.tokens)
        self.fit_half, self.test_half = held_out.halves()
        self.sites = _sites(subject, config)
        self.targets = targets(config, work, self.lm, held_out)
        for target in self.targets:
            check_counts(target, self.fit_half)
        self.fitted = ConceptSums(
            subject.banks, self.sites, self.targets, self.fit_half, config.latents, self._steer
        )
        self.readings = (self.fitted,)
        self.cost = Cost(self.lm, self.test_half.first(config.cost_tokens))
        self.writers = {
            target.name: (
                self._writer(target, self.fit_half, _CHOOSING),
                self._writer(target, self.test_half, config.prompts),
            )
            for target in self.targets
        }
        self.task = None
        if config.task is not None:
            self.task = task(config.task, self.lm, config.prompts, config.seed)
        self.steered: dict[tuple[str, str], list[Steered]] = {}

    def _writer(self, target: Target, half: HeldOut, count: int) -> Writer:
        config = self.config
        prompts_PT = beginnings(half, target, self.lm.bos_id, count, config.prompt_tokens)
        if prompts_PT.shape[1] + config.new_tokens > self.lm.max_context:
            raise UserError(
                f"prompt_tokens = {config.prompt_tokens} and new_tokens = {config.new_tokens} are "
                f"more than the {self.lm.max_context} tokens of {self.lm.name}; lower one of them"
            )
        return Writer(self.lm, prompts_PT, config.new_tokens, config.temperature, config.seed)

    def _steer(self, progress: Tracker) -> None:
        """Push, at each site and for each concept; what needs no SAE is measured once for all."""
        clean_P = None if self.task is None else differences(self.lm, self.task, lambda _: {})
        bench = Bench(self.lm, self.config, self.fitted, self.cost, self.task, clean_P)
        with progress("steering", self._work(), "tokens") as tick:
            for site in self.sites:
                for target in self.targets:
                    self._concept(bench, site, target, tick)

    def _concept(self, bench: Bench, site: str, target: Target, tick: Tick) -> None:
        shared, seed = None, zlib.crc32(f"{site}/{target.name}/{self.config.seed}".encode())
        for name, bank in self.subject.banks.items():
            if site in bank:
                trial = Trial(
                    bench,
                    bank,
                    site,
                    target,
                    self.fitted.classes[name, site, target.name],
                    self.fitted.live[name, site],
                    *self.writers[target.name],
                    tick,
                )
                shared = shared or trial.shared(seed)
                self.steered.setdefault((name, site), []).append(trial.steered(shared, seed))

    def _work(self) -> int:
        """Tokens that go through the language model."""
        config, ways = self.config, 2 * len(self.config.strengths)
        banks = sum(site in bank for bank in self.subject.banks.values() for site in self.sites)
        kinds = (len(self.sites) + banks) * (1 + config.controls)
        chosen = not config.latents and config.candidates > 1 == config.together
        tried = 2 * banks * config.candidates if chosen else 0
        cost = self.cost.held_out.tokens_NT.numel()
        return sum(
            (kinds * ways + banks) * (testing.tokens + cost) + tried * choosing.tokens
            for choosing, testing in self.writers.values()
        )

    def results(self) -> dict[str, Measured]:
        return {
            name: Measured(
                self._result({s: self.steered[name, s] for s in self.sites if s in bank})
            )
            for name, bank in self.subject.banks.items()
        }

    def _result(self, by_site: Mapping[str, list[Steered]]) -> Result:
        config = self.config
        sites = {site: self._values(steered) for site, steered in by_site.items()}
        concepts = {
            site: [self._record(each) for each in steered] for site, steered in by_site.items()
        }
        prompts = min(len(testing.prompts_PT) for _, testing in self.writers.values())
        return Result(
            evaluation=self.name,
            title=self.title,
            config=asdict(config)
            | {
                "words": None if config.words is None else config.words.name,
                "targets": [target.name for target in self.targets],
                "task": None if self.task is None else self.task.name,
                "held_out": self.fitted.held_out.digest,
                "intervals": bootstrap.describe(prompts, config.bootstrap, config.seed).replace(
                    "documents", "prompts"
                ),
            },
            tokens=self.cost.held_out.kept,
            documents=self.cost.held_out.documents,
            metrics=dict(METRICS),
            sites=sites,
            series={site: {STEERED: plain(records)} for site, records in concepts.items()},
            figures=self.figures,
            findings=findings(concepts, sites, config),
        )

    def _values(self, steered: Sequence[Steered]) -> dict[str, Value]:
        """The means over concepts, with intervals over prompts (those of one number are drawn
        together)."""
        config, columns = self.config, {}
        most = max(len(each.ablated.hits_P) for each in steered)
        spans: dict[SteeredBy, list[bootstrap.Statistic]] = {}
        for number, each in enumerate(steered):
            for by, curve in each.curves.items():
                prefix = f"{number} {by} "
                for name, column_P in curve.columns(prefix).items():
                    columns[name] = np.pad(column_P, (0, most - len(column_P)))
                spans.setdefault(by, []).append(curve.span(config.cost, prefix))
        statistics = {SPANS[by]: _mean(of_kind) for by, of_kind in spans.items()}
        statistics[ADVANTAGE] = _mean(
            [
                _less(latents, baseline)
                for latents, baseline in zip(
                    spans["latents"], spans["mean difference"], strict=True
                )
            ]
        )
        return bootstrap.estimate(columns, statistics, config.bootstrap, config.seed)

    def _record(self, steered: Steered) -> SteeredConcept:
        config, curves = self.config, steered.curves
        draws = (config.bootstrap, config.seed)
        both = curves["latents"].columns("l ") | curves["mean difference"].columns("m ")
        advantage = _less(
            curves["latents"].span(config.cost, "l "),
            curves["mean difference"].span(config.cost, "m "),
        )
        return SteeredConcept(
            steered.target.name,
            steered.judge.about,
            steered.latents,
            steered.correlations,
            len(steered.ablated.hits_P),
            steered.norm,
            config.cost,
            bootstrap.estimate(both, {ADVANTAGE: advantage}, *draws)[ADVANTAGE],
            [at_cost(curve, config.cost, *draws) for curve in curves.values()],
            [points(curve, *draws) for curve in curves.values()],
            point(0.0, steered.ablated, curves["latents"].count_R, *draws),
            self._texts(steered),
        )

    def _texts(self, steered: Steered) -> list[SteeredText]:
        """What the model wrote after some prompts: untouched, and pushed both ways at about the
        cost."""
        shown: list[tuple[SteeredBy | None, float]] = [(None, 0.0)]
        for by in ("latents", "mean difference"):
            shown += [(by, _nearest(steered.curves[by], way, self.config.cost)) for way in _WAYS]
        return [
            SteeredText(
                self._text(tokens_X[: steered.prompt_tokens]),
                by,
                strength,
                self._text(tokens_X[steered.prompt_tokens :]),
            )
            for number in range(min(_TEXTS, len(steered.ablated.hits_P)))
            for by, strength in shown
            for tokens_X in [steered.tokens[by, strength][number].tolist()]
        ]

    def _text(self, ids: Sequence[int]) -> str:
        ends = {self.lm.bos_id, getattr(self.lm.tokenizer, "eos_token_id", None)}
        kept = [token for token in ids if token not in ends]
        return str(self.lm.tokenizer.decode(kept, clean_up_tokenization_spaces=False))


_WAYS: tuple[Way, ...] = ("up", "down")


def _nearest(curve: PushCurve, way: Way, cost: float) -> float:
    """The strength whose cost is nearest to the one asked for."""
    costs = curve.costs
    return curve.strengths[min(curve.way(way)[1:], key=lambda at: abs(costs[at] - cost))]


def _less(first: bootstrap.Statistic, second: bootstrap.Statistic) -> bootstrap.Statistic:
    return lambda s: first(s) - second(s)


def _mean(statistics: Sequence[bootstrap.Statistic]) -> bootstrap.Statistic:
    def mean(s: bootstrap.Sums) -> NDArray[np.float64]:
        total: NDArray[np.float64] = np.mean([statistic(s) for statistic in statistics], axis=0)
        return total

    return mean


def _sites(subject: Subject, config: SteeringConfig) -> list[str]:
    """Where to steer: what is asked for, else the middle one.

    Raises:
        UserError: if a suite has no such site, or not the latents given.
    """
    of_all = [
        site for site in subject.sites if all(site in bank for bank in subject.banks.values())
    ]
    if config.sites:
        sites = subject.lm.sites(config.sites)
    elif of_all:
        sites = [of_all[len(of_all) // 2]]
    else:
        raise UserError("the suites have no site in common; steer them one by one")
    for name, bank in subject.banks.items():
        for site in sites:
            if site not in bank:
                raise UserError(f"{name} has no SAE at site {site!r}, only at {', '.join(bank)}")
            if config.latents:
                check(bank, [Edit(site, latent) for latent in config.latents])
    if config.latents and (len(subject.banks) > 1 or len(sites) > 1):
        raise UserError(
            f"latents = {' '.join(map(str, config.latents))}: numbers of latents mean something in "
            "one SAE only; give one suite and one site"
        )
    return sites
