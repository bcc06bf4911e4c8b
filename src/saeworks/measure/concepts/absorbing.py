"""Absorption and splitting, by ablation of latents.

The instrument is the concept's dense logistic probe. It is linear, so ablating latent i of a token
(x − fᵢ·dᵢ in place of x: the SAE's error stays) lowers its logit by exactly cᵢ = fᵢ⟨dᵢ, w⟩.

Absorption (Chanin et al. 2024, 2409.14507, with the probe's logit in the place of the logit of the
answer). Of the test tokens with the concept on which the probe says so:

- *missed*: none of the concept's main latents fires;
- *absorbed*: missed, and the latent whose ablation lowers the logit most has a decoder row whose
  cosine with w is at least `COSINE`, and lowers it by at least `MARGIN` more than any other;
- *decisive*: absorbed, and without that one latent the probe no longer says so.

Splitting: latents are ranked by how much more they add to the logit on tokens with the concept than
on those without, on the fitting half. On the test half they are ablated one after the other:
*needed* is how many it takes until the probe finds half as many of the tokens that it found.

Shapes: N tokens of the test half, C concepts, M latents, D model width, R documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_matrix

from saeworks.measure.concepts.choosing import Units
from saeworks.measure.concepts.measuring import Asked, Dense, Half, MeasuredConcept, Population

COSINE, MARGIN = 0.025, 1.0
"""Chanin et al.'s τ_ps and τ_la; the margin in nats of the probe's logit."""
MOST = 16
"""Latents that are ablated at most."""
KNOWN, MISSED, ABSORBED, DECISIVE = range(4)
EVENTS: Final = 4
"""Columns of `Carried.events_RS`."""


@dataclass(frozen=True)
class Carried:
    """What carries one concept, on the test tokens with it on which its probe says so.

    Attributes:
        events_RS: those tokens by document, and how many are missed, absorbed, decisively.
        absorbers: latent → tokens on which it absorbs the concept.
        ranked: the latents that are ablated, in this order.
        left_RA: tokens on which the probe still says so after none, one, two … are ablated.
    """

    events_RS: Float[np.ndarray, "R S"]
    absorbers: dict[int, int]
    ranked: list[int]
    left_RA: Float[np.ndarray, "R A"]


def carried(
    units: Units,
    w_dec_MD: Float[np.ndarray, "M D"],
    asked: Asked,
    dense: Dense,
    measured: Sequence[MeasuredConcept],
) -> list[Carried]:
    """What carries each concept, of an SAE whose latents are given on all tokens."""
    norm_M = np.maximum(np.linalg.norm(w_dec_MD, axis=1), 1e-12)
    out: list[Carried] = []
    for at, population in enumerate(asked.populations):
        fit, test = (units.some(half.token_N) for half in (population.fit, population.test))
        w_CD = dense.probes[at].w_CD.astype(np.float32)
        push_MC = w_dec_MD @ w_CD.T
        cosine_MC = push_MC / (norm_M[:, None] * np.linalg.norm(w_CD, axis=1).clip(1e-12))
        gap_MC = _gap(fit, population)
        for c in range(len(w_CD)):
            main = measured[len(out)].main
            says_N = (dense.logits[at][:, c] > dense.thresholds[at][c]) & population.test.stand(c)
            known = np.flatnonzero(says_N)
            over = dense.logits[at][known, c] - dense.thresholds[at][c]
            part = test.a_NM[known]
            push_M = push_MC[:, c]
            events, absorbers = _events(part, push_M, cosine_MC[:, c], over, main)
            order = np.argsort(-(gap_MC[:, c] * push_M), kind="stable")[:MOST]
            left = _ablated(part, push_M, order, over)
            row = population.test.row_N[known]
            out.append(
                Carried(
                    _by_document(events, row, asked.rows),
                    absorbers,
                    order.tolist(),
                    _by_document(left, row, asked.rows),
                )
            )
    return out


def _gap(fit: Units, population: Population) -> Float[np.ndarray, "M C"]:
    """Mean activation on tokens with a concept less that on those without."""
    half: Half = population.fit
    with_C = np.asarray(half.stands.sum(0), float).ravel()
    sum_MC = np.asarray((fit.a_NM.T @ half.stands.astype(np.float32)).todense(), float)
    total_M = np.asarray(fit.a_NM.sum(0, dtype=np.float64)).ravel()
    without = (total_M[:, None] - sum_MC) / (len(half.token_N) - with_C)
    return np.asarray(sum_MC / with_C - without)


def _events(
    part: csr_matrix, push_M: np.ndarray, cosine_M: np.ndarray, over: np.ndarray, main: list[int]
) -> tuple[np.ndarray, dict[int, int]]:
    """For each known token whether it is missed, absorbed, decisively; and by which latents.

    Args:
        part: the activations on these tokens.
        over: how far the probe's logit lies above its threshold.
    """
    tokens = len(over)
    row = np.repeat(np.arange(tokens), np.diff(part.indptr))
    fires = np.bincount(row, np.isin(part.indices, main), minlength=tokens) > 0
    effect = part.data * push_M[part.indices]
    order = np.lexsort((-effect, row))
    row, effect, latent = row[order], effect[order], part.indices[order]
    first = np.flatnonzero(np.append(True, row[1:] != row[:-1])[: len(row)])
    second = np.zeros(len(first))
    has = np.append(np.diff(first), len(row) - first[-1:]) > 1
    second[has] = effect[first[has] + 1]
    events = np.zeros((tokens, EVENTS))
    events[:, KNOWN] = 1
    events[:, MISSED] = ~fires
    token, top = row[first], effect[first]
    absorbed = (
        ~fires[token]
        & (cosine_M[latent[first]] >= COSINE)
        & (top - np.maximum(second, 0) >= MARGIN)
    )
    events[token, ABSORBED] = absorbed
    events[token, DECISIVE] = absorbed & (top >= over[token])
    latents, counts = np.unique(latent[first][absorbed], return_counts=True)
    by_count = np.argsort(-counts, kind="stable")
    return events, dict(zip(latents[by_count].tolist(), counts[by_count].tolist(), strict=True))


def _ablated(
    part: csr_matrix, push_M: np.ndarray, order: np.ndarray, over: np.ndarray
) -> np.ndarray:
    """For each known token whether the probe still says so after none, one, two … ablations."""
    effect = part[:, order].toarray() * push_M[order]
    left = over[:, None] - np.concatenate([np.zeros((len(over), 1)), effect.cumsum(1)], axis=1)
    return np.asarray(left > 0)


def _by_document(values: np.ndarray, row: np.ndarray, rows: int) -> np.ndarray:
    columns = [np.bincount(row, column, minlength=rows) for column in values.T]
    return np.stack(columns, axis=1).astype(float)  # of no rows bincount counts in integers


def needed(left_DA: Float[np.ndarray, "D A"]) -> Float[np.ndarray, " D"]:
    """How many ablations leave at most half; NaN where all of them leave more, or there was
    nothing to begin with."""
    halved_DA = left_DA <= left_DA[:, :1] / 2
    first_D: np.ndarray = halved_DA.argmax(1).astype(float)
    first_D[~halved_DA.any(1) | (left_DA[:, 0] <= 0)] = np.nan
    return first_D
