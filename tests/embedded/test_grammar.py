"""The grammar: determinism, labels, the hold-out, the tokenizer's view of it."""

import re
from collections import Counter
from itertools import islice

import pytest

from saeworks.embedded import (
    CONCEPTS,
    MODEL_DIR,
    TASKS,
    documents,
    task_prompts,
)
from saeworks.embedded import lexicon as lx
from saeworks.embedded.chance import (
    HELD_OUT_SHARE,
    is_held_out_agreement,
    is_held_out_gift,
    is_held_out_years,
)
from saeworks.errors import UserError

VALUES = {concept.name: set(concept.values) for concept in CONCEPTS}


@pytest.fixture(scope="module")
def some_documents():
    return list(documents(11, 2_000))


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL_DIR)


def test_a_document_depends_on_its_seed_and_index_alone():
    assert list(documents(5, 30))[10:] == list(documents(5, 20, start=10))
    assert list(islice(documents(5), 30)) == list(documents(5, 30))
    assert list(documents(6, 30)) != list(documents(5, 30))


def test_documents_are_varied_and_of_every_domain(some_documents):
    assert len({d.text for d in some_documents}) == len(some_documents)
    domains = Counter(d.concepts[0]["domain"] for d in some_documents)
    assert set(domains) == VALUES["domain"]
    assert min(domains.values()) > 0.07 * len(some_documents)


def test_the_concepts_are_the_declared_ones_and_all_occur(some_documents):
    seen: dict[str, set[str]] = {name: set() for name in VALUES}
    for document in some_documents:
        assert len(document.tokens) == len(document.concepts)
        for labels in document.concepts:
            assert {"domain", "quote_depth", "part_of_speech"} <= labels.keys()
            for name, value in labels.items():
                seen[name].add(value)
    assert seen == VALUES


def test_quote_depth_follows_the_marks(some_documents):
    for document in some_documents:
        inside: list[str] = []
        for token, depth in zip(document.tokens, document.column("quote_depth"), strict=True):
            mark = token.strip()
            if mark in {'"', "'"} and not (inside and inside[-1] == mark):
                inside.append(mark)
                assert depth == str(len(inside))
            elif mark in {'"', "'"}:
                assert depth == str(len(inside))
                inside.pop()
            else:
                assert depth == str(len(inside))
        assert not inside


def test_number_labels_match_the_words(some_documents):
    singular = {entry[0] for entry in lx.NOUNS} | {"is", "looks", "seems", "has", "appears"}
    plural = {entry[1] for entry in lx.NOUNS} | {"are", "seem", "have", "appear"}
    checked = 0
    for document in some_documents:
        for token, labels in zip(document.tokens, document.concepts, strict=True):
            if "lemma" in labels or labels.get("role") == "agreeing_verb":
                number = labels["number"]
                assert token.strip() not in (plural if number == "singular" else singular)
                checked += 1
    assert checked > 3_000


