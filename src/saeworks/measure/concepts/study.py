"""Do latents match concepts that are known to be there? (`saeworks concepts`)"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, final

from saeworks.config import ModelConfig, TextConfig
from saeworks.lm.model import LanguageModel
from saeworks.measure import bootstrap
from saeworks.measure.asked import Work
from saeworks.measure.concepts.absorbing import COSINE, MARGIN
from saeworks.measure.concepts.config import ConceptsConfig
from saeworks.measure.concepts.findings import findings
from saeworks.measure.concepts.labels import AUTO, LabelledTokens, check_source, labelled, source_of
from saeworks.measure.concepts.measuring import asked
from saeworks.measure.concepts.reading import readings
from saeworks.measure.concepts.values import (
    ABSORPTION,
    BEST_F1,
    CODING_EXPERTS,
    COVERAGE,
    DENSE_F1,
    EXPERT_METRICS,
    GROUP_METRICS,
    METRICS,
    NEEDED,
    SAME_LATENT,
    probe_metrics,
    same_latents,
    scored,
)
from saeworks.measure.engine import Measured, Study, Subject
from saeworks.measure.studies.outliers import without
from saeworks.measure.suites import StudySet, loaded, measure_suites
from saeworks.results.figure import GREY, Axis, Figure, Trace
from saeworks.results.names import CONCEPTS
from saeworks.results.result import Result

_OTHERS = {
    "dense": ("probe on x", 1),
    "neuron": ("MLP neurons", 2),
    "direction": ("PCA directions", 3),
    "random": ("random directions", GREY),
}
_SHARE = Axis(zero=True, least=(0.0, 1.0))


def _beside(x: str, curve: str, names: Sequence[str]) -> tuple[Trace, ...]:
    """Latents and what they are compared with, of one curve."""
    return (
        Trace("latents", x=f"{curve}.{x}", y=f"{curve}.latents", ink=0),
        *(
            Trace(label, x=f"{curve}.{x}", y=f"{curve}.{name}", ink=ink)
            for name in names
            for label, ink in [_OTHERS[name]]
        ),
    )


FIGURES = (
    Figure(
        "concepts-curve",
        "line",
        _beside("threshold", "coverage_curve", tuple(_OTHERS)),
        "Concepts found",
        x=Axis("F1 at least"),
        y=replace(_SHARE, title="share of concepts"),
        caption="The share of known concepts that a single latent tells at an F1 above the one "
        "below, on documents on which nothing was chosen; beside it a neuron, a direction of PCA, "
        "a latent with a random direction, and a probe on the whole activation.",
        small=True,
    ),
    Figure(
        "concepts-k",
        "line",
        _beside("k", "k_curve", ("neuron", "direction", "random")),
        "F1 of sparse probes",
        x=Axis("k, latents of a probe", log=True),
        y=replace(_SHARE, title="mean F1"),
        caption="Mean F1 over concepts of logistic probes on few latents, chosen by the mean "
        "difference of their activations.",
        small=True,
    ),
    *(
        Figure(f"concepts-{key.replace('_', '-')}", "line", (Trace(metric=key),), lines="suites")
        for key in (COVERAGE, BEST_F1, ABSORPTION, NEEDED)
    ),
    Figure(
        "concepts-kinds",
        "scatter",
        (Trace(x="kinds.kind", y="kinds.f1"),),
        "F1 of the best latent by concept",
        lines="suites",
        y=replace(_SHARE, title="mean F1 over its values"),
        caption="Each concept's mean over its values.",
        wide=True,
    ),
)


@final
class Concepts(Study):
    """Known concepts against latents, neurons, directions and probes.

    Args:
        tokens: with their concepts.
        name: of the result.
        groups: bank → name of a group → the sites that share its SAE.

    Raises:
        UserError: if no concept has enough tokens.
    """

    name = CONCEPTS
    title = "Known concepts"
    metrics: ClassVar = METRICS
    headline = (
        CONCEPTS,
        COVERAGE,
        *(f"{name}_coverage" for name in ("neuron", "direction", "random")),
        BEST_F1,
        DENSE_F1,
        ABSORPTION,
        NEEDED,
    )
    figures = FIGURES
    sentences: ClassVar = {
        "coverage_curve": "A single latent finds {coverage%} of {concepts} concepts; the probe on "
        "the whole activation {dense_coverage%}.",
    }

    def __init__(
        self,
        subject: Subject,
        config: ConceptsConfig,
        tokens: LabelledTokens,
        name: str = CONCEPTS,
        groups: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType({}),
    ) -> None:
        held_out = tokens.held_out
        row_N = held_out.row_NT[held_out.keep_NT].numpy()
        self.config, self.tokens, self.evaluation = config, tokens, name
        self.banks, self.groups = subject.banks, groups
        self.asked = asked(
            tokens.truth, row_N, held_out.rows, config.least, config.seed, tokens.name
        )
        self.of_sites = readings(subject, held_out, self.asked, config)
        self.readings = tuple(self.of_sites)

    def results(self) -> dict[str, Measured]:
        return {name: Measured(self._result(name)) for name in self.banks}

    def _result(self, name: str) -> Result:
        truth, config = self.tokens.truth, self.config
        of_sites = {
            site: scored(of_sae, reading.at_sites[site], self.asked, truth, config)
            for reading in self.of_sites
            for (bank, site), of_sae in reading.of_saes.items()
            if bank == name
        }
        values = {site: of.values for site, of in of_sites.items()}
        for site, same in same_latents(of_sites, self.groups.get(name, {})).items():
            values[site][SAME_LATENT] = same
        metrics = METRICS | probe_metrics(config.k)
        if any(CODING_EXPERTS in of for of in values.values()):
            metrics |= EXPERT_METRICS
        metrics |= GROUP_METRICS
        judged = int(self.asked.measured_R.sum())
        left_out = ["=".join(truth.concepts[at]) for at in self.asked.left_out]
        result = self.result(
            config,
            self.tokens.held_out,
            values,
            {site: of.series for site, of in of_sites.items()},
            {key: m for key, m in metrics.items() if any(key in of for of in values.values())},
            {
                "intervals": bootstrap.describe(judged, config.bootstrap, config.seed),
                "k": list(config.k),
                "source": self.tokens.name,
                "left_out": left_out,
                "absorption_cosine": COSINE,
                "absorption_margin": MARGIN,
            },
            findings=findings(values, config.k, len(left_out)),
        )
        return replace(result, evaluation=self.evaluation)


def concepts(
    suite_paths: Sequence[Path],
    config: ConceptsConfig,
    say: Callable[[str], None] | None = None,
    *,
    model: ModelConfig | str | None = None,
    text: TextConfig | str | None = None,
) -> dict[Path, Result]:
    """Compare the latents of suites with known concepts and write `results/concepts.json` into
    each; with labels that are not those of the suites' text by itself, `concepts_<source>.json`.

    Args:
        say, model, text: as for `saeworks.measure.run.evaluate`.

    Raises:
        UserError: as `measure_suites`, if labels are unknown or do not fit the tokens, or no
            concept has enough tokens.
    """
    suites = loaded(suite_paths)
    check_source(config.labels)
    asked_for = StudySet(config.tokens, lambda subject, work: [_study(subject, work, config)])
    (results,) = measure_suites(suites, [asked_for], config.device, say, model=model, text=text)
    return {path: result for path, (result,) in results.items() if isinstance(result, Result)}


def _study(subject: Subject, work: Work, config: ConceptsConfig) -> Concepts:
    held_out, corpus = subject.held_out(config.tokens), subject.corpus
    assert corpus is not None
    tokens = labelled(
        config.labels, work.text, work.seed, subject.lm, held_out, corpus.packing, config.texts
    )
    if tokens.held_out is not held_out:
        tokens = _without_outliers(tokens, subject.lm, work.limits)
    is_default = source_of(config.labels, work.text) == source_of(AUTO, work.text)
    groups = {str(suite.path): suite.groups for suite in work.suites}
    name = CONCEPTS if is_default else f"{CONCEPTS}_{tokens.name}"
    return Concepts(subject, config, tokens, name, groups)


def _without_outliers(
    tokens: LabelledTokens, lm: LanguageModel, limits: Mapping[str, float]
) -> LabelledTokens:
    """Tokens of a source with texts of its is_default, as the suites' training would keep them."""
    kept = without(lm, tokens.held_out, limits)
    if kept is tokens.held_out:
        return tokens
    inside_N = kept.keep_NT[tokens.held_out.keep_NT].numpy()
    truth = tokens.truth
    set_N = None if truth.set_N is None else truth.set_N[inside_N]
    truth = replace(truth, stands=truth.stands[inside_N], set_N=set_N)
    return replace(tokens, held_out=kept, truth=truth)
