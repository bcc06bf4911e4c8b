import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import matthews_corrcoef

from saeworks.measure.known import Truth
from saeworks.measure.studies.consistency import (
    Firing,
    Found,
    by_place,
    by_tokens,
    find,
    phi,
    series,
    summarise,
)

TOKENS, DOCUMENTS = 4000, 100
ROW_N = np.arange(TOKENS) % DOCUMENTS


def test_phi_is_matthews_correlation() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(500) < 0.3
    b = np.where(rng.random(500) < 0.6, a, rng.random(500) < 0.4)
    counts = [np.array(float(x.sum())) for x in (a & b, a, b, np.ones(500))]
    assert float(phi(*counts)) == pytest.approx(matthews_corrcoef(a, b))
    whole = np.array(500.0)
    assert float(phi(counts[1], counts[1], whole, whole)) == 0  # the concept is everywhere


class World:
    """Two experts of three latents, tokens sent to either at random, three concepts:
    0 is coded by latent 0 in expert 0 and by latent 3 in expert 1; 1 by latent 1 in expert 0 alone;
    2 stands on every token of expert 1 and on none of expert 0."""

    def __init__(self, noise: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        self.expert = rng.integers(0, 2, TOKENS)
        stands = rng.random((TOKENS, 3)) < [0.3, 0.2, 0.0]
        stands[:, 2] = self.expert == 1
        self.truth = csr_matrix(stands.astype(np.int32))
        seen = stands ^ (rng.random((TOKENS, 3)) < noise)
        fires = np.zeros((TOKENS, 6), bool)
        fires[:, 0] = seen[:, 0] & (self.expert == 0)
        fires[:, 1] = seen[:, 1] & (self.expert == 0)
        fires[:, 2] = (rng.random(TOKENS) < 0.3) & (self.expert == 0)
        fires[:, 3] = seen[:, 0] & (self.expert == 1)
        fires[:, 4] = self.expert == 1
        self.fires = csr_matrix(fires.astype(np.int32))
        self.visits = csr_matrix(np.eye(2, dtype=np.int32)[self.expert])
        self.rows_MD = np.eye(6)

    def firing(self) -> Firing:
        return by_place(self.fires, np.arange(6) // 3, 2, self.visits, "experts")

    def found(self, resamples: int = 50) -> Found:
        return find(self.firing(), self.truth, ROW_N, self.rows_MD, resamples, 0)


def test_what_was_planted_is_found() -> None:
    found = World().found()
    values = summarise(found)
    assert values["concepts"].value == 2  # the third is never both there and not there
    assert values["coded"].value == 2
    assert values["queen"].value == 0.5
    assert values["places"].value == 1.5
    assert values["consistency"].value == 0
    coded = {
        (int(c), int(p)): int(latent)
        for c, p, latent, phi_Q in zip(
            found.concept_Q, found.place_Q, found.latent_Q, found.phi_SQ[0], strict=True
        )
        if phi_Q > 0.5
    }
    assert coded == {(0, 0): 0, (0, 1): 3, (1, 0): 1}


def test_shared_directions_are_consistent() -> None:
    world = World()
    world.rows_MD[3] = world.rows_MD[0]
    values = summarise(world.found())
    assert values["consistency"].value == values["duplicate_pairs"].value == 1
    assert values["queen"].value == 0.5


def test_noise_lowers_phi_and_the_interval_tells() -> None:
    found = World(noise=0.13).found(resamples=200)
    assert 0.5 < found.phi_SQ[0, 0] < 0.8
    low, high = np.percentile(found.phi_SQ[1:, 0], [2.5, 97.5])
    assert low < found.phi_SQ[0, 0] < high
    assert summarise(found, 0.95)["coded"].value == 0
    assert summarise(found, 0.95)["queen"].value is None


def test_choosing_among_many_latents_gains_nothing() -> None:
    """A thousand latents that fire at random: the best of a half is nothing on the other."""
    rng = np.random.default_rng(2)
    fires = csr_matrix((rng.random((200, 1000)) < 0.3).astype(np.int32))
    truth = csr_matrix((rng.random((200, 20)) < 0.4).astype(np.int32))
    visits = csr_matrix(np.ones((200, 2), np.int32))
    firing = by_place(fires, np.arange(1000) // 500, 2, visits, "cut")
    found = find(firing, truth, np.arange(200) % 40, np.eye(1000), 0, 0)
    assert len(found.concept_Q) == 40  # each looked promising
    assert abs(found.phi_SQ[0].mean()) < 0.1
    values = summarise(found)
    assert values["coded"].value == 0 and values["queen"].value is None


def test_one_dictionary_on_the_tokens_of_experts() -> None:
    """A latent that codes the concept everywhere is one latent, in both places; with two that
    each do so in one place, there are two."""
    world = World()
    dense = world.fires.toarray()
    dense[:, 0] |= dense[:, 3]
    dense[:, 3] = 0
    firing = by_tokens(csr_matrix(dense), world.visits)
    assert firing.fires.shape == (TOKENS, 12)
    found = find(firing, world.truth, ROW_N, world.rows_MD, 20, 0)
    values = summarise(found)
    assert values["queen"].value == 0 and values["consistency"].value == 1
    assert values["places"].value == 1.5  # latent 1 fires in expert 0's tokens alone
    own = find(by_tokens(world.fires, world.visits), world.truth, ROW_N, world.rows_MD, 20, 0)
    assert summarise(own) == summarise(world.found(20))


def test_by_tokens_counts_every_visit() -> None:
    """A token of two experts is in both places."""
    visits = csr_matrix(np.array([[1, 0], [1, 1], [0, 1]], np.int32))
    fires = csr_matrix(np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0]], np.int32))
    got = by_tokens(fires, visits)
    expected = [[1, 0, 1, 0, 0, 0], [0, 1, 1, 0, 1, 1], [0, 0, 0, 1, 0, 0]]
    assert got.fires.toarray().tolist() == expected
    assert got.place_U.tolist() == [0, 0, 0, 1, 1, 1]
    assert got.latent_U.tolist() == [0, 1, 2, 0, 1, 2]


def test_nothing_fires() -> None:
    world = World()
    world.fires = csr_matrix((TOKENS, 6), dtype=np.int32)
    values = summarise(world.found())
    assert values["coded"].value == 0
    assert values["queen"].value is values["consistency"].value is None


def test_series_name_the_concepts() -> None:
    world = World()
    names = (("role", "queen"), ("tense", "past"), ("domain", "story"))
    made = series(world.found(), world.firing(), Truth(names, world.truth))
    queen, past = made["concepts"]
    assert (queen["concept"], queen["value"], queen["places"]) == ("role", "queen", 2)
    assert [(one["expert"], one["latent"]) for one in queen["coded"]] == [(0, 0), (1, 3)]
    assert queen["cosine"] == 0 and past["cosine"] is None
    assert made["queen"]["queen"] == [0.5] * 7
    assert made["cells"] == {"kind": "experts", "blocks": 2}
