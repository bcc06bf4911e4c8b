"""What a program can ask of a token: its text, what lies before it, its place, its concepts.

Shapes: N tokens, Q columns (a question has one, or one per token that it looks at), C cells (a
question's possible answers, those of all questions numbered through), R documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_matrix

from saeworks.errors import shown
from saeworks.measure.held_out import HeldOut
from saeworks.measure.known import Truth
from saeworks.results.tokens import legible

NEAR = 8
"""Tokens before a token among which another one may lie."""
_STARTS = (0, 1, 2, 4, 8, 16, 32, 64)
"""Places in a document at which the cells of places begin."""
_NONE = -1


@dataclass(frozen=True)
class Question:
    """One thing that is asked of a token.

    Attributes:
        phrase: with {} for the accepted answers.
        columns, cells: where its answers are.
        several: whether a token may have several answers at once.
        ordered: whether the answers are places, which are named by their ranges.
    """

    phrase: str
    columns: slice
    cells: slice
    several: bool = False
    ordered: bool = False


@dataclass(frozen=True)
class Predicates:
    """The answers of every token.

    Attributes:
        codes: int32 [N, Q], the cell of each answer; C where there is none.
        labels: of each cell, made when it is asked for.
    """

    questions: tuple[Question, ...]
    codes: Int[np.ndarray, "N Q"]
    cells: int
    label: Callable[[int], str]

    def at(self, rows: Int[np.ndarray, " n"]) -> "Predicates":
        """Those of some tokens."""
        return Predicates(self.questions, self.codes[rows], self.cells, self.label)

    def counts(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " C"]:
        """Tokens among these rows that have each answer."""
        counts: Int[np.ndarray, " C"] = np.bincount(
            self.codes[rows].ravel(), minlength=self.cells + 1
        )[: self.cells]
        return counts

    @cached_property
    def total(self) -> Int[np.ndarray, " C"]:
        """Tokens that have each answer."""
        return self.counts(np.arange(len(self.codes)))

    @cached_property
    def question_C(self) -> Int[np.ndarray, " C"]:
        """The question of each cell."""
        sizes = [question.cells.stop - question.cells.start for question in self.questions]
        return np.repeat(np.arange(len(sizes)), sizes)

    @cached_property
    def _index(self) -> csr_matrix:
        """The rows of each cell."""
        row, column = np.nonzero(self.codes < self.cells)
        cell = self.codes[row, column]
        order = np.argsort(cell, kind="stable")
        ends = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=self.cells))])
        shape = (self.cells, len(self.codes))
        return csr_matrix((np.ones(len(row), np.int8), row[order], ends), shape=shape)

    def rows(self, cells: Sequence[int]) -> Int[np.ndarray, " n"]:
        """The tokens that have one of these answers, in order."""
        index = self._index
        parts = [index.indices[index.indptr[cell] : index.indptr[cell + 1]] for cell in cells]
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)

    def named(self, question: Question, cells: Sequence[int]) -> str:
        """The question with these answers, in words."""
        if question.ordered:
            return question.phrase.format(_places([cell - question.cells.start for cell in cells]))
        labels = [self.label(cell) for cell in cells]
        return question.phrase.format(either(labels))


def either(labels: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)


def predicates(
    held_out: HeldOut, piece: Callable[[int], str], truth: Truth | None = None
) -> Predicates:
    """The predicates of the kept tokens. What lies before a token lies in its document and
    sequence, whether it is kept or not.

    Args:
        piece: the text of a token.
        truth: the concepts of the kept tokens.
    """
    made = _Columns(piece)
    tokens_NT, row_NT = held_out.tokens_NT.numpy(), held_out.row_NT.numpy()
    keep_NT = held_out.keep_NT.numpy()
    before = [_shifted(tokens_NT, row_NT, steps)[keep_NT] for steps in range(NEAR + 1)]
    made.tokens("on {}", before[0][:, None])
    made.tokens("after {}", before[1][:, None])
    made.tokens("two tokens after {}", before[2][:, None])
    near = np.stack(before[1:], axis=1)
    made.tokens(f"with {{}} among the {NEAR} tokens before", _distinct(near), several=True)
    made.places("at {} of its document", _rank(held_out)[keep_NT])
    if truth is not None:
        made.concepts("where {} is {{}}", truth)
        made.concepts("after a token whose {} is {{}}", truth, _previous(held_out))
    return made.all()


class _Columns:
    """Columns of answers, put side by side."""

    def __init__(self, piece: Callable[[int], str]) -> None:
        self._piece = piece
        self._questions: list[Question] = []
        self._codes: list[np.ndarray] = []
        self._labels: list[Callable[[int], str]] = []
        self._starts: list[int] = [0]

    def tokens(self, phrase: str, token_NK: np.ndarray, several: bool = False) -> None:
        """Answers that are tokens; −1 where there is none: the document begins."""
        known, codes = np.unique(token_NK, return_inverse=True)
        codes = codes.reshape(token_NK.shape)
        if several and known[0] == _NONE:  # that something is lacking is no answer
            known, codes = known[1:], codes - 1

        def label(cell: int) -> str:
            token = int(known[cell])
            return quoted(self._piece(token)) if token >= 0 else "the beginning"

        self._add(phrase, codes, len(known), label, several)

    def places(self, phrase: str, rank_N: np.ndarray) -> None:
        """Answers that are places in the document."""
        codes = np.searchsorted(_STARTS, rank_N, side="right") - 1
        self._add(phrase, codes[:, None], len(_STARTS), str, ordered=True)

    def concepts(self, phrase: str, truth: Truth, of: np.ndarray | None = None) -> None:
        """A question for each concept, whose answers are its values.

        Args:
            of: the token whose concepts are meant, −1 for none; the token itself by default.
        """
        stands = truth.stands.tocsc()
        names = list(dict.fromkeys(name for name, _ in truth.concepts))
        for name in names:
            columns = [at for at, (own, _) in enumerate(truth.concepts) if own == name]
            values = [truth.concepts[at][1] for at in columns]
            several = bool((stands[:, columns].sum(axis=1) > 1).any())
            for group in (
                [[at] for at in range(len(columns))] if several else [[*range(len(columns))]]
            ):
                codes = np.full(stands.shape[0] + 1, _NONE)
                for value, at in enumerate(group):
                    start, end = stands.indptr[columns[at]], stands.indptr[columns[at] + 1]
                    codes[stands.indices[start:end]] = value
                codes_N = codes[:-1] if of is None else codes[of]
                named = [shown(values[at]) for at in group]
                self._add(
                    phrase.format(shown(name)), codes_N[:, None], len(named), named.__getitem__
                )

    def _add(
        self,
        phrase: str,
        codes: np.ndarray,
        cells: int,
        label: Callable[[int], str],
        several: bool = False,
        ordered: bool = False,
    ) -> None:
        """Args: codes: the answer's number from 0, −1 for none."""
        start, first = self._starts[-1], sum(part.shape[1] for part in self._codes)
        columns = slice(first, first + codes.shape[1])
        cell = slice(start, start + cells)
        self._questions.append(Question(phrase, columns, cell, several, ordered))
        self._codes.append(np.where(codes < 0, _NONE, codes + start).astype(np.int32))
        self._labels.append(label)
        self._starts.append(start + cells)

    def all(self) -> Predicates:
        """Everything that was put in."""
        codes = np.concatenate(self._codes, axis=1)
        cells, starts, labels = self._starts[-1], np.array(self._starts), self._labels
        codes[codes == _NONE] = cells  # their own, which is never counted

        def label(cell: int) -> str:
            part = int(np.searchsorted(starts, cell, side="right")) - 1
            return labels[part](cell - int(starts[part]))

        return Predicates(tuple(self._questions), codes, cells, label)