def test_years_are_two_labelled_tokens(some_documents):
    for document in some_documents:
        pairs = list(zip(document.tokens, document.concepts, strict=True))
        for index, (token, labels) in enumerate(pairs):
            if labels.get("year_part") == "century":
                low, low_labels = pairs[index + 1]
                assert token.strip() == labels["century"] == low_labels["century"]
                assert low_labels["year_part"] == "low"
                assert re.fullmatch(r"\d\d", low)
                assert low_labels["year_quarter"] == str(int(low) // 25 + 1)


def _gifts(document):
    """(roles of one gift sentence), read off the labels."""
    roles = {}
    for token, labels in zip(document.tokens, document.concepts, strict=True):
        if labels["domain"] == "story" and "role" in labels:
            roles[labels["role"]] = token.strip()
            if labels["role"] == "recipient":
                yield roles
                roles = {}


def test_gift_sentences_name_the_other_person(some_documents):
    gifts = [gift for document in some_documents for gift in _gifts(document)]
    assert len(gifts) > 500
    for gift in gifts:
        assert gift["recipient"] == gift["indirect_object"] != gift["subject"]
        assert gift["second_mention"] == gift["subject"]


def test_held_out_combinations_never_occur(some_documents):
    gifts = years = agreements = 0
    for document in some_documents:
        for gift in _gifts(document):
            people = gift["subject"], gift["indirect_object"]
            assert not is_held_out_gift(*people, gift["object"], gift["place"])
            gifts += 1
        low: dict[str, int] = {}
        words = {}
        for token, labels in zip(document.tokens, document.concepts, strict=True):
            if labels.get("year_part") == "low" and "year_order" in labels:
                low[labels["year_order"]] = int(token)
                if labels["year_order"] == "end":
                    assert low["start"] < low["end"]
                    century = int(labels["century"])
                    assert not is_held_out_years(century, low["start"], low["end"])
                    years += 1
            if labels.get("role") in {"head", "attractor"}:
                words[labels["role"]] = labels["lemma"]
            if labels.get("role") == "agreeing_verb":
                combination = words["head"], words["attractor"], labels["verb_lemma"]
                assert not is_held_out_agreement(*combination)
                agreements += 1
    assert min(gifts, years, agreements) > 500


def test_a_tenth_of_the_combinations_is_held_out():
    held = [is_held_out_years(c, s, e) for c in range(11, 20) for s in range(90) for e in range(99)]
    assert abs(sum(held) / len(held) - 1 / HELD_OUT_SHARE) < 0.01
    assert is_held_out_gift("Mary", "John", "ring", "bank") == is_held_out_gift(
        "John", "Mary", "ring", "bank"
    )


def test_the_tokenizer_sees_exactly_the_labelled_tokens(some_documents, tokenizer):
    ids = tokenizer([d.text for d in some_documents])["input_ids"]
    for document, row in zip(some_documents, ids, strict=True):
        assert row[0] == tokenizer.bos_token_id
        assert tuple(tokenizer.convert_ids_to_tokens(row[1:])) == document.tokens
        assert tokenizer.unk_token_id not in row
        assert "".join(document.tokens) == document.text
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == some_documents[0].text


def test_the_tokenizer_takes_any_text(tokenizer):
    text = "Zounds! naïve\tcafé — 12345 x² <html>\r\n\n  日本 'quoted' e_mail"
    encoded = tokenizer(text, return_offsets_mapping=True)
    spans = encoded["offset_mapping"][1:]
    assert "".join(text[start:end] for start, end in spans) == text
    assert tokenizer.unk_token_id in encoded["input_ids"]
    assert tokenizer("")["input_ids"] == [tokenizer.bos_token_id]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("held_out", [True, False])
def test_prompts_are_aligned_and_their_answers_single_tokens(task, held_out, tokenizer):
    prompts = task_prompts(task, 300, seed=3, held_out=held_out)
    assert prompts == task_prompts(task, 300, seed=3, held_out=held_out)
    assert prompts != task_prompts(task, 300, seed=4, held_out=held_out)
    lengths: dict[str, int] = {}
    for prompt in prompts:
        rows = tokenizer([prompt.clean_prefix, prompt.patch_prefix])["input_ids"]
        assert len(rows[0]) == len(rows[1]) == lengths.setdefault(prompt.case, len(rows[0]))
        assert rows[0] != rows[1]
        assert tokenizer.unk_token_id not in rows[0] + rows[1]
        assert prompt.clean_answer in prompt.valid_answers
        assert prompt.patch_answer not in prompt.valid_answers
        for answer in (prompt.clean_answer, prompt.patch_answer):
            whole = tokenizer(prompt.clean_prefix + answer)["input_ids"]
            assert whole == [*rows[0], tokenizer.convert_tokens_to_ids(answer)]


def test_prompts_rest_on_held_out_years_when_asked():
    for held_out in (True, False):
        for prompt in task_prompts("greater_than", 100, 0, held_out):
            for prefix, answer in (
                (prompt.clean_prefix, prompt.clean_answer),
                (prompt.patch_prefix, prompt.patch_answer),
            ):
                century, start = re.findall(r"\d\d", prefix)[:2]
                assert int(answer) > int(start)
                assert is_held_out_years(int(century), int(start), int(answer)) == held_out


def test_an_unknown_task_lists_the_tasks():
    with pytest.raises(UserError, match="ioi, greater_than, agreement"):
        task_prompts("addition", 1, 0)
