"""Who decides on which generated tokens a concept stands.

Shapes: B texts, X tokens of prompt and continuation, Y tokens of the continuation.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.embedded.reading import read_concepts
from saeworks.lm.model import LanguageModel
from saeworks.measure.interventions import activations


class Judge(ABC):
    """Whether a concept stands on tokens, and on which of them that could be.

    Attributes:
        about: how it judges, in words.
    """

    about: str

    @abstractmethod
    def judge(
        self, lm: LanguageModel, tokens_BX: Int[Tensor, "B X"], prompt: int
    ) -> tuple[Bool[Tensor, "B Y"], Bool[Tensor, "B Y"]]:
        """Of the tokens after the first `prompt`: where the concept stands, and where it could,
        which is what its rate is a share of."""


@final
class GrammarJudge(Judge):
    """The embedded grammar, which reads the continuation (`embedded.reading`); a value could stand
    where the words tell one of the concept's values."""

    def __init__(self, concept: str, value: str) -> None:
        self.concept, self.value = concept, value
        self.about = "the grammar, which reads the generated words"

    def judge(
        self, lm: LanguageModel, tokens_BX: Int[Tensor, "B X"], prompt: int
    ) -> tuple[Bool[Tensor, "B Y"], Bool[Tensor, "B Y"]]:
        tokens_BY = tokens_BX[:, prompt:]
        stands_BY = torch.zeros(tokens_BY.shape, dtype=torch.bool)
        could_BY = torch.zeros_like(stands_BY)
        for row, ids in enumerate(tokens_BY.tolist()):
            written = ids[: ids.index(lm.bos_id)] if lm.bos_id in ids else ids
            read = read_concepts(lm.tokenizer.convert_ids_to_tokens(written))
            for place, labels in enumerate(read):
                could_BY[row, place] = self.concept in labels
                stands_BY[row, place] = labels.get(self.concept) == self.value
        return stands_BY, could_BY


@final
class WordsJudge(Judge):
    """Words given by the user: a concept stands on the tokens of its words, and could on any.

    Args:
        words: as sequences of token ids.
    """

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        self.words = words
        self.about = "the words given for the concepts"

    def judge(
        self, lm: LanguageModel, tokens_BX: Int[Tensor, "B X"], prompt: int
    ) -> tuple[Bool[Tensor, "B Y"], Bool[Tensor, "B Y"]]:
        stands_BY = spelt(tokens_BX[:, prompt:], self.words)
        return stands_BY, torch.ones_like(stands_BY)


@final
class FiringJudge(Judge):
    """The latents themselves: where one of them fires when the untouched model reads the text."""

    def __init__(self, sae: SAE, site: str, latents: Sequence[int]) -> None:
        self.sae, self.site, self.latents = sae, site, list(latents)
        self.about = "whether the latents fire when the untouched model reads the generated text"

    def judge(
        self, lm: LanguageModel, tokens_BX: Int[Tensor, "B X"], prompt: int
    ) -> tuple[Bool[Tensor, "B Y"], Bool[Tensor, "B Y"]]:
        x_BYD = lm.capture(tokens_BX, [self.site])[self.site][:, prompt:]
        index_n = torch.tensor(self.latents, device=x_BYD.device)
        f_Nn = activations(self.sae, x_BYD.flatten(0, 1).float(), index_n)
        stands_BY = (f_Nn > 0).any(dim=1).view(x_BYD.shape[:2]).cpu()
        return stands_BY, torch.ones_like(stands_BY)


def spelt(tokens_BX: Int[Tensor, "B X"], words: Sequence[Sequence[int]]) -> Bool[Tensor, "B X"]:
    """Which tokens belong to a sequence of ids that is one of the words."""
    stands_BX = torch.zeros(tokens_BX.shape, dtype=torch.bool)
    for word in words:
        length = tokens_BX.shape[1] - len(word) + 1
        if length < 1:
            continue
        begins = torch.stack(
            [tokens_BX[:, at : at + length] == token for at, token in enumerate(word)]
        ).all(0)
        for at in range(len(word)):
            stands_BX[:, at : at + length] |= begins
    return stands_BX
