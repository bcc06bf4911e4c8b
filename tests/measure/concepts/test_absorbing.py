"""Absorption and splitting that were planted are recovered; null labels find nothing."""

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from saeworks.measure.concepts import absorbing
from saeworks.measure.concepts.absorbing import Carried, carried, needed
from saeworks.measure.concepts.by_expert import in_experts
from saeworks.measure.concepts.choosing import Units
from saeworks.measure.concepts.measuring import (
    Asked,
    MeasuredConcept,
    asked,
    drawn,
    measure_dense,
    measure_units,
)
from saeworks.measure.known import Truth

Array = np.ndarray[Any, Any]
D, M, N, DOCUMENTS = 24, 40, 6000, 60


class Planted:
    """A dictionary with directions at right angles, its activations, and concepts.

    Latent 0 is concept A, but where one of the latents 30 to 39 fires (special cases of A, 3% of it
    each), it is silent and that latent's decoder row holds A's direction, too. Concept B is latents
    2, 3 and 4, one of which fires on each of its tokens. Concept C is random.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        axes = np.linalg.qr(rng.normal(size=(D, D)))[0]
        w_dec = rng.normal(size=(M, D))
        a_axis, b_axis = axes[0], axes[2]
        for at in (2, 3, 4):
            w_dec[at] = b_axis + 0.6 * axes[at + 1]
        free = axes[6:]
        w_dec[5:] = w_dec[5:] @ free.T @ free
        w_dec /= np.linalg.norm(w_dec, axis=1, keepdims=True)
        w_dec[0] = a_axis
        w_dec[30:40] += a_axis
        self.w_dec = (w_dec / np.linalg.norm(w_dec, axis=1, keepdims=True)).astype(np.float32)
        a, b, c = (rng.random(N) < p for p in (0.15, 0.2, 0.1))
        absorbed = a & (rng.random(N) < 0.3)
        f = np.maximum(0, rng.normal(-1.5, 1, (N, M)))
        f[:, [*range(5), *range(30, 40)]] = 0
        f[a & ~absorbed, 0] = 4 + rng.random((a & ~absorbed).sum())
        which = rng.integers(30, 40, size=N)
        f[np.flatnonzero(absorbed), which[absorbed]] = 6 + rng.random(absorbed.sum())
        which = rng.integers(2, 5, size=N)
        f[np.flatnonzero(b), which[b]] = 4 + rng.random(b.sum())
        self.absorbed, self.stands = absorbed, np.stack([a, b, c], 1)
        self.units = Units(csr_matrix(f.astype(np.float32)))
        self.x = (f @ self.w_dec + 0.05 * rng.normal(size=(N, D))).astype(np.float32)
        self.row = np.repeat(np.arange(DOCUMENTS), N // DOCUMENTS)
        self.truth = Truth(
            (("A", "yes"), ("B", "yes"), ("C", "yes")), csr_matrix(self.stands.astype(np.int32))
        )
        self.asked = asked(self.truth, self.row, DOCUMENTS, 20, 0, "planted")


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def measured(planted: Planted) -> list[MeasuredConcept]:
    return measure_units(planted.units, planted.asked, (1, 2, 3))


@pytest.fixture(scope="module")
def carries(planted: Planted, measured: list[MeasuredConcept]) -> list[Carried]:
    dense = measure_dense(planted.x, planted.asked, 0)
    return carried(planted.units, planted.w_dec, planted.asked, dense, measured)


def f1(measured: list[MeasuredConcept], asked_: Asked) -> Array:
    return np.asarray(drawn([of.best for of in measured], asked_, 0, 0).f1_DC[0])


def test_the_planted_latents_are_found(planted: Planted, measured: list[MeasuredConcept]) -> None:
    assert measured[0].unit == 0 and measured[1].unit in (2, 3, 4)
    a, b, _ = f1(measured, planted.asked)
    assert a == pytest.approx(2 * 0.7 / 1.7, abs=0.03) and b == pytest.approx(0.5, abs=0.05)
    assert set(measured[1].main) == {2, 3, 4}
    assert set(measured[1].probes[3][0]) == {2, 3, 4}
    best = drawn([of.probes[3][1] for of in measured], planted.asked, 0, 0)
    assert best.f1_DC[0, 1] > 0.99 and best.auroc_DC[0, 1] > 0.99


def test_planted_absorption_is_recovered(
    planted: Planted, measured: list[MeasuredConcept], carries: list[Carried]
) -> None:
    test = planted.asked.populations[0].test
    known, missed, absorbed, decisive = carries[0].events_RS.sum(0)
    assert known == pytest.approx(planted.stands[test.token_N, 0].sum(), rel=0.02)
    assert measured[0].main == [0]
    assert missed == pytest.approx(planted.absorbed[test.token_N].sum(), rel=0.02)
    assert absorbed == pytest.approx(missed, rel=0.02) and decisive >= 0.9 * absorbed
    assert set(carries[0].absorbers) == set(range(30, 40))
    assert sum(carries[0].absorbers.values()) == absorbed
    assert carries[1].events_RS.sum(0)[absorbing.ABSORBED] == 0


def test_splitting_is_what_ablation_says(planted: Planted, carries: list[Carried]) -> None:
    """Half of B's tokens are lost with the second of three latents; of A's with its one."""
    assert set(carries[1].ranked[:3]) == {2, 3, 4} and carries[0].ranked[0] == 0
    assert needed(carries[1].left_RA.sum(0)[None])[0] == 2
    assert needed(carries[0].left_RA.sum(0)[None])[0] == 1
    left = carries[1].left_RA.sum(0)
    assert left[1] / left[0] == pytest.approx(2 / 3, abs=0.05) and left[3] <= 0.01 * left[0]


def test_an_ablation_lowers_the_logit_by_what_it_says(planted: Planted) -> None:
    """The probe's logit of x without latent i, really taken out of x."""
    probes = measure_dense(planted.x, planted.asked, 0).probes[0]
    token, activations = planted.units.column(30)
    with_, without = planted.x[token], planted.x[token] - activations[:, None] * planted.w_dec[30]
    change = probes.logits(with_)[:, 0] - probes.logits(without)[:, 0]
    assert change == pytest.approx(activations * (planted.w_dec[30] @ probes.w_CD[0]), rel=1e-3)


