"""Tasks for any tokenizer: those that cut words and years, digits, or spaces in other places."""

import re
from functools import cache

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from saeworks.embedded import TASKS
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.tasks.cases import Case
from saeworks.measure.tasks.choose import task
from saeworks.measure.tasks.words import Vocabulary

SPACE_BEFORE = r" ?[A-Za-z]+| ?\d\d|[.,]| "
SPACE_AFTER = r"[A-Za-z]+ ?|\d\d ?|[.,] ?| "
DIGITS = r" ?[A-Za-z]+|\d|[.,]| "


def lm_that_cuts(pieces: str, known: str, bos: bool) -> LanguageModel:
    """A model whose tokens are the matches of an expression in a text; others are unknown."""
    tokens = dict.fromkeys(["<unk>", "<s>", *re.findall(pieces, known)])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), behavior="isolated")
    special = {"bos_token": "<s>"} if bos else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    return LanguageModel.wrap(LlamaForCausalLM(config), tokenizer, name="tiny")


@cache
def words_of_tasks() -> str:
    """A text with all their words and years, after a space, before one, and alone."""
    texts = re.findall(r'"([^"]+)"', "".join(str(_data(name)).replace("'", '"') for name in TASKS))
    texts += ["He gave a book to", "When and he went", "They went to the", "lasted from the year"]
    texts.append("The boy that the girl is near")  # what words are tried in
    words = sorted({word for text in texts for word in re.findall(r"[A-Za-z]+", text)})
    numbers = [f"{number:02d}" for number in range(100)]
    return "".join(f" {w} {w}, {w}. .{w}." for w in words) + "".join(
        f" {n}{n} {n}" for n in numbers
    )


def _data(name: str) -> object:
    return Vocabulary(name, LanguageModel.load("embedded")).data


@cache
def lm(pieces: str, bos: bool = True) -> LanguageModel:
    return lm_that_cuts(pieces, words_of_tasks(), bos)


def text(model: LanguageModel, ids: object) -> str:
    return "".join(model.tokenizer.convert_ids_to_tokens(ids))


def first(model: LanguageModel, case: Case) -> tuple[str, str, str, str]:
    return (
        text(model, case.clean_PT[0]),
        text(model, case.patch_PT[0]),
        text(model, case.clean_answer_P[:1]),
        text(model, case.patch_answer_P[:1]),
    )


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    ("pieces", "bos"), [(SPACE_BEFORE, True), (SPACE_BEFORE, False), (SPACE_AFTER, True)]
)
def test_every_case_has_one_length_and_no_unknown_token(name, pieces, bos):
    model = lm(pieces, bos)
    drawn = task(name, model, 60, seed=1)
    assert drawn.prompts == 60 and drawn.source == "templates"
    assert drawn.digest == task(name, model, 60, seed=1).digest
    for case in drawn.cases:
        assert case.clean_PT.shape == case.patch_PT.shape
        assert (case.clean_PT[:, 0] == 1).all() == bos
        assert not (case.clean_PT == 0).any() and not (case.patch_PT == 0).any()
        assert (case.clean_PT != case.patch_PT).any(dim=1).all()
        assert (case.clean_answer_P != case.patch_answer_P).all()
        assert "(" not in case.name  # one length for each template


@pytest.mark.parametrize(("pieces", "end", "form"), [(SPACE_BEFORE, "to", r" \w+"),
                                                     (SPACE_AFTER, "to ", r"\w+ ")])  # fmt: skip
def test_the_indirect_object_is_who_does_not_give(pieces, end, form):
    model = lm(pieces, bos=False)
    drawn = task("ioi", model, 50, seed=0)
    assert {case.name[:4] for case in drawn.cases} == {"ABBA", "BABA"}
    for case in drawn.cases:
        clean, patch, clean_answer, patch_answer = first(model, case)
        assert clean.endswith(end) and re.fullmatch(form, clean_answer)
        getter, giver = clean_answer.strip(), patch_answer.strip()
        assert clean.count(giver) == 2 == patch.count(getter)
        assert clean.count(getter) == 1 == patch.count(giver)
        assert (clean.index(getter) < clean.index(giver)) == case.name.startswith("ABBA")


