"""Contexts: stretches of text in which a latent fires or does not, on which explanations by
language models and programs alike are scored (Paulo et al. 2024).

Detection asks whether the latent fires anywhere in a stretch. Fuzzing asks whether marked tokens
are those on which it fires. Shapes: N kept tokens, S stretches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int

from saeworks.measure.held_out import HeldOut

LENGTH, SHORTEST = 32, 8
"""Tokens of a stretch at most, and at least."""


@dataclass(frozen=True)
class Stretches:
    """Consecutive kept tokens of one document and sequence each, which do not overlap.

    Attributes:
        start_S, end_S: rows among the kept tokens.
        fitting_S: of the documents that make explanations.
        token_N: of each kept token.
    """

    start_S: Int[np.ndarray, " S"]
    end_S: Int[np.ndarray, " S"]
    fitting_S: Bool[np.ndarray, " S"]
    token_N: Int[np.ndarray, " N"]

    @classmethod
    def of(cls, held_out: HeldOut, fitting_R: Bool[np.ndarray, " R"]) -> "Stretches":
        """All of the held-out tokens; what is left at the end of a document is left out where it is
        shorter than `SHORTEST`."""
        keep_NT = held_out.keep_NT
        place_N = keep_NT.flatten().nonzero()[:, 0].numpy()
        row_N, token_N = (of_NT[keep_NT].numpy() for of_NT in (held_out.row_NT, held_out.tokens_NT))
        sequence_N = place_N // keep_NT.shape[1]
        breaks = (np.diff(place_N) != 1) | (np.diff(row_N) != 0) | (np.diff(sequence_N) != 0)
        begins = np.concatenate([[0], np.flatnonzero(breaks) + 1, [len(place_N)]])
        starts = np.concatenate([np.arange(a, b, LENGTH) for a, b in pairwise(begins)])
        run_end = begins[np.searchsorted(begins, starts, side="right")]
        ends = np.minimum(starts + LENGTH, run_end)
        long = ends - starts >= SHORTEST
        starts, ends = starts[long], ends[long]
        return cls(starts, ends, fitting_R[row_N[starts]], token_N)

    def containing(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The stretch of each of these tokens; −1 where it is in none."""
        at = np.searchsorted(self.start_S, rows, side="right") - 1
        inside = (at >= 0) & (rows < self.end_S[at])
        return np.where(inside, at, -1)


@dataclass(frozen=True)
class Marked:
    """A stretch with marks at some of its tokens.

    Attributes:
        rows: kept tokens that are marked.
        right: whether they are those on which the latent fires.
    """

    stretch: int
    rows: Int[np.ndarray, " n"]
    right: bool


@dataclass(frozen=True)
class Sample:
    """What one latent's explanations are scored on; all of the judging half.

    Attributes:
        detection: stretches, and whether the latent fires in each.
        fuzzing: marked stretches, in all of which it fires.
    """

    detection: list[tuple[int, bool]]
    fuzzing: list[Marked]


def sample(
    stretches: Stretches, rows: Int[np.ndarray, " k"], count: int, seed: Sequence[int]
) -> Sample:
    """At most `count` contexts of each kind, uniformly from all of the judging half, shuffled.

    A wrongly marked stretch has as many marks as the latent fires on, at tokens on which it does
    not; those on which it fires on more than half of the tokens are left out.

    Args:
        rows: on which the latent fires.
    """
    rng = np.random.default_rng(list(seed))
    at = stretches.containing(rows)
    within = np.unique(at[at >= 0])
    judging = np.flatnonzero(~stretches.fitting_S)
    within = np.intersect1d(within, judging)
    without = rng.permutation(np.setdiff1d(judging, within))[:count]
    shuffled = rng.permutation(within)
    detection = [(int(s), True) for s in shuffled[:count]] + [(int(s), False) for s in without]
    fuzzing = []
    for number, stretch in enumerate(rng.permutation(within)[: 2 * count]):
        marked = _marked(stretches, int(stretch), rows[at == stretch], number % 2 == 0, rng)
        if marked is not None:
            fuzzing.append(marked)
    return Sample([detection[i] for i in rng.permutation(len(detection))], fuzzing)


def _marked(
    stretches: Stretches, stretch: int, fires: np.ndarray, right: bool, rng: np.random.Generator
) -> Marked | None:
    inside = np.arange(stretches.start_S[stretch], stretches.end_S[stretch])
    if 2 * len(fires) > len(inside):
        return None
    if not right:
        fires = np.sort(rng.choice(np.setdiff1d(inside, fires), len(fires), replace=False))
    return Marked(stretch, fires, right)


def shown(
    stretches: Stretches,
    rows: Int[np.ndarray, " k"],
    values: np.ndarray,
    count: int,
    seed: Sequence[int],
) -> list[int]:
    """Stretches of the fitting half that an explainer is shown: one half with the largest
    activations, the other at random among the others."""
    at = stretches.containing(rows)
    kept = (at >= 0) & stretches.fitting_S[at]
    within, number = np.unique(at[kept], return_inverse=True)
    peak = np.zeros(len(within))
    np.maximum.at(peak, number, values[kept])
    order = within[np.argsort(-peak, kind="stable")]
    top, rest = order[: count - count // 2], order[count - count // 2 :]
    others = np.random.default_rng(list(seed)).permutation(rest)[: count // 2]
    return [int(stretch) for stretch in (*top, *others)]
