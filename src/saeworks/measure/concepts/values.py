"""The numbers of known concepts at a site, with intervals, and the records behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from saeworks.measure import bootstrap
from saeworks.measure.concepts import absorbing, by_expert
from saeworks.measure.concepts.config import ConceptsConfig
from saeworks.measure.concepts.measuring import SPLIT, Asked, DrawnScores, MeasuredConcept, drawn
from saeworks.measure.concepts.reading import AtSite, OfSae
from saeworks.measure.known import Truth
from saeworks.results.metric import Metric, Value
from saeworks.results.names import CONCEPTS, EXPERTS
from saeworks.results.records import plain
from saeworks.results.series import (
    KNOWN_CONCEPTS,
    OF_LATENTS,
    Absorber,
    ConceptCarried,
    ConceptExpert,
    ConceptProbe,
    KnownConcept,
    LatentConcept,
)

FOUND, ABOVE_CHANCE = 0.7, 0.1
"""A concept is found where F1 is at least this, and at least so much above chance."""
DETECTS = 0.5
"""F1 from which a latent is said to detect a concept, in the browser of latents."""
THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(2, 21))

COVERAGE, BEST_F1, DENSE_F1 = "coverage", "concept_f1", "dense_f1"
MISSED, ABSORPTION, DECISIVE = "missed", "absorption", "decisive"
NEEDED, SPLIT_SHARE = "needed", "split_share"
CODING_EXPERTS, ONE_EXPERT = "coding_experts", "one_expert"
EXPERT_COSINE, SAME_LATENT = "expert_cosine", "same_latent"
"""Keys of metrics."""

_FOUND = f"F1 at least {FOUND}, and at least {ABOVE_CHANCE} above that of saying so of every token"
METRICS = {
    CONCEPTS: Metric(
        "Concepts", "Known concepts with enough tokens in each half of the documents.", CONCEPTS
    ),
    BEST_F1: Metric(
        "F1, best latent",
        "Mean over concepts of the F1 of the best single latent, active above a threshold. Latent "
        "and threshold are chosen on half of the documents, F1 is measured on the other.",
        better="higher",
    ),
    "concept_auroc": Metric(
        "AUROC, best latent", "Mean over concepts of the AUROC of its activation.", better="higher"
    ),
    "concept_precision": Metric(
        "AP, best latent", "Mean over concepts of its average precision.", better="higher"
    ),
    COVERAGE: Metric(
        "Concepts found", f"Share of concepts that a single latent finds: {_FOUND}.",
        better="higher",
    ),
    DENSE_F1: Metric(
        "F1, dense probe",
        "Mean over concepts of the F1 of a logistic probe on the whole activation x: what is there "
        "to be found.",
    ),
    "dense_coverage": Metric("Found by dense probe", f"Share of concepts that it finds: {_FOUND}."),
    "neuron_f1": Metric(
        "F1, best neuron", "The same as F1 of the best latent, of the MLP neurons of the layer."
    ),
    "neuron_coverage": Metric("Found by neurons", "Share of concepts that a single neuron finds."),
    "direction_f1": Metric(
        "F1, best PCA direction", "The same of PCA directions of x, each way, as many as latents."
    ),
    "direction_coverage": Metric(
        "Found by PCA directions", "Share of concepts that a single direction finds."
    ),
    "random_f1": Metric(
        "F1, random directions",
        "The same of an SAE with random directions, as wide and as sparse as this one.",
    ),
    "random_coverage": Metric(
        "Found by random directions", "Share of concepts that one of its latents finds."
    ),
    MISSED: Metric(
        "Missed",
        "Of the concepts that the dense probe finds, mean share of the tokens on which it is "
        "right and none of the concept's main latents fires.",
        better="lower",
    ),
    ABSORPTION: Metric(
        "Absorption",
        "Of the same, mean share of the tokens on which, besides, one other latent carries the "
        f"concept: its decoder row has a cosine of at least {absorbing.COSINE} with the probe, and "
        f"ablating it lowers the probe's logit by at least {absorbing.MARGIN:g} more than ablating "
        "any other (Chanin et al. 2024).",
        better="lower",
    ),
    DECISIVE: Metric(
        "Absorption, decisive",
        "Of the same, mean share of the tokens on which, besides, the probe no longer says so "
        "without that one latent.",
        better="lower",
    ),
    "splits": Metric(
        "Main latents",
        "Mean number of latents that code a concept together: the best one, and others while F1 of "
        f"a sparse probe rises by more than {SPLIT} with each, on the half that it is fitted on.",
        "latents",
        better="one",
    ),
    NEEDED: Metric(
        "Latents to ablate",
        "Mean over the concepts that the dense probe finds of how many latents must be ablated "
        "before it finds half as many tokens; where "
        f"{absorbing.MOST} are not enough, {absorbing.MOST + 1}.",
        "latents",
    ),
    SPLIT_SHARE: Metric(
        "Split", "Share of these concepts for which one latent is not enough.", better="lower"
    ),
}  # fmt: skip
EXPERT_METRICS = {
    CODING_EXPERTS: Metric(
        "Experts per concept",
        "Mean number of experts that code a concept, of those coded in one or more: F1 of a "
        f"latent's firing on the expert's tokens is at least {by_expert.FOUND}, and at least "
        f"{by_expert.ABOVE} above chance there. No interval.",
        EXPERTS,
    ),
    ONE_EXPERT: Metric(
        "In one expert",
        "Of the concepts that are coded and that two experts or more could code, the share coded "
        "in one alone. No interval.",
    ),
    EXPERT_COSINE: Metric(
        "Cosine between experts",
        "Mean cosine of the decoder rows of the latents that code a concept in different experts; "
        "1 where it is coded alike. No interval.",
    ),
}


GROUP_METRICS = {
    SAME_LATENT: Metric(
        "Same latent in group",
        "Of the concepts that a latent finds at this site and at another that shares its SAE, the "
        "share for which it is the same latent at another, too. No interval.",
        better="higher",
    )
}


def probe_metrics(ks: Sequence[int]) -> dict[str, Metric]:
    """Of the sparse probes."""
    return {
        key: metric
        for k in ks
        for key, metric in {
            f"probe_{k}_f1": Metric(
                f"F1, {k}-sparse probe",
                f"Mean over concepts of the F1 of a logistic probe on {k} latents, those of "
                "largest mean difference.",
                better="higher",
            ),
            f"probe_{k}_auroc": Metric(
                f"AUROC, {k}-sparse probe", "Mean over concepts of its AUROC.", better="higher"
            ),
        }.items()
    }


@dataclass(frozen=True)
class ConceptNumbers:
    """A bank's numbers at a site.

    Attributes:
        finds: place of each concept that is found → the latent that finds it.
    """

    values: dict[str, Value]
    series: dict[str, Any]
    finds: dict[int, int]


def scored(
    of_sae: OfSae, at_site: AtSite, asked: Asked, truth: Truth, config: ConceptsConfig
) -> ConceptNumbers:
    """All numbers of one SAE."""

    def draw(judged: Sequence[Any]) -> DrawnScores:
        return drawn(judged, asked, config.bootstrap, config.seed)

    best = draw([of.best for of in of_sae.measured])
    others = {
        name: draw([of.best for of in measured])
        for name, measured in {
            "neuron": at_site.neurons,
            "direction": at_site.directions,
            "random": at_site.random.get(of_sae.control),
        }.items()
        if measured is not None
    } | {"dense": draw(at_site.dense.judged)}
    probes = {
        k: draw([of.probes[min(k, max(of.probes))][1] for of in of_sae.measured]) for k in config.k
    }
    values = {
        CONCEPTS: Value(float(len(asked.concepts))),
        BEST_F1: _mean(best.f1_DC, best),
        "concept_auroc": _mean(best.auroc_DC, best),
        "concept_precision": _mean(best.precision_DC, best),
        COVERAGE: _percentiles(detected(best), best),
    }
    for k, probe in probes.items():
        values[f"probe_{k}_f1"] = _mean(probe.f1_DC, probe)
        values[f"probe_{k}_auroc"] = _mean(probe.auroc_DC, probe)
    for name, of in others.items():
        values[f"{name}_f1"] = _mean(of.f1_DC, of)
        values[f"{name}_coverage"] = _percentiles(detected(of), of)
    values |= _carried_values(of_sae, others["dense"], asked, config)
    series = {
        "coverage_curve": {
            "threshold": list(THRESHOLDS),
            "latents": _curve(best),
            **{name: _curve(of) for name, of in others.items()},
        },
        "k_curve": _k_curve(config.k, probes, at_site, of_sae, asked),
        "kinds": _by_kind(best, asked, truth),
        KNOWN_CONCEPTS: plain(_records(of_sae, best, others, asked, truth)),
        OF_LATENTS: plain(_of_latents(of_sae, best, asked, truth)),
    }
    if of_sae.experts is not None:
        values |= _expert_values(of_sae)
    places = zip(asked.concepts, of_sae.measured, detected(best)[0], strict=True)
    finds = {place: of.unit for place, of, is_detected in places if is_detected}
    return ConceptNumbers(values, series, finds)


def detected(of: DrawnScores, threshold: float = FOUND) -> Float[np.ndarray, "D C"]:
    """1 where a concept is found at a threshold, else 0."""
    return (of.f1_DC >= np.maximum(threshold, of.chance_DC + ABOVE_CHANCE)).astype(float)


def _mean(values_DC: np.ndarray, of: DrawnScores) -> Value:
    return bootstrap.interval(_nanmean(values_DC), of.documents)


def _percentiles(values_DC: np.ndarray, of: DrawnScores) -> Value:
    """The mean of what jumps (found or not, a number of latents) with the percentiles of the
    resamples: leaving one document out says nothing of how it varies."""
    values_D = _nanmean(values_DC)
    after = 1 + bootstrap.left_out(of.documents) * (len(values_D) > 1)
    return bootstrap.interval(np.append(values_D[:1], values_D[after:]))


def _nanmean(values_DC: np.ndarray) -> Float[np.ndarray, " D"]:
    """Mean over the concepts that have a value."""
    known = np.isfinite(values_DC)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values_DC, 0).sum(1) / known.sum(1))


def _curve(of: DrawnScores) -> list[float]:
    return [round(float(detected(of, t)[0].mean()), 4) for t in THRESHOLDS]


def _k_curve(
    ks: Sequence[int],
    probes: Mapping[int, DrawnScores],
    at_site: AtSite,
    of_sae: OfSae,
    asked: Asked,
) -> dict[str, list[Any]]:
    """Mean F1 over the number of units, of latents and of the baselines."""

    def mean(measured: Sequence[MeasuredConcept], k: int) -> float:
        judged = [of.probes[min(k, max(of.probes))][1] for of in measured]
        return round(float(_nanmean(drawn(judged, asked, 0, 0).f1_DC)[0]), 4)

    curves: dict[str, list[Any]] = {
        "k": list(ks),
        "latents": [round(float(_nanmean(probes[k].f1_DC)[0]), 4) for k in ks],
    }
    for name, measured in {
        "neuron": at_site.neurons,
        "direction": at_site.directions,
        "random": at_site.random.get(of_sae.control),
    }.items():
        if measured is not None:
            curves[name] = [mean(measured, k) for k in ks]
    return curves


def _by_kind(best: DrawnScores, asked: Asked, truth: Truth) -> dict[str, list[Any]]:
    """Mean F1 of the best latent by concept, over its values."""
    names = [truth.concepts[at][0] for at in asked.concepts]
    f1_C = best.f1_DC[0]
    kinds = list(dict.fromkeys(names))
    return {
        "kind": kinds,
        "f1": [
            round(float(np.nanmean(f1_C[[name == kind for name in names]])), 4) for kind in kinds
        ],
    }


def _carried_values(
    of_sae: OfSae, dense: DrawnScores, asked: Asked, config: ConceptsConfig
) -> dict[str, Value]:
    """Absorption and splitting, of the concepts that the dense probe finds."""
    known = detected(dense)[0] > 0
    names = (MISSED, ABSORPTION, DECISIVE, NEEDED, SPLIT_SHARE)
    values = {"splits": Value(float(np.mean([len(of.main) for of in of_sae.measured])))}
    if not known.any():
        return values | dict.fromkeys(names, Value(None))
    chosen = [of for of, is_known in zip(of_sae.carried, known, strict=True) if is_known]
    sums = [np.concatenate([of.events_RS, of.left_RA], axis=1) for of in chosen]
    sums_RCS = np.stack(sums, axis=1)[asked.measured_R]
    flat = sums_RCS.reshape(len(sums_RCS), -1)
    sums_DCS = bootstrap.all_sums(flat, config.bootstrap, config.seed).reshape(
        -1, *sums_RCS.shape[1:]
    )
    events_DCS, left_DCA = np.split(sums_DCS, [absorbing.EVENTS], axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares_DCS = events_DCS[:, :, 1:] / events_DCS[:, :, :1]
    needed_DC = np.stack(
        [absorbing.needed(left_DCA[:, c]) for c in range(left_DCA.shape[1])], axis=1
    )
    needed_DC = np.where(np.isnan(needed_DC), absorbing.MOST + 1, needed_DC)
    shares = [shares_DCS[:, :, at - 1] for at in
              (absorbing.MISSED, absorbing.ABSORBED, absorbing.DECISIVE)]  # fmt: skip
    values |= {
        name: _mean(values_DC, dense) for name, values_DC in zip(names, shares, strict=False)
    }
    return values | {
        NEEDED: _percentiles(needed_DC, dense),
        SPLIT_SHARE: _percentiles((needed_DC > 1).astype(float), dense),
    }


def _expert_values(of_sae: OfSae) -> dict[str, Value]:
    assert of_sae.experts is not None
    coded = [of for of in of_sae.experts if of.coded]
    several = [of for of in coded if of.asked > 1]
    cosines = [of.cosine for of in coded if of.cosine is not None]

    def mean(values: list[float]) -> Value:
        return Value(float(np.mean(values)) if values else None)

    return {
        CODING_EXPERTS: mean([float(len(of.coded)) for of in coded]),
        ONE_EXPERT: mean([float(len(of.coded) == 1) for of in several]),
        EXPERT_COSINE: mean(cosines),
    }


def same_latents(
    at_sites: Mapping[str, "ConceptNumbers"], groups: Mapping[str, Sequence[str]]
) -> dict[str, Value]:
    """Site → how often the latent that finds a concept there finds it at another site of its group.

    Args:
        groups: name → the sites that share an SAE.
    """
    values = {}
    for sites in groups.values():
        known = [site for site in sites if site in at_sites]
        for site in known if len(known) > 1 else ():
            same = []
            for concept, latent in at_sites[site].finds.items():
                others = [at_sites[s].finds for s in known if s != site]
                latents = [finds[concept] for finds in others if concept in finds]
                if latents:
                    same.append(float(latent in latents))
            values[site] = Value(float(np.mean(same)) if same else None)
    return values


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


def _records(
    of_sae: OfSae,
    best: DrawnScores,
    others: Mapping[str, DrawnScores],
    asked: Asked,
    truth: Truth,
) -> list[KnownConcept]:
    records = []
    test = [
        (float(n), len(p.test.token_N))
        for p in asked.populations
        for n in np.asarray(p.test.stands.sum(0)).ravel()
    ]
    every: Sequence[by_expert.InExperts | None] = of_sae.experts or [None] * len(test)
    for at, (place, of, carries, experts, (positives, tokens)) in enumerate(
        zip(asked.concepts, of_sae.measured, of_sae.carried, every, test, strict=True)
    ):
        f1 = bootstrap.interval(best.f1_DC[:, at], best.documents)
        rivals = {name: _number(other.f1_DC[0, at]) for name, other in others.items()}
        records.append(
            KnownConcept(
                *truth.concepts[place],
                int(positives),
                tokens,
                _number(best.chance_DC[0, at]),
                of.unit,
                round(of.threshold, 6),
                _number(f1.value),
                _number(f1.low),
                _number(f1.high),
                _number(of.best.auroc),
                _number(of.best.precision),
                [
                    ConceptProbe(k, latents, _f1(judged.sums_RS), _number(judged.auroc))
                    for k, (latents, judged) in of.probes.items()
                ],
                of.main,
                rivals["dense"],
                rivals.get("neuron"),
                rivals.get("direction"),
                rivals.get("random"),
                _carries(carries),
                [] if experts is None else _experts(experts),
                0 if experts is None else experts.asked,
            )
        )
    return records


def _f1(sums_RS: np.ndarray) -> float | None:
    hit, false, positive = sums_RS.sum(0)[:3]
    return _number(2 * hit / (hit + false + positive))


def _carries(of: absorbing.Carried) -> ConceptCarried:
    known, missed, absorbed, decisive = of.events_RS.sum(0).astype(int).tolist()
    needed = absorbing.needed(of.left_RA.sum(0)[None])[0]
    absorbers = [Absorber(*of_latent) for of_latent in list(of.absorbers.items())[:5]]
    return ConceptCarried(
        known,
        missed,
        absorbed,
        decisive,
        absorbers,
        None if np.isnan(needed) else int(needed),
        of.ranked,
    )


def _experts(of: by_expert.InExperts) -> list[ConceptExpert]:
    return [
        ConceptExpert(expert, latent, round(f1, 4)) for expert, (latent, f1) in of.coded.items()
    ]


def _of_latents(
    of_sae: OfSae, best: DrawnScores, asked: Asked, truth: Truth
) -> list[LatentConcept]:
    """Which latents detect which concept."""
    detects_C = detected(best, DETECTS)[0]
    return [
        LatentConcept(of.unit, "=".join(truth.concepts[place]), _number(f1))
        for place, of, f1, detects in zip(
            asked.concepts, of_sae.measured, best.f1_DC[0], detects_C, strict=True
        )
        if detects
    ]
