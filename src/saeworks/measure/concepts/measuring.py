"""Every concept against units of any kind: chosen and fitted on half of the documents, scored on
the other half.

Units are latents, MLP neurons, or directions of PCA: all that has strictly positive activations.

Shapes: N tokens of a half, C concepts, M units, R documents, D rows of sums as in `bootstrap`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix

from saeworks.errors import UserError
from saeworks.measure import bootstrap
from saeworks.measure.concepts import judging
from saeworks.measure.concepts.choosing import Units, choose
from saeworks.measure.concepts.judging import JudgedScores, Scores, best_threshold, judge
from saeworks.measure.concepts.probes import ActiveUnits, DenseProbes, SparseProbe
from saeworks.measure.known import Truth
from saeworks.measure.studies.consistency import first_half

SPLIT, MOST_SPLITS = 0.03, 10
"""Rise of F1 from which another latent counts as part of a concept (Chanin et al. 2024, τ_fs), and
how many such latents there are at most."""


@dataclass(frozen=True)
class Half:
    """Tokens of one half of the documents.

    Attributes:
        token_N: their places among all kept tokens.
        row_N: their documents.
        stands: 0/1 [N, C].
    """

    token_N: Int[np.ndarray, " N"]
    row_N: Int[np.ndarray, " N"]
    stands: csr_matrix

    def stand(self, concept: int) -> Bool[np.ndarray, " N"]:
        """On which of them a concept stands."""
        y_N: np.ndarray = self.stands[:, [concept]].toarray().ravel() > 0
        return y_N


@dataclass(frozen=True)
class Population:
    """Concepts that are asked about on the same tokens.

    Attributes:
        concepts: their places in the truth.
        fit, test: the halves; their `stands` has these concepts alone.
    """

    concepts: Int[np.ndarray, " C"]
    fit: Half
    test: Half


@dataclass(frozen=True)
class Asked:
    """What is asked.

    Attributes:
        populations: all concepts that have enough tokens.
        left_out: places in the truth of those that stand on tokens, but on too few.
        rows: of sums by document.
        measured_R: documents of the test half.
    """

    populations: tuple[Population, ...]
    left_out: tuple[int, ...]
    rows: int
    measured_R: Bool[np.ndarray, " R"]

    @property
    def concepts(self) -> list[int]:
        """The places of all concepts, as they come out of `measure_units`."""
        return [int(c) for population in self.populations for c in population.concepts]


def asked(
    truth: Truth, row_N: Int[np.ndarray, " N"], rows: int, least: int, seed: int, name: str
) -> Asked:
    """Halve the documents at random and keep the concepts with at least `least` tokens with and
    without them in each half.

    Args:
        row_N: document of each token.
        name: of the source of labels, for messages.

    Raises:
        UserError: if no concept is left.
    """
    fit_N = first_half(row_N, seed)
    set_N = np.zeros(len(row_N), np.int64) if truth.set_N is None else truth.set_N
    set_C = np.zeros(len(truth.concepts), np.int64) if truth.set_C is None else truth.set_C
    populations, left_out = [], []
    for of in np.unique(set_C):
        concepts = np.flatnonzero(set_C == of)
        halves = [np.flatnonzero((set_N == of) & half_N) for half_N in (fit_N, ~fit_N)]
        counts = [np.asarray(truth.stands[at][:, concepts].sum(0)).ravel() for at in halves]
        enough = np.all([(n >= least) & (len(at) - n >= least)
                         for n, at in zip(counts, halves, strict=True)], axis=0)  # fmt: skip
        left_out += concepts[~enough & (np.sum(counts, axis=0) > 0)].tolist()
        concepts = concepts[enough]
        if len(concepts):
            fit, test = (Half(at, row_N[at], truth.stands[at][:, concepts]) for at in halves)
            populations.append(Population(concepts, fit, test))
    if not populations:
        raise UserError(
            f"--labels {name}: none of {len(truth.concepts)} concepts stands on {least} tokens, "
            f"and not on {least} others, in each half of the documents; raise --tokens or lower "
            "--least"
        )
    measured_R = np.zeros(rows, bool)
    measured_R[row_N[~fit_N]] = True
    return Asked(tuple(populations), tuple(left_out), rows, measured_R)


@dataclass(frozen=True)
class MeasuredConcept:
    """One concept against units.

    Attributes:
        unit, threshold: the best single unit, active above the threshold.
        best: how well it does.
        probes: k → the units of the sparse probe and how well it does.
        main: the units that code the concept together: the best one, then others while the sparse
            probe's F1 on the fitting half rises by more than `SPLIT` with each.
    """

    unit: int
    threshold: float
    best: JudgedScores
    probes: Mapping[int, tuple[list[int], JudgedScores]]
    main: list[int]


def measure_units(
    units: Units, asked: Asked, ks: Sequence[int], split: bool = True
) -> list[MeasuredConcept]:
    """Every concept against units that are given on all tokens.

    Args:
        split: look for several main units of a concept; else the best one is the only one.
    """
    measured = []
    for population in asked.populations:
        fit_units = units.some(population.fit.token_N)
        test_units = units.some(population.test.token_N)
        most = min(max(*ks, MOST_SPLITS), units.a_NM.shape[1])
        choice = choose(fit_units, population.fit.stands, most)
        for at in range(len(population.concepts)):
            fit_N, test_N = population.fit.stand(at), population.test.stand(at)
            ranked, unit = choice.ranked_CK[at], int(choice.unit_C[at])
            active = ActiveUnits.of(fit_units, ranked[: max(ks)])
            test_active = ActiveUnits.of(test_units, ranked[: max(ks)])
            threshold = float(choice.threshold_C[at])
            token_n, a_n = test_units.column(unit)
            best = judge(
                Scores(token_n, a_n, 0.0), threshold, test_N, population.test.row_N, asked.rows
            )
            probes = {}
            for k in sorted({min(k, most) for k in ks}):
                few = active.some(np.arange(k))
                probe = SparseProbe.fit(few, fit_N)
                least, _ = best_threshold(probe.scores(few), fit_N)
                scores = probe.scores(test_active.some(np.arange(k)))
                judged = judge(scores, least, test_N, population.test.row_N, asked.rows)
                probes[k] = (ranked[:k].tolist(), judged)
            f1 = float(choice.fit_C[at])
            main = _main(fit_units, unit, f1, ranked, fit_N) if split else [unit]
            measured.append(MeasuredConcept(unit, threshold, best, probes, main))
    return measured


def _main(units: Units, unit: int, f1: float, ranked: np.ndarray, y_N: np.ndarray) -> list[int]:
    main = [unit]
    for other in ranked[ranked != unit][: MOST_SPLITS - 1].tolist():
        active = ActiveUnits.of(units, np.array([*main, other]))
        _, with_other = best_threshold(SparseProbe.fit(active, y_N).scores(active), y_N)
        if with_other - f1 <= SPLIT:
            break
        main, f1 = [*main, other], with_other
    return main


@dataclass(frozen=True)
class Dense:
    """The dense probes of a site, and how well they do.

    Attributes:
        probes: one set for each population.
        logits: of each population's test tokens [N, C].
        thresholds: of these, chosen on the fitting half.
        judged: by concept.
    """

    probes: list[DenseProbes]
    logits: list[Float[np.ndarray, "N C"]]
    thresholds: list[Float[np.ndarray, " C"]]
    judged: list[JudgedScores]


def measure_dense(x_ND: Float[np.ndarray, "N D"], asked: Asked, seed: int) -> Dense:
    """Every concept against a logistic probe on the whole activation."""
    dense = Dense([], [], [], [])
    for population in asked.populations:
        fit, test = population.fit, population.test
        probes = DenseProbes.fit(x_ND[fit.token_N], fit.stands, seed)
        fit_NC, test_NC = probes.logits(x_ND[fit.token_N]), probes.logits(x_ND[test.token_N])
        thresholds = [
            best_threshold(_all(fit_NC[:, c]), fit.stand(c))[0] for c in range(fit_NC.shape[1])
        ]
        dense.probes.append(probes)
        dense.logits.append(test_NC)
        dense.thresholds.append(np.array(thresholds))
        dense.judged.extend(
            judge(_all(test_NC[:, c]), threshold, test.stand(c), test.row_N, asked.rows)
            for c, threshold in enumerate(thresholds)
        )
    return dense


def _all(score_N: np.ndarray) -> Scores:
    """Scores where every token has its own; the base is of none."""
    return Scores(np.arange(len(score_N)), score_N.astype(np.float64), float(score_N.min()) - 1)


@dataclass(frozen=True)
class DrawnScores:
    """Scores of every concept, of all documents, with documents left out, of resamples.

    Attributes:
        f1_DC, auroc_DC, precision_DC: of the scores.
        chance_DC: F1 of saying that the concept stands on every token: 2p/(1 + p) where it stands
            on a share p.
        documents: of the test half.
    """

    f1_DC: Float[np.ndarray, "D C"]
    auroc_DC: Float[np.ndarray, "D C"]
    precision_DC: Float[np.ndarray, "D C"]
    chance_DC: Float[np.ndarray, "D C"]
    documents: int


def drawn(judged: Sequence[JudgedScores], asked: Asked, resamples: int, seed: int) -> DrawnScores:
    """The scores with what their intervals are made of."""
    sums_RCS = np.stack([of.sums_RS for of in judged], axis=1)[asked.measured_R]
    documents = len(sums_RCS)
    flat_DX = bootstrap.all_sums(sums_RCS.reshape(documents, -1), resamples, seed)
    sums_DCS = flat_DX.reshape(len(flat_DX), len(judged), judging.SUMS)
    hit, false, positive, negative, above, below, precision = np.moveaxis(sums_DCS, 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc_DC = np.array([of.auroc for of in judged]) + above / positive + below / negative
        precision_DC = np.array([of.precision for of in judged]) + precision / positive
        return DrawnScores(
            2 * hit / (hit + false + positive),
            auroc_DC.clip(0, 1),
            precision_DC.clip(0, 1),
            2 * positive / (2 * positive + negative),
            documents,
        )