def _shifted(tokens_NT: np.ndarray, row_NT: np.ndarray, steps: int) -> np.ndarray:
    """The token so many steps before in the same document and sequence; −1 where there is none."""
    if not steps:
        return tokens_NT
    out = np.full_like(tokens_NT, _NONE)
    same = row_NT[:, steps:] == row_NT[:, :-steps]
    out[:, steps:] = np.where(same, tokens_NT[:, :-steps], _NONE)
    return out


def _distinct(token_NK: np.ndarray) -> np.ndarray:
    """Each token once in its row, −1 in the place of its repetitions."""
    ordered = np.sort(token_NK, axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = _NONE
    return ordered


def _rank(held_out: HeldOut) -> np.ndarray:
    """Each token's place in what is there of its document."""
    row_X = held_out.row_NT.flatten().numpy()
    order = row_X.argsort(kind="stable")
    start = np.searchsorted(row_X[order], np.arange(-1, held_out.rows))
    rank_X = np.empty(len(row_X), np.int64)
    rank_X[order] = np.arange(len(row_X)) - start[row_X[order] + 1]
    return rank_X.reshape(held_out.row_NT.shape)


def _previous(held_out: HeldOut) -> Int[np.ndarray, " N"]:
    """The kept token right before each kept one in its document and sequence; −1 for none."""
    keep_NT, row_NT = held_out.keep_NT.numpy(), held_out.row_NT.numpy()
    number_NT = np.where(keep_NT, keep_NT.cumsum().reshape(keep_NT.shape) - 1, _NONE)
    return np.asarray(_shifted(number_NT, row_NT, 1)[keep_NT])


def _places(buckets: Sequence[int]) -> str:
    """`token 0`, `tokens 2–7`, `tokens 0, 4–7 or 64 and later`, counted from 0."""
    ranges: list[list[int]] = []
    for bucket in sorted(buckets):
        if ranges and ranges[-1][1] == bucket - 1:
            ranges[-1][1] = bucket
        else:
            ranges.append([bucket, bucket])
    named = []
    for first, last in ranges:
        start = _STARTS[first]
        if last + 1 == len(_STARTS):
            named.append(f"{start} and later")
        else:
            end = _STARTS[last + 1] - 1
            named.append(str(start) if start == end else f"{start}–{end}")
    one = len(named) == 1 and named[0].isdigit()
    return ("token " if one else "tokens ") + either(named)


def quoted(piece: str) -> str:
    """A token's text in quotation marks, fit to be read."""
    return f"‘{legible(piece)}’"
