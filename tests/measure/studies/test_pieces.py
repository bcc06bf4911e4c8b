from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from saeworks.measure.studies.pieces import Pieces

TEXT = "Once upon a time “Lily” saw a café 🎉.\nShe said hi."


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["Once upon a time she said hi. a time a time"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def word_level() -> PreTrainedTokenizerFast:
    words = ["<bos>", "a", "dog", "ran", ",", "."]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>")


def metaspace() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(
        models.Unigram([("▁a", -1.0), ("▁dog", -2.0), ("s", -3.0), ("<x>", -9.0)], 3)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_byte_level_puts_cut_characters_together() -> None:
    tokenizer = byte_level()
    shown = Pieces(tokenizer).window(tokenizer.encode(TEXT))
    assert "".join(piece for piece in shown if piece != "◌") == TEXT
    assert "�" not in "".join(shown)
    assert shown.count("◌") == 2 + 2 + 1 + 3  # two quotation marks, é, the emoji


def test_window_that_begins_inside_a_character() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("🎉 a")
    assert Pieces(tokenizer).window(ids[2:])[:2] == ["◌", "◌"]


def test_word_level_has_spaces() -> None:
    assert Pieces(word_level()).window([0, 1, 2, 3]) == [" <bos>", " a", " dog", " ran"]


def test_metaspace_has_spaces() -> None:
    tokenizer = metaspace()
    assert Pieces(tokenizer).window([0, 1, 2]) == [" a", " dog", "s"]


@pytest.mark.real
@pytest.mark.parametrize("model", ["stories260K", "tinystories-656K", "tinystories-neox-6L256"])
def test_real_tokenizers_give_the_text_back(real_data: Path, model: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_data / model, local_files_only=True)
    plain = "One day, Tim didn't see the dog.\nHe said hi."
    ids = tokenizer.encode(plain, add_special_tokens=False)
    assert "".join(Pieces(tokenizer).window(ids)).strip() == plain