def test_years_end_after_they_begin():
    for pieces, digits in ((SPACE_BEFORE, 2), (DIGITS, 1)):
        model = lm(pieces, bos=False)
        for case in task("greater_than", model, 60, seed=0).cases:
            clean, patch, clean_answer, patch_answer = first(model, case)
            (start, century), (patch_start, patch_century) = (
                (re.findall(r"\d+", prefix)[0], prefix[-2:]) for prefix in (clean, patch)
            )
            assert start[:2] == century == patch_start[:2] == patch_century
            late, early = start[2 : 2 + digits], patch_start[2 : 2 + digits]
            assert early < patch_answer < late < clean_answer
            assert len(clean_answer) == digits


def test_verbs_agree_with_their_subject_in_four_kinds_of_sentences():
    model = lm(SPACE_BEFORE, bos=False)
    drawn = task("agreement", model, 100, seed=0)
    kinds = {case.name.split("-")[0] for case in drawn.cases}
    assert kinds == {"simple", "across_prepositional_phrase", "across_relative_clause",
                     "within_relative_clause"}  # fmt: skip
    data = Vocabulary("agreement", model).data
    singular = {one for one, _ in data["nouns"]} | {one for one, _ in data["transitive_verbs"]}
    singular |= {one for one, _ in data["verbs"]}
    for case in drawn.cases:
        clean, patch, clean_answer, patch_answer = first(model, case)
        changed = [(a, b) for a, b in zip(clean.split(), patch.split(), strict=True) if a != b]
        assert len(changed) == 1  # the subject alone
        is_plural = "plural" in case.name.split("-")[2].split("_")[0]
        assert (changed[0][0] in singular) != is_plural
        assert (clean_answer.strip() in singular) != is_plural
        assert (patch_answer.strip() in singular) == is_plural


def test_words_that_do_not_fit_are_left_out_and_counted():
    known = words_of_tasks().replace("Mary", "Xena").replace("library", "bibl")
    model = lm_that_cuts(SPACE_BEFORE, known, bos=True)
    drawn = task("ioi", model, 20, seed=0)
    assert drawn.left_out == {"names": 1, "locations": 1}
    mary = model.tokenizer.convert_tokens_to_ids(" Mary")
    assert mary == model.tokenizer.unk_token_id


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ioi", "task 'ioi' does not fit the tokens of tiny: 0 of 68 names are single tokens after "
         "'He gave a book to', and it needs 4; choose another task, or give prompts of your own"),
        ("greater_than", "0 of 36 events have a common number of tokens, and it needs 2"),
        ("agreement", "0 of 36 nouns have a common number of tokens, in each number, and it needs"),
    ],
)  # fmt: skip
def test_a_task_that_does_not_fit_the_tokenizer_is_refused_with_the_reason(name, message):
    with pytest.raises(UserError, match=re.escape(message)):
        task(name, lm_that_cuts(SPACE_BEFORE, "nothing of it", bos=True), 10, 0)


def test_years_that_are_cut_otherwise_are_refused():
    pieces = r" ?[A-Za-z]+|\d{1,3}|[.,]| "
    known = words_of_tasks() + " ".join(f"{n:03d} {n}" for n in range(1000))
    with pytest.raises(UserError, match="of no century are 20 years cut into the century and two"):
        task("greater_than", lm_that_cuts(pieces, known, bos=True), 10, 0)


def test_a_small_vocabulary_gives_fewer_prompts_and_none_twice():
    few = "The boy boys girl girls cat cats dog dogs that near behind likes like is are was has In"
    model = lm_that_cuts(
        SPACE_BEFORE, f"{few} in the morning, have a were ".replace(" in", " in"), True
    )
    drawn = task("agreement", model, 600, seed=0)
    rows = [tuple(row) for case in drawn.cases for row in case.clean_PT.tolist()]
    assert 100 < drawn.prompts < 600 and len(rows) == drawn.prompts


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "fitting"),
    [
        ("tinystories-neox-6L256", {"ioi", "greater_than", "agreement"}),
        ("tinystories-656K", {"ioi", "greater_than"}),
        ("stories260K", {"greater_than"}),
    ],
)
def test_real_tokenizers(real_data, folder, fitting):
    model = LanguageModel.load(real_data / folder)
    for name in TASKS:
        if name in fitting:
            assert task(name, model, 20, seed=0).prompts == 20
        else:
            with pytest.raises(UserError, match=f"task '{name}' does not fit the tokens of"):
                task(name, model, 20, seed=0)
