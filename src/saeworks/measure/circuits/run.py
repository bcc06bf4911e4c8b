"""`saeworks circuits`: the circuits of tasks in any number of suites, measured together."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from saeworks.config import ModelConfig
from saeworks.embedded import TASKS
from saeworks.errors import UserError
from saeworks.files.seals import RESULTS
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel
from saeworks.measure.asked import (
    Work,
    asked_model,
    measured_on,
    placed,
    ready_for_results,
    results_folder,
)
from saeworks.measure.banks import Bank, sites_of
from saeworks.measure.circuits.ablation import Means, RankedNodes
from saeworks.measure.circuits.attribution import (
    NodeEffects,
    changed_latents,
    effects,
    mean_gradient,
    patched_alone,
    points,
)
from saeworks.measure.circuits.config import ALL, CircuitsConfig
from saeworks.measure.circuits.curves import Curves
from saeworks.measure.circuits.edges import check_size, circuit_graph, graph_tokens
from saeworks.measure.circuits.faithful import (
    Differences,
    at_all_sites,
    at_one_site,
    circuits_of,
)
from saeworks.measure.circuits.labels import concept_labels
from saeworks.measure.circuits.metrics import (
    BASELINE,
    CONTROLS,
    RANDOM_DIRECTIONS,
    RANDOM_LATENTS,
    SUITE,
    ZERO,
)
from saeworks.measure.circuits.passes import Passes
from saeworks.measure.circuits.prompts import Activations, CodedSite, Prompts, activations
from saeworks.measure.circuits.study import TOP, Circuits, SiteNumbers
from saeworks.measure.controls import active_per_token, random_directions, shuffled, zero_sae
from saeworks.measure.engine import Measured
from saeworks.measure.progress import Tick, Tracker, silent, tracker
from saeworks.measure.suites import loaded, written
from saeworks.measure.tasks.cases import Task
from saeworks.measure.tasks.choose import task as task_named
from saeworks.measure.tasks.skill import Skill, skill_of
from saeworks.results.names import ALL_SITES
from saeworks.results.result import Result
from saeworks.suite import Suite


def circuits(
    suite_paths: Sequence[Path],
    config: CircuitsConfig,
    say: Callable[[str], None] | None = None,
    *,
    model: ModelConfig | str | None = None,
    baseline: Path | None = None,
) -> dict[Path, list[Result]]:
    """Measure the circuits of tasks in suites, and write `results/circuits_<task>.json` into each.

    Suites of the same model are measured together, on the same prompts, with one set of gradients.

    Args:
        say: where lines about progress go; None for silence.
        model: another language model than the suites' own; see `saeworks.measure.run.evaluate`.
        baseline: a suite that is measured with them, and from which each is to differ.

    Raises:
        UserError: if a suite is missing or corrupt, its language model is not the one it was
            trained on, the baseline is of another model, a task does not fit the model's tokens, or
            the model cannot do it.
    """
    suites = loaded([*suite_paths, *([] if baseline is None else [baseline])])
    ready_for_results(suites, results_folder(model, None))
    results: dict[Path, list[Result]] = {suite.path: [] for suite in suites}
    works = _by_model(suites, model)
    if baseline is not None and len(works) > 1:
        raise UserError(
            f"--baseline {baseline}: the suites are of {len(works)} language models, and only "
            "those of one can be compared on the same prompts; measure each model's on its own"
        )
    for work in works:
        lm = work.language_model(choose_device(config.device), own=model is None)
        banks = work.banks(lm, fingerprinted=model is None)
        posed = [Posed.of(name, lm, config) for name in _names(config.task)]
        if say is not None:
            say(_announcement(work, lm, posed))
        labels = {
            str(suite.path): concept_labels(suite.path / RESULTS)
            for suite in (work.suites if config.graph else ())
        }
        for each in posed:
            beside = None if baseline is None else str(baseline)
            measured = measure_circuits(lm, banks, each, config, tracker(say), labels, beside)
            for suite in work.suites:
                outcome = measured[str(suite.path)]
                about = measured_on(suite, lm, work.model, suite.run.text)
                assert isinstance(outcome.result, Result)
                result = replace(outcome.result, config=outcome.result.config | about)
                folder = suite.path / placed(result.config, model, None)
                written(replace(outcome, result=result), folder)
                results[suite.path].append(result)
    return results


@dataclass(frozen=True)
class Posed:
    """A task, as one model does it.

    Attributes:
        clean_P: m of the untouched model.
    """

    task: Task
    prompts: Prompts
    clean_P: Tensor
    skill: Skill

    @classmethod
    @torch.no_grad()
    def of(cls, name: str, lm: LanguageModel, config: CircuitsConfig) -> "Posed":
        """A task by its name or file.

        Raises:
            UserError: as `saeworks.measure.tasks.choose.task`, or if the model cannot do it.
        """
        task = task_named(name, lm, config.prompts, config.seed)
        prompts = Prompts.of(task, lm)
        parts = [prompts.at(block).difference(lm, {}) for block in prompts.blocks()]
        clean_P = torch.cat(parts).double()
        skill = skill_of(clean_P.cpu().numpy(), config.seed)
        _check_skill(task.name, lm, skill)
        return cls(task, prompts, clean_P, skill)


def _check_skill(name: str, lm: LanguageModel, skill: Skill) -> None:
    mean, right = skill.mean, skill.right.value
    assert mean.value is not None and right is not None
    if (mean.value if mean.low is None else mean.low) > 0:
        return
    ends = "" if mean.low is None else f" [{mean.low:.2g}, {mean.high:.2g}]"
    raise UserError(
        f"task {name}: {lm.name} cannot do it: logit(right answer) − logit(the other) is "
        f"{mean.value:.2g}{ends} over {skill.prompts} prompts, right on {right:.0%}, so there is "
        "no difference to explain, and faithfulness would divide by next to nothing; choose a task "
        "that the model can do, or another model"
    )


@torch.no_grad()
def measure_circuits(
    lm: LanguageModel,
    banks: Mapping[str, Bank],
    posed: Posed,
    config: CircuitsConfig,
    progress: Tracker = silent,
    labels: Mapping[str, Mapping[tuple[str, int], str]] = MappingProxyType({}),
    baseline: str | None = None,
) -> Mapping[str, Measured]:
    """The circuits of one task in banks: name → result.

    Args:
        labels: bank → (site, latent) → what the latent is called in the graph.
        baseline: the bank beside which the others stand.

    Raises:
        UserError: if an activation is NaN or infinite, at no site of a bank anything depends on the
            site, or its graph would be too large.
    """
    measuring = _Measuring(lm, banks, posed, config, labels)
    with progress(f"circuits of {posed.task.name}", measuring.total) as tick:
        numbers = measuring.run(tick)
    if baseline is not None:
        _put_beside(numbers, baseline)
    return Circuits(posed.task, posed.skill, config, numbers).results()


class _Measuring:
    """All passes of one task over some banks: gradients once for each site, then every bank's
    circuits and those of its controls."""

    def __init__(
        self,
        lm: LanguageModel,
        banks: Mapping[str, Bank],
        posed: Posed,
        config: CircuitsConfig,
        labels: Mapping[str, Mapping[tuple[str, int], str]],
    ) -> None:
        self._labels = labels
        for bank in banks.values() if config.graph else ():
            check_size(config.graph, len(bank))
        self.lm, self.banks, self.config, self.task = lm, banks, config, posed.task
        self.prompts, self.clean_P = posed.prompts, posed.clean_P
        self.sites = sites_of(banks, lm)
        self.circuits = circuits_of(config.nodes)
        self.numbers: dict[str, dict[str, SiteNumbers]] = {name: {} for name in banks}
        self._ranked: dict[str, dict[str, dict[str, RankedNodes]]] = {
            name: {who: {} for who in (SUITE, *CONTROLS)} for name in banks
        }

    @property
    def total(self) -> int:
        """Tokens of all passes at most: controls that suites share are made once."""
        config = self.config
        saes = sum(len(bank) for bank in self.banks.values())
        together = sum(len(bank) > 1 for bank in self.banks.values())
        gradients = len(points(config.attribution, config.steps)) * len(self.sites)
        curves = len(self.circuits) * (3 * saes + len(self.sites) + 4 * together)
        prompts, length = self.prompts.shape
        graphs = sum(graph_tokens(self.task, config.graph * len(b)) for b in self.banks.values())
        return prompts * length * (2 + gradients + curves + config.exact * saes) + graphs

    def run(self, tick: Tick) -> dict[str, dict[str, SiteNumbers]]:
        """Bank → site (or all of them) → what was measured."""
        x = activations(self.lm, self.prompts, self.sites, tick)
        for site in self.sites:
            self._measure_site(site, x.pop(site), tick)
        for name, numbers in self.numbers.items():
            _check_difference(name, numbers, self.lm)
        self._measure_together(tick)
        if self.config.graph:
            self._measure_graphs(tick)
        return self.numbers

    def _measure_site(self, site: str, x: Activations, tick: Tick) -> None:
        config = self.config
        passes = Passes(self.lm, self.prompts, site, self.clean_P)
        at = points(config.attribution, config.steps)
        gradient_PTD = mean_gradient(passes, x, at, tick)
        read_ND = x.read(self.prompts)
        mean_D = read_ND.mean(0)
        known: dict[tuple[int, int], tuple[RankedNodes, Curves]] = {}

        def control(width: int, k: int) -> tuple[RankedNodes, Curves]:
            """Of an SAE with random directions; of the zero SAE where k is 0."""
            if (width, k) not in known:
                sae = random_directions(mean_D, width, k, config.seed) if k else zero_sae(mean_D)
                coded = CodedSite.of(sae, x)
                _, ranked = self._ranked_by_effect(coded, gradient_PTD)
                known[width, k] = ranked, self._curves(passes, coded, ranked, tick)
            return known[width, k]

        for name, bank in self.banks.items():
            if site not in bank:
                continue
            coded = CodedSite.of(bank[site], x)
            nodes, ranked = self._ranked_by_effect(coded, gradient_PTD)
            mixed = ranked.reordered(shuffled(nodes.ranked_n, config.seed))
            measured = {
                SUITE: (ranked, self._curves(passes, coded, ranked, tick)),
                RANDOM_LATENTS: (mixed, self._curves(passes, coded, mixed, tick)),
                RANDOM_DIRECTIONS: control(bank[site].width, active_per_token(bank[site], read_ND)),
                ZERO: control(1, 0),
            }
            for who, (order, _) in measured.items():
                self._ranked[name][who][site] = order
            numbers = SiteNumbers({who: curves for who, (_, curves) in measured.items()}, nodes)
            self._check_effects(numbers, passes, coded, nodes, tick)
            self.numbers[name][site] = numbers

    def _ranked_by_effect(
        self, coded: CodedSite, gradient_PTD: Tensor
    ) -> tuple[NodeEffects, RankedNodes]:
        nodes = effects(coded, self.prompts, gradient_PTD)
        return nodes, RankedNodes(Means(coded, self.prompts), nodes.ranked_n, nodes.error_place)

    def _check_effects(
        self, numbers: SiteNumbers, passes: Passes, coded: CodedSite, nodes: NodeEffects, tick: Tick
    ) -> None:
        """Patch a sample of the latents that differ between the prompts alone, too."""
        differing_n = changed_latents(coded, self.prompts)
        sample_S = shuffled(differing_n, self.config.seed + 1)[: self.config.exact]
        if len(sample_S) > 1:
            numbers.sampled_n = sample_S.tolist()
            numbers.attributed_PS = nodes.by_prompt(sample_S).cpu().numpy()
            numbers.patched_PS = patched_alone(passes, coded, sample_S, tick).cpu().numpy()

    def _measure_together(self, tick: Tick) -> None:
        """All sites of a bank at once; SAEs that several banks share are measured once."""
        known: dict[tuple[int, ...], Curves] = {}
        for name, by_who in self._ranked.items():
            if len(self.banks[name]) < 2:
                continue
            together = SiteNumbers()
            for who, ranked in by_who.items():
                key = tuple(map(id, ranked.values()))
                if key not in known:
                    m = at_all_sites(self.lm, self.prompts, ranked, self.circuits, tick)
                    known[key] = self._drawn(m)
                together.curves[who] = known[key]
            self.numbers[name][ALL_SITES] = together

    def _measure_graphs(self, tick: Tick) -> None:
        """How the latents that a result names act on one another, at all sites of a bank."""
        for name, bank in self.banks.items():
            numbers = self.numbers[name]
            candidates = {
                site: of_site.effects.ranked_n[:TOP]
                for site, of_site in numbers.items()
                if of_site.effects is not None
            }
            numbers[ALL_SITES if ALL_SITES in numbers else next(iter(bank))].graph = circuit_graph(
                self.lm,
                bank,
                self.task,
                self.config.graph,
                candidates,
                labels=self._labels.get(name),
                tick=tick,
            )

    def _curves(self, passes: Passes, coded: CodedSite, ranked: RankedNodes, tick: Tick) -> Curves:
        return self._drawn(at_one_site(passes, coded, ranked, self.circuits, tick))

    def _drawn(self, m: Differences) -> Curves:
        config = self.config
        return Curves(m, self.clean_P, config.nodes, config.bootstrap, config.seed)


def _put_beside(numbers: Mapping[str, Mapping[str, SiteNumbers]], baseline: str) -> None:
    """The baseline's curves beside those of every other bank."""
    for name, sites in numbers.items():
        for site, of_site in sites.items():
            if name != baseline and site in numbers[baseline]:
                of_site.curves[BASELINE] = numbers[baseline][site].curves[SUITE]


