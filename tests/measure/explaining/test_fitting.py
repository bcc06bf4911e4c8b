"""Programs against rules that were planted, and their scores against plain arithmetic."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from helpers.toys import held_out
from saeworks.measure.explaining.fitting import ANSWERS, LITERALS, Fitter
from saeworks.measure.explaining.predicates import Predicates, predicates
from saeworks.measure.explaining.program import Literal, Program, Rule
from saeworks.measure.explaining.scoring import accuracy, auroc, balanced, f1
from saeworks.measure.held_out import HeldOut
from saeworks.measure.known import Truth


@pytest.fixture(scope="module")
def sample() -> HeldOut:
    return held_out(sequences=1800, documents=3000)


@pytest.fixture(scope="module")
def truth(sample: HeldOut) -> Truth:
    """Tokens below 16 are low, of which every other one is even."""
    token_N = sample.tokens_NT[sample.keep_NT].numpy()
    columns = [token_N < 16, token_N >= 48, (token_N < 16) & (token_N % 2 == 0)]
    names = (("height", "low"), ("height", "high"), ("kind", "even"))
    return Truth(names, csr_matrix(np.stack(columns, axis=1).astype(np.int32)))


@pytest.fixture(scope="module")
def tokens(sample: HeldOut, truth: Truth) -> Predicates:
    return predicates(sample, lambda token: f" w{token}", truth)


def kept(sample: HeldOut) -> np.ndarray:
    return sample.tokens_NT[sample.keep_NT].numpy()


def before(sample: HeldOut, steps: int = 1) -> np.ndarray:
    """The token so many places before each kept one; −1 across a border, the plain way."""
    out = []
    for sequence, position in sample.keep_NT.nonzero().tolist():
        at = position - steps
        row_T = sample.row_NT[sequence]
        same = at >= 0 and row_T[at] == row_T[position]
        out.append(int(sample.tokens_NT[sequence, at]) if same else -1)
    return np.array(out)


PLANTED = {
    "Fires on ‘ w5’.": lambda t, p, _: t == 5,
    "Fires on ‘ w5’ or ‘ w9’ after ‘ w7’ or ‘ w8’.": lambda t, p, _: (
        np.isin(t, (5, 9)) & np.isin(p, (7, 8))
    ),
    "Fires on ‘ w50’; but not after a token whose height is low.": lambda t, p, _: (
        (t == 50) & ~((p >= 1) & (p < 16))
    ),
    "Fires two tokens after ‘ w3’.": lambda t, p, pp: pp == 3,
    "Fires after the beginning.": lambda t, p, _: p == -1,
    "Fires where height is low.": lambda t, p, _: t < 16,
    "Fires where height is low or high.": lambda t, p, _: (t < 16) | (t >= 48),
    "Fires after a token whose kind is even.": lambda t, p, _: (p >= 1) & (p < 16) & (p % 2 == 0),
}


@pytest.mark.parametrize("text", PLANTED)
def test_a_planted_rule_is_said_in_its_own_words(
    text: str, sample: HeldOut, tokens: Predicates
) -> None:
    fires_N = PLANTED[text](kept(sample), before(sample), before(sample, 2))
    program = Fitter(tokens, rules=4).program(np.flatnonzero(fires_N))
    assert program.text(tokens) == text
    said_N = program.levels()[0][program.decided(tokens)] > 0
    assert (said_N == fires_N).mean() > 0.999


def test_a_planted_rule_shows_through_noise(sample: HeldOut, tokens: Predicates) -> None:
    rng = np.random.default_rng(0)
    rule_N = (kept(sample) == 5) | (kept(sample) == 6)
    fires_N = rule_N & (rng.random(len(rule_N)) < 0.8) | (rng.random(len(rule_N)) < 0.001)
    program = Fitter(tokens, rules=4).program(np.flatnonzero(fires_N))
    assert program.rules[-1].literals[0] == program.rules[0].literals[0]
    assert program.text(tokens).startswith("Fires on ‘ w5’ or ‘ w6’")
    assert program.rules[-1].chance == pytest.approx(0.8, abs=0.08)


def test_programs_are_bounded_and_the_same_again(sample: HeldOut, tokens: Predicates) -> None:
    fires_N = np.random.default_rng(1).random(len(kept(sample))) < 0.05
    program = Fitter(tokens, rules=3).program(np.flatnonzero(fires_N))
    assert len(program.rules) <= 3
    assert all(len(rule.literals) <= LITERALS for rule in program.rules)
    assert all(len(one.cells) <= ANSWERS for rule in program.rules for one in rule.literals)
    assert program == Fitter(tokens, rules=3).program(np.flatnonzero(fires_N))


def test_a_latent_that_never_fires_has_an_empty_program(tokens: Predicates) -> None:
    program = Fitter(tokens, rules=3).program(np.empty(0, np.int64))
    assert program.rules == ()
    assert program.text(tokens) == "Nothing that a program can ask tells when it fires."
    assert not program.levels()[0][program.decided(tokens)].any()


def test_token_alone_asks_nothing_else(sample: HeldOut, tokens: Predicates) -> None:
    fires_N = (kept(sample) == 5) & (before(sample) == 7)
    program = Fitter(tokens, 1, (0,)).program(np.flatnonzero(fires_N))
    assert program.text(tokens) in ("Fires on ‘ w5’.", Program(()).text(tokens))


def test_what_lies_before_stays_in_its_document_and_sequence(
    sample: HeldOut, tokens: Predicates
) -> None:
    labels = np.array([*map(tokens.label, range(tokens.cells)), "none"])
    previous = labels[tokens.codes[:, tokens.questions[1].columns][:, 0]]
    expected = ["the beginning" if p < 0 else f"‘ w{p}’" for p in before(sample)]
    assert previous.tolist() == expected


def test_the_first_rule_that_holds_decides(sample: HeldOut, tokens: Predicates) -> None:
    cell = int(tokens.codes[0, 0])
    fires, never = (Rule((Literal(0, (cell,)),), says, 0.5) for says in (True, False))
    for rules, number in (((fires, never), 0), ((never, fires), 0)):
        program = Program(rules)
        assert program.decided(tokens)[0] == number
        assert program.levels()[0][program.decided(tokens)][0] == rules[0].fires


def test_scores_against_plain_counts() -> None:
    rng = np.random.default_rng(0)
    fires, says = rng.random(200) < 0.3, rng.random(200) < 0.4
    sums = {
        "hits": np.array([(fires & says).sum()]),
        "predicted": np.array([says.sum()]),
        "fired": np.array([fires.sum()]),
        "n": np.array([200]),
    }
    precision, recall = (fires & says).sum() / says.sum(), (fires & says).sum() / fires.sum()
    specificity = (~fires & ~says).sum() / (~fires).sum()
    assert f1(sums)[0] == pytest.approx(2 * precision * recall / (precision + recall))
    assert balanced(sums)[0] == pytest.approx((recall + specificity) / 2)
    answers = list(zip(fires.tolist(), says.tolist(), strict=True))
    assert accuracy(answers) == pytest.approx((recall + specificity) / 2)
    assert np.isnan(accuracy([(True, True)]))


def test_auroc_counts_pairs() -> None:
    score = np.array([0.1, 0.5, 0.5, 0.9, 0.1, 0.3])
    fires = np.array([False, True, False, True, True, False])
    pairs = [(a > b) + (a == b) / 2 for a in score[fires] for b in score[~fires]]
    assert auroc(score, fires) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(score, np.ones(6, bool)))


def test_concepts_with_several_values_on_a_token_are_asked_one_by_one(sample: HeldOut) -> None:
    count = int(sample.kept)
    both = csr_matrix(np.ones((count, 2), np.int32))
    tokens = predicates(sample, str, Truth((("c", "a"), ("c", "b")), both))
    asked = [q.phrase for q in tokens.questions if "c is" in q.phrase]
    assert asked == ["where c is {}"] * 2 + ["after a token whose c is {}"] * 2


def test_control_characters_in_tokens_are_made_legible(sample: HeldOut) -> None:
    tokens = predicates(sample, lambda token: "\x1b[2J\n")
    fires_N = torch.from_numpy(kept(sample)) == 5
    text = Fitter(tokens, 2).program(fires_N.nonzero()[:, 0].numpy()).text(tokens)
    assert text.isprintable() and "↵" in text
