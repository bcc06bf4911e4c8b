"""Prompts as ids: one length within a case, answers of one token, what is refused."""

import numpy as np
import pytest
import torch

from saeworks.embedded import TASKS, task_prompts
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.tasks.cases import Prompt, Task, task_of
from saeworks.measure.tasks.choose import task
from saeworks.measure.tasks.skill import differences, skill, skill_of


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel.load("embedded")


GOOD = Prompt(
    "When Mary and John went to the shop, John gave a book to",
    "When Mary and John went to the shop, Mary gave a book to",
    " Mary",
    " John",
    "a",
    "line 1",
)


def changed(**fields: str) -> Prompt:
    return Prompt(**{**vars(GOOD), "where": "line 2", **fields})


@pytest.mark.parametrize("name", TASKS)
def test_the_embedded_tasks_are_their_prompts_in_ids(lm, name):
    drawn = task(name, lm, 100, seed=3)
    assert drawn.name == name and drawn.prompts == 100 and drawn.source == "embedded"
    assert drawn.digest == task(name, lm, 100, seed=3).digest != task(name, lm, 100, 4).digest
    texts = {(p.clean_prefix, p.patch_prefix, p.clean_answer) for p in task_prompts(name, 100, 3)}
    for case in drawn.cases:
        assert case.clean_PT.shape == case.patch_PT.shape
        assert (case.clean_PT[:, 0] == lm.bos_id).all()
        for clean_T, patch_T, answer in zip(
            case.clean_PT, case.patch_PT, case.clean_answer_P, strict=True
        ):
            words = [lm.tokenizer.decode(ids) for ids in (clean_T[1:], patch_T[1:], [answer])]
            assert tuple(words) in texts
    assert [case.name for case in drawn.cases] == sorted(case.name for case in drawn.cases)


def test_the_difference_is_of_the_logits_of_the_two_answers(lm):
    drawn = task_of("t", [GOOD], lm, "test")
    (case,) = drawn.cases
    logits_PV = torch.randn(1, lm.vocabulary)
    ids = [lm.tokenizer.convert_tokens_to_ids(word) for word in (" Mary", " John")]
    expected = logits_PV[0, ids[0]] - logits_PV[0, ids[1]]
    assert Task.difference(logits_PV, case).item() == expected.item()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (changed(clean_answer=" Mary and"), "line 2: the answer ' Mary and' is no single token"),
        (changed(clean_answer=" Zebulon"), "line 2: the answer ' Zebulon' is no single token"),
        (
            changed(patch_prefix="When John gave a book to"),
            "line 2: clean_prefix has 15 tokens and",
        ),
        (changed(patch_answer=" Mary"), "line 2: both answers are ' Mary'"),
        (changed(clean_prefix="Zebulon gave a book to"), "has words that the tokenizer of emb"),
        (changed(clean_prefix="a" + " a" * 200), "a prefix has .* takes 128; shorten it"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_with_its_place(lm, prompt, message):
    with pytest.raises(UserError, match=message):
        task_of("t", [GOOD, prompt], lm, "test")


def test_a_task_without_prompts_or_of_an_unknown_name_is_refused(lm):
    with pytest.raises(UserError, match="test has no prompts"):
        task_of("t", [], lm, "test")
    with pytest.raises(UserError, match="no task 'addition': it is none of ioi"):
        task("addition", lm, 10, 0)
    with pytest.raises(UserError, match="prompts = 0: at least 1"):
        task("ioi", lm, 0, 0)


def test_the_embedded_model_has_the_skill_and_the_numbers_are_of_its_logits(lm):
    drawn = task("ioi", lm, 60, 0)
    m_P = differences(lm, drawn)
    case = drawn.cases[0]
    with torch.no_grad():
        logits_PV = lm.run(case.clean_PT, logits=True)[:, -1]
    np.testing.assert_allclose(m_P[: len(case)], Task.difference(logits_PV, case), rtol=1e-5)
    measured = skill(lm, drawn)
    assert measured.prompts == 60 and measured.right.value == (m_P > 0).mean() > 0.95
    mean = measured.mean
    assert mean.value and mean.low and mean.high and mean.low < mean.value < mean.high


def test_skill_of_known_differences():
    measured = skill_of(np.array([1.0, -1.0, 2.0, 2.0]))
    assert (measured.right.value, measured.mean.value) == (0.75, 1.0)
    assert measured.record["right"] == {"value": 0.75, "low": None, "high": None}
