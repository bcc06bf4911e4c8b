"""One BOS whatever a text begins with, ids and chats, long texts in pieces."""

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from helpers.toy_text import BOS, tokenizer
from saeworks.errors import UserError
from saeworks.lm import tokenise
from saeworks.lm.packing import Packing
from saeworks.lm.tokenise import Tokeniser


def made(bos: str = "document", lm: Any = None, bos_id: int | None = BOS) -> Tokeniser:
    packing = Packing(16, bos, bos_id, 0, True, 0)
    return Tokeniser(lm if lm is not None else tokenizer(), packing, "text 'a'")


def ids(text: Any, **options: Any) -> list[int]:
    return made(**options)([text])[0].tolist()


def chatting(**special: str | list[str]) -> PreTrainedTokenizerFast:
    """Words, with a template that begins with BOS and ends every message with EOS."""
    lm = tokenizer()
    lm.add_special_tokens({"eos_token": "</s>", "pad_token": "<pad>", **special})
    lm.chat_template = (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        " {{ m.content }} {{ eos_token }}{% endfor %}"
    )
    return lm


W1, W2 = 3, 4  # the ids of w1 and w2


@pytest.mark.parametrize(
    ("text", "document", "context", "none"),
    [
        ("w1 w2", [BOS, W1, W2], [W1, W2], [W1, W2]),
        ("<s> w1 w2", [BOS, W1, W2], [W1, W2], [BOS, W1, W2]),
        ("<s> <s> w1", [BOS, W1], [W1], [BOS, BOS, W1]),
        (" \n<s>w1", [BOS, W1], [W1], [BOS, W1]),
        ("w1 <s>", [BOS, W1], [W1], [W1, BOS]),
        ("<s> w1 <s> w2", [BOS, W1, BOS, W2], [W1, BOS, W2], [BOS, W1, BOS, W2]),
        ("w1 <s> <s> w2", [BOS, W1, BOS, W2], [W1, BOS, W2], [W1, BOS, BOS, W2]),
        ("<s>", [], [], [BOS]),
    ],
)
def test_one_bos(text: str, document: list[int], context: list[int], none: list[int]) -> None:
    assert ids(text) == document
    assert ids(text, bos="context") == context
    assert ids(text, bos="none") == none
    as_ids = np.array(none, np.int64)
    assert ids(as_ids) == document


def test_a_bos_among_other_special_tokens_is_the_only_one() -> None:
    lm = chatting(additional_special_tokens=["[gMASK]"])
    mask = lm.convert_tokens_to_ids("[gMASK]")
    assert ids("[gMASK] <s> w1", lm=lm) == [mask, BOS, W1]
    assert ids("[gMASK] <s> w1", lm=lm, bos="context") == [mask, W1]
    assert ids("[gMASK] w1", lm=lm) == [BOS, mask, W1]


def test_an_eos_that_is_also_the_bos_separates_documents_once() -> None:
    lm = tokenizer()
    lm.eos_token = "<s>"
    rows = made(lm=lm)(["w1 <s>", "w2 <s>"])
    assert np.concatenate(rows).tolist() == [BOS, W1, BOS, W2]


def test_a_text_of_a_chat_template_has_the_templates_tokens() -> None:
    lm = chatting()
    chat = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    text = lm.apply_chat_template(chat, tokenize=False)
    expected = lm(text, add_special_tokens=False).input_ids
    assert expected.count(BOS) == 1
    assert ids(chat, lm=lm) == ids(text, lm=lm) == expected


def test_chats_that_cannot_be_written_are_refused() -> None:
    chat = [{"role": "system", "content": "w1"}]
    with pytest.raises(UserError, match=r"no chat template.*text.column"):
        made()([chat])
    with pytest.raises(UserError, match=r"does not take a chat of system….*no system here"):
        made(lm=chatting())([chat])


def test_ids_outside_the_vocabulary_are_refused() -> None:
    size = len(tokenizer())
    for wrong in (-1, size, 2**40):
        with pytest.raises(UserError, match=rf"token id {wrong}, .* ids 0 to {size - 1}"):
            made()([np.array([1, wrong])])


def test_padding_of_ids_is_left_out() -> None:
    lm = chatting()
    pad, eos = lm.pad_token_id, lm.eos_token_id
    assert ids(np.array([pad, pad, BOS, W1, W2, eos, pad]), lm=lm) == [BOS, W1, W2, eos]
    assert ids(np.array([pad, pad]), lm=lm) == []
    lm.pad_token = "</s>"
    assert ids(np.array([W1, W2, eos, eos, eos]), lm=lm) == [BOS, W1, W2, eos]


def merging(split: bool) -> PreTrainedTokenizerFast:
    """Byte-pair encoding of prose; without `split` tokens reach over words, and a text is one."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    if split:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<unk>"], show_progress=False, max_token_length=12
    )
    backend.train_from_iterator([prose(200, seed) for seed in range(20)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")


def prose(words: int, seed: int) -> str:
    random = np.random.default_rng(seed)
    pool = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it's", "“blue”", "12", "étude"]
    joined = zip(random.choice(pool, words), random.choice([" ", " ", ", ", ".\n"], words))
    return "".join(word + after for word, after in joined)


@pytest.mark.parametrize("split", [True, False])
def test_a_long_text_in_pieces_has_the_tokens_of_the_whole(
    split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, text = merging(split), prose(6000, 99)
    (whole,) = made(lm=lm)([text])
    monkeypatch.setattr(tokenise, "OVERLAP", 300)
    for piece in (1000, 4321):
        monkeypatch.setattr(tokenise, "PIECE", piece)
        short, pieces = made(lm=lm)(["the cat", text])
        assert short.tolist() == made(lm=lm)(["the cat"])[0].tolist()
        assert np.array_equal(pieces, whole)


def test_pieces_that_never_agree_lose_no_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "PIECE", 1000)
    monkeypatch.setattr(tokenise, "OVERLAP", 50)
    lm = merging(True)
    text = "the" * 1000
    (row,) = made(lm=lm, bos="none")([text])
    assert str(lm.decode(row)).replace(" ", "") == text


def test_a_tokenizer_that_fails_is_one_line() -> None:
    lm = tokenizer()
    lm.backend_tokenizer.model = models.WordLevel({"<s>": 0, "w1": 1}, unk_token="<none>")
    with pytest.raises(UserError, match="text 'a' cannot be tokenised by the model's tokenizer"):
        made(lm=lm)(["w7"])
