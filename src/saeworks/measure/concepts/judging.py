"""How well scores tell the tokens with a concept from those without, as sums by document.

F1 is of "the score is above the threshold". AUROC is the chance that a token with the concept has
the higher score of two, ties counting half. Average precision is Σ precision · Δrecall down the
scores, tokens of equal score together (scikit-learn's definition). All three are computed from the
tokens that have a score of their own; the many others, on which no latent fires, all have one and
the same.

F1 is a ratio of sums by document. The other two are not, so their intervals come of sums of each
token's influence on them (the infinitesimal jackknife; for AUROC, its structural components:
DeLong et al. 1988, by cluster: Obuchowski 1997): AUROC of a resample is that of all documents +
Σψ₊/P + Σψ₋/N, with P and N the resample's tokens with and without the concept.

Shapes: n scored tokens, N tokens, R documents, L levels of the score.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

HIT, FALSE, POSITIVE, NEGATIVE, ABOVE, BELOW, PRECISION = range(7)
SUMS: Final = 7
"""Columns of `JudgedScores.sums_RS`: true and false positives; tokens with the concept and without;
the influences of these on AUROC; of all on average precision."""


@dataclass(frozen=True)
class Scores:
    """Scores of tokens.

    Attributes:
        token_n: the tokens that have one of their own, each once.
        score_n: theirs.
        base: the score of all others.
    """

    token_n: Int[np.ndarray, " n"]
    score_n: Float[np.ndarray, " n"]
    base: float


@dataclass(frozen=True)
class JudgedScores:
    """What scores are worth.

    Attributes:
        sums_RS: by document; columns `SUMS`.
        auroc, precision: of all documents; NaN where a token with the concept, or without it, is
            lacking.
    """

    sums_RS: Float[np.ndarray, "R S"]
    auroc: float
    precision: float


def judge(
    scores: Scores,
    threshold: float,
    stands_N: Bool[np.ndarray, " N"],
    row_N: Int[np.ndarray, " N"],
    documents: int,
) -> JudgedScores:
    """Judge scores of N tokens, of which `stands_N` have the concept."""
    sums_RS = np.zeros((documents, SUMS))
    sums_RS[:, POSITIVE] = np.bincount(row_N[stands_N], minlength=documents)
    sums_RS[:, NEGATIVE] = np.bincount(row_N, minlength=documents) - sums_RS[:, POSITIVE]
    y_n, row_n = stands_N[scores.token_n], row_N[scores.token_n]
    above_n = scores.score_n > threshold
    if scores.base > threshold:  # then all without a score are said to have the concept
        for column, of_n, whole in ((HIT, y_n, POSITIVE), (FALSE, ~y_n, NEGATIVE)):
            below = np.bincount(row_n[of_n & ~above_n], minlength=documents)
            sums_RS[:, column] = sums_RS[:, whole] - below
    else:
        for column, of_n in ((HIT, y_n), (FALSE, ~y_n)):
            sums_RS[:, column] = np.bincount(row_n[of_n & above_n], minlength=documents)
    auroc, precision = _ranked(scores, y_n, row_n, sums_RS)
    return JudgedScores(sums_RS, auroc, precision)


def _ranked(
    scores: Scores, y_n: np.ndarray, row_n: np.ndarray, sums_RS: np.ndarray
) -> tuple[float, float]:
    """AUROC and average precision, whose influences are written into the sums."""
    p, n = sums_RS[:, POSITIVE].sum(), sums_RS[:, NEGATIVE].sum()
    if not p or not n:
        return float("nan"), float("nan")
    level_L, at = np.unique(np.append(scores.score_n, scores.base), return_inverse=True)
    at_n, rest = at[:-1], at[-1]
    pos_L = np.bincount(at_n[y_n], minlength=len(level_L)).astype(float)
    neg_L = np.bincount(at_n[~y_n], minlength=len(level_L)).astype(float)
    pos_L[rest] += p - y_n.sum()
    neg_L[rest] += n - (~y_n).sum()
    wins_L = (neg_L.cumsum() - neg_L / 2) / n
    losses_L = (p - pos_L.cumsum() + pos_L / 2) / p
    auroc = float(pos_L @ wins_L) / p
    hits_L = pos_L[::-1].cumsum()[::-1]
    all_L = (pos_L + neg_L)[::-1].cumsum()[::-1]
    all_L = np.maximum(all_L, 1)  # the last level may hold no token
    precision_L = hits_L / all_L
    average = float(pos_L @ precision_L) / p
    share_L = (pos_L / all_L).cumsum()
    lost_L = (pos_L * precision_L / all_L).cumsum()

    def by_document(of_n: np.ndarray, value_L: np.ndarray, whole: int) -> np.ndarray:
        own_n = value_L[at_n[of_n]] - value_L[rest]
        summed = np.bincount(row_n[of_n], own_n, minlength=len(sums_RS))
        return np.asarray(summed + sums_RS[:, whole] * value_L[rest])

    sums_RS[:, ABOVE] = by_document(y_n, wins_L - auroc, POSITIVE)
    sums_RS[:, BELOW] = by_document(~y_n, losses_L - auroc, NEGATIVE)
    sums_RS[:, PRECISION] = by_document(
        y_n, precision_L - average + share_L - lost_L, POSITIVE
    ) + by_document(~y_n, -lost_L, NEGATIVE)
    return auroc, average


def best_threshold(scores: Scores, stands_N: Bool[np.ndarray, " N"]) -> tuple[float, float]:
    """The threshold of the largest F1, midway between two scores, and that F1.

    Args:
        stands_N: of all tokens, also those without a score of their own.
    """
    positive = int(stands_N.sum())
    y_n = stands_N[scores.token_n]
    score = np.append(scores.score_n, scores.base)
    hits = np.append(y_n, positive - y_n.sum()).astype(float)
    count = np.append(np.ones(len(y_n)), len(stands_N) - len(y_n))
    order = np.argsort(-score, kind="stable")
    score = score[order]
    f1 = 2 * hits[order].cumsum() / (count[order].cumsum() + positive)
    last = np.append(score[1:] != score[:-1], True)
    at = int(np.where(last, f1, -1).argmax())
    below = score[at + 1] if at + 1 < len(score) else score[at] - 1
    return float((score[at] + below) / 2), float(f1[at])
