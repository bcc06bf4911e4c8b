"""What is known of a text beforehand: the labels of its documents, the concepts of its tokens.

`saeworks.measure.concepts.labels` has concepts from other sources than the embedded grammar.

Shapes: R documents, N kept tokens, C concepts, X places of all sequences.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import csr_matrix

from saeworks.config import TextConfig
from saeworks.embedded import CONCEPTS, LabelledDocument
from saeworks.embedded.grammar import document
from saeworks.errors import UserError
from saeworks.lm.documents import EMBEDDED_LABEL
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.measure.held_out import HeldOut


@dataclass(frozen=True)
class Labels:
    """The labels of documents.

    Attributes:
        names: of the labels.
        label_R: place in `names` of each document's (a row of per-document sums), −1 if unknown.
    """

    names: tuple[str, ...]
    label_R: Int[np.ndarray, " R"]


def with_label(text: TextConfig) -> TextConfig:
    """The text with the label that its documents have without being told: those of the embedded
    text have a domain."""
    if text.source == "embedded" and text.label is None:
        return replace(text, label=EMBEDDED_LABEL)
    return text


def labels_of(corpus: Corpus, held_out: HeldOut) -> Labels | None:
    """The labels of the held-out documents; None of a text without labels (`text.label`)."""
    if corpus.labels is None:
        return None
    numbers = torch.unique(held_out.document_NT)
    return Labels(corpus.labels.names, corpus.labels.number[numbers[numbers >= 0].numpy()])


ConceptName = tuple[str, str]
"""A concept and its value, such as ("noun_class", "animal")."""


@dataclass(frozen=True)
class Truth:
    """Which concepts stand on which tokens.

    Attributes:
        concepts: (concept, value), such as ("noun_class", "animal").
        stands: 0/1 [N, C].
        set_N: of each token, the set of tokens it belongs to; None where all are in one.
        set_C: of each concept, the set in which it is asked about: nothing is known of it on the
            tokens of other sets.
    """

    concepts: tuple[ConceptName, ...]
    stands: csr_matrix
    set_N: Int[np.ndarray, " N"] | None = None
    set_C: Int[np.ndarray, " C"] | None = None

    @classmethod
    def of(
        cls, concepts: Iterable[ConceptName], by_token: Iterable[Iterable[ConceptName]]
    ) -> "Truth":
        """From the concepts of each token; no two of one token may be equal."""
        concepts = tuple(concepts)
        number = {concept: place for place, concept in enumerate(concepts)}
        ids: list[int] = []
        ends = [0]
        for of_token in by_token:
            ids.extend(number[concept] for concept in of_token)
            ends.append(len(ids))
        ones = np.ones(len(ids), np.int32)
        stands = csr_matrix(
            (ones, np.array(ids, np.int64), np.array(ends, np.int64)),
            shape=(len(ends) - 1, len(concepts)),
        )
        return cls(concepts, stands)


def truth_of(
    text: TextConfig,
    seed: int,
    lm: LanguageModel,
    held_out: HeldOut,
    option: str = "--consistency",
) -> Truth:
    """The concepts of each kept token of the embedded text, in the order of the kept tokens.

    Args:
        option: what asks for them, for messages.

    Raises:
        UserError: if the text is another, whose concepts nobody knows, or the language model's
            tokens are not the grammar's.
    """
    if text.source != "embedded":
        raise UserError(
            f"{option}: no concepts are known of the text {text.source!r}, only of 'embedded'; "
            f"leave {option} out"
        )
    concepts = [(concept.name, value) for concept in CONCEPTS for value in concept.values]
    every = list(_documents(seed, held_out))
    rank_N, row_N = _places(every, lm, held_out, option)
    places = zip(rank_N.tolist(), row_N.tolist(), strict=True)
    return Truth.of(concepts, (every[row].concepts[rank].items() for rank, row in places))


def by_document(
    held_out: HeldOut, bos_id: int | None
) -> Iterator[tuple[int, Int[np.ndarray, " n"]]]:
    """Row of each document, and the places of its tokens, without BOS, in their order."""
    tokens_X = held_out.tokens_NT.flatten().numpy()
    row_X = held_out.row_NT.flatten().numpy()
    text = np.flatnonzero((row_X >= 0) & (tokens_X != bos_id))
    by_row = text[row_X[text].argsort(kind="stable")]
    start_R = np.searchsorted(row_X[by_row], np.arange(held_out.rows + 1))
    for row in range(held_out.rows):
        yield row, by_row[start_R[row] : start_R[row + 1]]


def _documents(seed: int, held_out: HeldOut) -> Iterator[LabelledDocument]:
    numbers = torch.unique(held_out.document_NT)
    yield from (document(seed, int(number)) for number in numbers[numbers >= 0])


def _places(
    every: list[LabelledDocument], lm: LanguageModel, held_out: HeldOut, option: str
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Each kept token's place in its document, and the document.

    Raises:
        UserError: if the language model cuts the text otherwise than the grammar.
    """
    tokens_X = held_out.tokens_NT.flatten().numpy()
    row_X = held_out.row_NT.flatten().numpy()
    rank_X = np.zeros(len(tokens_X), np.int64)
    for row, place in by_document(held_out, lm.bos_id):
        known = lm.tokenizer.convert_tokens_to_ids(list(every[row].tokens[: len(place)]))
        if tokens_X[place].tolist() != known:
            raise UserError(
                f"{option}: the tokens of {lm.name} are not those whose concepts the embedded "
                f"text knows; leave {option} out, or evaluate SAEs of the embedded model"
            )
        rank_X[place] = np.arange(len(place))
    kept = held_out.keep_NT.flatten().numpy()
    return rank_X[kept], row_X[kept]
