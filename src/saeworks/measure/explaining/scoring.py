"""Scores of what says where a latent fires.

Shapes: N tokens, D as in `bootstrap`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

Sums = Mapping[str, np.ndarray]
"""`hits`: tokens on which the latent fires and is predicted; `predicted`; `fired`; `n`: all [D]."""


def f1(s: Sums) -> np.ndarray:
    """2·hits / (predicted + fired)."""
    return np.asarray(2 * s["hits"] / (s["predicted"] + s["fired"]))


def balanced(s: Sums) -> np.ndarray:
    """½ (hits / fired + rightly not predicted / not fired)."""
    wrong = s["predicted"] - s["hits"]
    return np.asarray((s["hits"] / s["fired"] + 1 - wrong / (s["n"] - s["fired"])) / 2)


def auroc(score_N: Float[np.ndarray, " N"], fires_N: Bool[np.ndarray, " N"]) -> float:
    """The chance that a token with the latent scores above one without, ties by half; NaN where one
    of the two is lacking."""
    levels, at = np.unique(score_N, return_inverse=True)
    fired = np.bincount(at[fires_N], minlength=len(levels)).astype(np.float64)
    other = np.bincount(at[~fires_N], minlength=len(levels)).astype(np.float64)
    pairs = fired.sum() * other.sum()
    below = np.cumsum(other) - other / 2
    return float((fired * below).sum() / pairs) if pairs else float("nan")


Answers = Sequence[tuple[bool, bool]]
"""Of contexts: what is so, and what was said."""


def accuracy(answers: Answers) -> float:
    """Balanced accuracy: the mean of the shares of right answers where it is so and where it is
    not; NaN where one of the two is lacking."""
    so = [said for is_so, said in answers if is_so]
    not_so = [not said for is_so, said in answers if not is_so]
    if not so or not not_so:
        return float("nan")
    return (sum(so) / len(so) + sum(not_so) / len(not_so)) / 2