def _check_difference(name: str, numbers: Mapping[str, SiteNumbers], lm: LanguageModel) -> None:
    """Refuse a bank at none of whose sites there is something to explain."""
    differences = {site: of_site.curves[SUITE].difference for site, of_site in numbers.items()}
    if all(of_site.curves[SUITE].near_zero for of_site in numbers.values()):
        site, difference = next(iter(differences.items()))
        raise UserError(
            f"{name}: with {site} at its mean, m is {difference.value:.2g} lower than in the "
            f"untouched {lm.name}, next to nothing to divide by (so at all its sites): the task "
            "does not run through them; choose another task or other sites"
        )


def _names(asked: Sequence[str]) -> list[str]:
    """The tasks asked for, each once."""
    return list(
        dict.fromkeys(name for each in asked for name in (TASKS if each == ALL else (each,)))
    )


def _by_model(suites: Sequence[Suite], model: ModelConfig | str | None) -> list[Work]:
    """Suites put together by language model, whatever text they were trained on."""
    by_key: dict[str, Work] = {}
    for suite in suites:
        run = suite.run
        work = Work(asked_model(model, run.model), run.text, run.seed, {}, (suite,))
        key = json.dumps(asdict(work.model))
        known = by_key.get(key)
        by_key[key] = work if known is None else replace(known, suites=(*known.suites, suite))
    return list(by_key.values())


def _announcement(work: Work, lm: LanguageModel, posed: Sequence[Posed]) -> str:
    tasks = ", ".join(f"{each.task.name} ({each.task.prompts} pairs)" for each in posed)
    return f"{len(work.suites)} suite(s) of {lm.name} on {tasks}"