def test_needed_of_nothing_and_of_too_little() -> None:
    left = np.array([[10.0, 8, 5, 1], [10, 9, 8, 6], [0, 0, 0, 0]])
    assert needed(left)[0] == 2 and np.isnan(needed(left)[1:]).all()


def test_null_labels_find_nothing_beyond_chance(planted: Planted) -> None:
    """The best of all latents, chosen on one half, is no better than chance on the other."""
    rng = np.random.default_rng(7)
    stands = rng.random((N, 30)) < rng.uniform(0.02, 0.5, 30)
    names = tuple((str(at), "null") for at in range(30))
    null = asked(
        Truth(names, csr_matrix(stands.astype(np.int32))), planted.row, DOCUMENTS, 20, 0, ""
    )
    scores = drawn([of.best for of in measure_units(planted.units, null, (1,))], null, 0, 0)
    assert (scores.f1_DC[0] <= scores.chance_DC[0] + 0.03).all()
    assert scores.auroc_DC[0].mean() == pytest.approx(0.5, abs=0.02)
    dense = drawn(measure_dense(planted.x, null, 0).judged, null, 0, 0)
    assert (dense.f1_DC[0] <= dense.chance_DC[0] + 0.03).all()


def test_concepts_in_experts(planted: Planted) -> None:
    """Latents 0 … 19 are expert 0's, the others' expert 1's; both code A, each by a latent."""
    rng = np.random.default_rng(8)
    expert = rng.integers(2, size=N)
    f = planted.units.a_NM.toarray()
    f[:, 20] = f[:, 0]
    f[expert == 1, :20] = 0
    f[expert == 0, 20:] = 0
    visits = csr_matrix(np.eye(2, dtype=np.int32)[expert])
    w_dec = planted.w_dec.copy()
    w_dec[20] = w_dec[0]
    a, b, c = in_experts(Units(csr_matrix(f)), visits, w_dec, planted.asked)
    assert {e: latent for e, (latent, _) in a.coded.items()} == {0: 0, 1: 20}
    assert a.cosine == pytest.approx(1, abs=1e-5) and a.asked == 2
    assert set(b.coded) <= {0} and not c.coded and c.cosine is None
