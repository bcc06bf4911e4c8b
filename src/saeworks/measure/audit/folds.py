"""Documents into folds: whole documents, never tokens of one document on two sides."""

import numpy as np
from numpy.typing import NDArray

from saeworks.errors import UserError

FIT, SECOND, TEST = 0, 1, 2
SHARES = (0.5, 0.25, 0.25)
"""The share of the tokens in each fold, in the order of the folds."""
PER_PARAMETER = 2
"""Tokens a fold must have for every parameter of a map that is fitted on it."""


def assign(tokens_R: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold of each document [R], from its number of tokens.

    Documents are put in a random order and cut where the shares of the tokens are reached, each
    fold getting at least one. Documents without tokens are in no fold (−1). Where there are two
    documents, there is no second fold: what is fitted on it is fitted on the first.

    Raises:
        UserError: if fewer than two documents have tokens.
    """
    present = np.flatnonzero(tokens_R > 0)
    if len(present) < 2:
        raise UserError(
            f"the audit was given {len(present)} document(s) with tokens; it fits on some "
            "documents and measures on others, so give at least 2, better 100"
        )
    order = np.random.default_rng(seed).permutation(present)
    ends = np.cumsum(tokens_R[order])
    middle = (ends - tokens_R[order] / 2) / ends[-1]
    folds: NDArray[np.int64] = np.searchsorted(np.cumsum(SHARES)[:-1], middle, side="right")
    if len(order) == 2:
        folds = np.array([FIT, TEST])
    else:
        folds[0], folds[-1] = FIT, TEST
        if SECOND not in folds:
            first_test = int(np.argmax(folds == TEST))
            folds[first_test if first_test < len(folds) - 1 else first_test - 1] = SECOND
    fold_R = np.full(len(tokens_R), -1)
    fold_R[order] = folds
    return fold_R


def phases(folds_R: NDArray[np.int64]) -> tuple[int, int, int]:
    """The fold whose documents each phase runs over."""
    return FIT, SECOND if SECOND in folds_R else FIT, TEST


def check_size(tokens_R: NDArray[np.int64], folds_R: NDArray[np.int64], d: int, where: str) -> None:
    """Refuse folds in which least squares on D + 1 parameters would be ill-posed.

    Raises:
        UserError: saying how many tokens are needed.
    """
    needed = PER_PARAMETER * (d + 1)
    fit, second, _ = phases(folds_R)
    for fold in (fit, second):
        have = int(tokens_R[folds_R == fold].sum())
        if have < needed:
            least = int(np.ceil(needed / min(SHARES)))
            raise UserError(
                f"{where}: {have} tokens to fit {d + 1} parameters per output on, of "
                f"{int(tokens_R.sum())} in all; a well-posed fit needs {needed}, so audit at least "
                f"{least} tokens (in documents of similar length)"
            )
