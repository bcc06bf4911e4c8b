"""What is known of a text beforehand: the labels of its documents, the concepts of its tokens.

Shapes: R documents, N kept tokens, C concepts.
"""

from collections.abc import Iterator
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


@dataclass(frozen=True)
class Truth:
    """Which concepts stand on which tokens.

    Attributes:
        concepts: (concept, value), such as ("noun_class", "animal").
        stands: 0/1 [N, C].
    """

    concepts: tuple[tuple[str, str], ...]
    stands: csr_matrix


def truth_of(text: TextConfig, seed: int, lm: LanguageModel, held_out: HeldOut) -> Truth:
    """The concepts of each kept token of the embedded text, in the order of the kept tokens.

    Raises:
        UserError: if the text is another, whose concepts nobody knows, or the language model's
            tokens are not the grammar's.
    """
    if text.source != "embedded":
        raise UserError(
            f"consistency: no concepts are known of the text {text.source!r}, only of 'embedded'; "
            "leave --consistency out"
        )
    concepts = tuple((concept.name, value) for concept in CONCEPTS for value in concept.values)
    number = {concept: place for place, concept in enumerate(concepts)}
    every = list(_documents(seed, held_out))
    rank_N, row_N = _places(every, lm, held_out)
    ids: list[int] = []
    ends = [0]
    for rank, row in zip(rank_N.tolist(), row_N.tolist(), strict=True):
        ids.extend(number[item] for item in every[row].concepts[rank].items())
        ends.append(len(ids))
    stands = csr_matrix(
        (np.ones(len(ids), np.int32), np.array(ids, np.int64), np.array(ends, np.int64)),
        shape=(len(ends) - 1, len(concepts)),
    )
    return Truth(concepts, stands)


def _documents(seed: int, held_out: HeldOut) -> Iterator[LabelledDocument]:
    numbers = torch.unique(held_out.document_NT)
    yield from (document(seed, int(number)) for number in numbers[numbers >= 0])


def _places(
    every: list[LabelledDocument], lm: LanguageModel, held_out: HeldOut
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Each kept token's place in its document, and the document.

    Raises:
        UserError: if the language model cuts the text otherwise than the grammar.
    """
    tokens_X = held_out.tokens_NT.flatten().numpy()
    row_X = held_out.row_NT.flatten().numpy()
    text = np.flatnonzero((row_X >= 0) & (tokens_X != lm.bos_id))
    by_row = text[row_X[text].argsort(kind="stable")]
    start_R = np.searchsorted(row_X[by_row], np.arange(held_out.rows + 1))
    rank_X = np.zeros(len(tokens_X), np.int64)
    for row, one in enumerate(every):
        place = by_row[start_R[row] : start_R[row + 1]]
        known = lm.tokenizer.convert_tokens_to_ids(list(one.tokens[: len(place)]))
        if tokens_X[place].tolist() != known:
            raise UserError(
                f"consistency: the tokens of {lm.name} are not those whose concepts the embedded "
                "text knows; leave --consistency out, or evaluate SAEs of the embedded model"
            )
        rank_X[place] = np.arange(len(place))
    kept = held_out.keep_NT.flatten().numpy()
    return rank_X[kept], row_X[kept]
