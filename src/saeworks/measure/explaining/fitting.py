"""Fits a program to where a latent fires, by F1 on the tokens of the fitting half.

F1 = 2·TP / (predicted + P), with P the tokens on which the latent fires. For one question, the best
set of answers is exact: an answer belongs to it if its precision is above F1/2 (Dinkelbach 1967).
Rules grow condition by condition, and the list rule by rule, each time by the largest F1, as long
as it gains.

Shapes: N tokens, C cells, Q questions, n rows of a set of tokens.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int

from saeworks.measure.explaining.predicates import Predicates
from saeworks.measure.explaining.program import Literal, Program, Rule, holding

LITERALS = 3
"""Conditions of a rule at most."""
ANSWERS = 16
"""Accepted answers of a condition at most."""
GAIN = 0.02
"""A condition or rule must raise F1 by so much,"""
COST = 0.004
"""and each accepted answer by so much: what a reader must read should say something."""
_BEAM = 3
"""Conditions that a rule is begun with, of which the best end is kept."""
_SUPPORT = 2
"""Tokens that speak for an answer at least,"""
_DOUBT = 0.5
"""and how many of them are not believed."""
_ROUNDS = 20


@dataclass(frozen=True)
class _Counts:
    """What a rule would add to, or take from, what is predicted: tokens with the latent, and all,
    by cell; and what there is without the rule."""

    fired_C: np.ndarray
    all_C: np.ndarray
    hits: int
    predicted: int


@dataclass(frozen=True)
class _Candidate:
    literals: tuple[Literal, ...]
    f1: float

    @property
    def worth(self) -> float:
        """F1 after what its answers cost."""
        return self.f1 - COST * sum(len(literal.cells) for literal in self.literals)


class Fitter:
    """Fits programs on the same tokens.

    Args:
        tokens: of the fitting half.
        only: questions that may be asked; all by default.
    """

    def __init__(self, tokens: Predicates, rules: int, only: Collection[int] | None = None) -> None:
        self.tokens, self.rules = tokens, rules
        self.asked = [q for q in range(len(tokens.questions)) if only is None or q in only]

    def program(self, fired_n: Int[np.ndarray, " n"]) -> Program:
        """The program for a latent that fires on these rows."""
        fires_N = np.zeros(len(self.tokens.codes), bool)
        fires_N[fired_n] = True
        fitted = _Latent(self, fires_N)
        while len(fired_n) and len(fitted.rules) < self.rules and fitted.grow():
            pass
        return fitted.program()


class _Latent:
    """The program of one latent while it grows."""

    def __init__(self, fit: Fitter, fires_N: Bool[np.ndarray, " N"]) -> None:
        self.fit, self.tokens, self.fires_N = fit, fit.tokens, fires_N
        self.positives = int(fires_N.sum())
        self.rules: list[Rule] = []
        self.decided_N = np.zeros(len(fires_N), bool)
        self.predicted_N = np.zeros(len(fires_N), bool)
        self.f1 = 0.0

    def grow(self) -> bool:
        """Add the best rule; False if none gains."""
        best = self._best(fires=True)
        fires = True
        if self.rules:
            never = self._best(fires=False)
            if never.worth > best.worth:
                best, fires = never, False
        if best.worth < self.f1 + GAIN:
            return False
        rows = holding(best.literals, self.tokens)
        if fires:
            self.predicted_N[rows[~self.decided_N[rows]]] = True
            self.rules.append(Rule(best.literals, True))
        else:
            self.predicted_N[rows] = False
            self.rules.insert(0, Rule(best.literals, False))
        self.decided_N[rows] = True
        self.f1 = best.f1
        return True

    def program(self) -> Program:
        """The rules with their chances, (tokens that fire + ½) / (tokens + 1)."""
        number_N = Program(tuple(self.rules)).decided(self.tokens)
        all_L = np.bincount(number_N, minlength=len(self.rules) + 1)
        fired_L = np.bincount(number_N[self.fires_N], minlength=len(self.rules) + 1)
        chance_L = (fired_L + 0.5) / (all_L + 1)
        rules = [
            replace(rule, chance=float(chance_L[number])) for number, rule in enumerate(self.rules)
        ]
        return Program(tuple(rules), float(chance_L[-1]))

    def _best(self, fires: bool) -> _Candidate:
        """The best rule to add that says this."""
        best = _Candidate((), 0.0)
        for candidate in self._extensions((), fires)[:_BEAM]:
            while len(candidate.literals) < LITERALS:
                longer = self._extensions(candidate.literals, fires)[:1]
                if not longer or longer[0].worth < candidate.worth + GAIN:
                    break
                candidate = self._again(longer[0], fires)
            best = max(best, candidate, key=lambda one: one.worth)
        return best

    def _again(self, candidate: _Candidate, fires: bool) -> _Candidate:
        """The same questions, the answers to each chosen anew under the other conditions."""
        for literal in candidate.literals[:-1]:
            rest = tuple(one for one in candidate.literals if one is not literal)
            for other in self._extensions(rest, fires, (literal.question,)):
                candidate = max(candidate, other, key=lambda one: one.worth)
        return candidate

    def _extensions(
        self, literals: tuple[Literal, ...], fires: bool, questions: Collection[int] = ()
    ) -> list[_Candidate]:
        """These conditions and one more, for each question, the best first."""
        counts = self._counts(literals, fires)
        taken = {literal.question for literal in literals}
        asked_Q = np.zeros(len(self.tokens.questions), bool)
        asked_Q[[q for q in questions or self.fit.asked if q not in taken]] = True
        sets = _answers(self.tokens, counts, asked_Q, 1 if fires else -1, self.positives)
        found = [_Candidate((*literals, Literal(q, cells)), f1) for q, cells, f1 in sets]
        return sorted(found, key=lambda one: -one.worth)

    def _counts(self, literals: tuple[Literal, ...], fires: bool) -> _Counts:
        """By cell, of the tokens on which the conditions hold and that the rule would change."""
        hits = int((self.predicted_N & self.fires_N).sum())
        predicted = int(self.predicted_N.sum())
        tokens = self.tokens
        if literals:
            rows = holding(literals, tokens)
            rows = rows[~self.decided_N[rows]] if fires else rows[self.predicted_N[rows]]
            all_C = tokens.counts(rows)
        elif fires:
            all_C = tokens.total - tokens.counts(np.flatnonzero(self.decided_N))
            rows = np.flatnonzero(self.fires_N & ~self.decided_N)
        else:
            rows = np.flatnonzero(self.predicted_N)
            all_C = tokens.counts(rows)
        return _Counts(tokens.counts(rows[self.fires_N[rows]]), all_C, hits, predicted)


def _answers(
    tokens: Predicates, counts: _Counts, asked_Q: Bool[np.ndarray, " Q"], sign: int, positives: int
) -> Iterator[tuple[int, tuple[int, ...], float]]:
    """For each question that gains: the best set of answers to it, and F1 with it.

    Args:
        sign: 1 where these answers are to be predicted, −1 where they are to be so no more.
    """

    def f1(hits: np.ndarray, all_: np.ndarray) -> np.ndarray:
        predicted = counts.predicted + sign * all_ + positives
        return np.asarray(2 * (counts.hits + sign * hits) / predicted)

    speaks_C = counts.fired_C if sign > 0 else counts.all_C - counts.fired_C
    cell = np.flatnonzero((speaks_C >= _SUPPORT) & asked_Q[tokens.question_C])
    question, questions = tokens.question_C[cell], len(asked_Q)
    fired, all_ = counts.fired_C[cell], counts.all_C[cell]
    before = float(f1(np.zeros(1), np.zeros(1))[0])
    best_Q, chosen = np.full(questions, before), np.zeros(len(cell), bool)
    gain, cost = np.zeros(len(cell)), COST / 2 * (counts.predicted + positives)
    for _ in range(_ROUNDS):
        gain_now = sign * (fired - best_Q[question] / 2 * all_) - _DOUBT - cost
        now = gain_now > 0
        sums = (np.bincount(question[now], of[now], questions) for of in (fired, all_))
        f1_Q = f1(*sums)
        better_Q = f1_Q > best_Q
        if not better_Q.any():
            break
        changed = better_Q[question]
        chosen, gain = np.where(changed, now, chosen), np.where(changed, gain_now, gain)
        best_Q = np.where(better_Q, f1_Q, best_Q)
    single = f1(fired, all_)
    for number in np.flatnonzero(best_Q > before):
        at = np.flatnonzero(chosen & (question == number))
        if tokens.questions[number].several:
            at = at[np.argmax(single[at])][None]
        elif len(at) > ANSWERS:
            at = at[np.argsort(-gain[at], kind="stable")[:ANSWERS]]
        of_set = float(f1(fired[at].sum(keepdims=True), all_[at].sum(keepdims=True))[0])
        if of_set > before:
            yield int(number), tuple(cell[at].tolist()), of_set
