"""The word-level tokenizer of the embedded model.

A token holds the space before it, as in GPT-2, so that decoding is concatenation and offsets
point into readable text.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from saeworks.embedded.draft import TOKEN_PATTERN, LabelledDocument

BOS, PAD, UNK = "<|bos|>", "<|pad|>", "<|unk|>"


def vocabulary_of(documents: Iterable[LabelledDocument]) -> tuple[str, ...]:
    """Special tokens first, then every token of the documents and every pair of digits,
    sorted."""
    words = {token for document in documents for token in document.tokens}
    digits = {f"{n:02d}" for n in range(100)} | {str(n) for n in range(10)}
    words |= digits | {" " + text for text in digits}
    return (BOS, PAD, UNK, *sorted(words))


def build_tokenizer(vocabulary: Iterable[str]) -> PreTrainedTokenizerFast:
    """A Hugging Face tokenizer over the vocabulary that puts BOS before every text."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN_PATTERN), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        pad_token=PAD,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )
