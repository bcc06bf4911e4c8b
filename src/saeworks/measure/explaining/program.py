"""A program that says on which tokens a latent fires: a decision list, which a person can read.

Shapes: N tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from saeworks.measure.explaining.predicates import Predicates


@dataclass(frozen=True)
class Literal:
    """A condition: the token's answer to a question is one of the accepted cells."""

    question: int
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """Where all conditions hold, the latent fires, or does not.

    Attributes:
        chance: share of the tokens decided by this rule on which the latent fired, where it was
            fitted.
    """

    literals: tuple[Literal, ...]
    fires: bool
    chance: float = 0.0


@dataclass(frozen=True)
class Program:
    """The first rule that holds decides; where none does, the latent does not fire.

    Rules that say "does not fire" come first: they are exceptions from the others.
    """

    rules: tuple[Rule, ...]
    chance: float = 0.0
    """Share of firing tokens where no rule holds."""

    def decided(self, tokens: Predicates) -> Int[np.ndarray, " N"]:
        """The number of the rule that decides each token; the number of rules where none does."""
        rule_N = np.full(len(tokens.codes), len(self.rules))
        for number in reversed(range(len(self.rules))):
            rule_N[holding(self.rules[number].literals, tokens)] = number
        return rule_N

    def levels(self) -> tuple[Int[np.ndarray, " L"], Float[np.ndarray, " L"]]:
        """For each rule, and for none: whether it says that the latent fires, and its chance."""
        fires = np.array([*(rule.fires for rule in self.rules), False], np.int64)
        return fires, np.array([*(rule.chance for rule in self.rules), self.chance])

    def text(self, tokens: Predicates) -> str:
        """The program in words."""
        fires = [_clause(rule, tokens) for rule in self.rules if rule.fires]
        never = [_clause(rule, tokens) for rule in self.rules if not rule.fires]
        if not fires:
            return "Nothing that a program can ask tells when it fires."
        return f"Fires {'; or '.join(fires)}" + "".join(f"; but not {one}" for one in never) + "."


def holding(literals: Sequence[Literal], tokens: Predicates) -> Int[np.ndarray, " n"]:
    """The tokens on which all conditions hold, in order."""
    rows = tokens.rows(literals[0].cells)
    for literal in literals[1:]:
        question = tokens.questions[literal.question]
        accepted = np.zeros(tokens.cells + 1, bool)
        accepted[list(literal.cells)] = True
        rows = rows[accepted[tokens.codes[rows, question.columns]].any(axis=1)]
    return rows


def _clause(rule: Rule, tokens: Predicates) -> str:
    """A rule's conditions, that on the token itself first."""
    literals = sorted(rule.literals, key=lambda literal: literal.question)
    parts = [tokens.named(tokens.questions[one.question], one.cells) for one in literals]
    text = parts[0]
    for before, part in pairwise(parts):
        text += (" and " if before.startswith("where") and part.startswith("where") else " ") + part
    return text
