"""How often what is read from a text alone is what the grammar says of it."""

from collections import Counter

import pytest

from saeworks.embedded import CONCEPTS, documents
from saeworks.embedded.reading import READ, read_concepts

EXACT = {"precision": 0.999, "recall": 0.999}
OF_WHOLES = {
    **dict.fromkeys(READ, EXACT),
    "number": {"precision": 0.97, "recall": 0.98},  # parts ("handle") have none in the grammar
    "noun_class": {"precision": 0.97, "recall": 0.999},
    "season": {"precision": 0.999, "recall": 0.86},  # some descriptions name no season
}
OF_PARTS = OF_WHOLES | {
    "domain": {"precision": 0.999, "recall": 0.999},
    "mood": {"precision": 0.999, "recall": 0.56},  # 32 words of a story may hold no word of mood
    "season": {"precision": 0.999, "recall": 0.6},
    "century": {"precision": 0.999, "recall": 0.93},  # cut through a year
    "severity": {"precision": 0.999, "recall": 0.9},  # the line that the part begins in
}


def shares(first: int, last: int | None) -> dict[str, dict[str, float]]:
    """Precision and recall over tokens, of the tokens from `first` to `last` of documents."""
    right, read, known = Counter[str](), Counter[str](), Counter[str]()
    for document in documents(7, 400):
        concepts = document.concepts[first:last]
        for said, labels in zip(read_concepts(document.tokens[first:last]), concepts, strict=True):
            for concept in READ:
                if concept == "number" and labels["part_of_speech"] != "noun":
                    continue
                read[concept] += concept in said
                known[concept] += concept in labels
                right[concept] += concept in said and said[concept] == labels.get(concept)
    return {
        concept: {
            "precision": right[concept] / read[concept],
            "recall": right[concept] / known[concept],
        }
        for concept in READ
    }


@pytest.mark.parametrize(
    ("first", "last", "least"), [(0, None, OF_WHOLES), (8, 40, OF_PARTS)], ids=["whole", "32 words"]
)
def test_labels_are_read_from_the_text(
    first: int, last: int | None, least: dict[str, dict[str, float]]
) -> None:
    for concept, measured in shares(first, last).items():
        for kind, value in measured.items():
            assert value >= least[concept][kind], f"{kind} of {concept}: {value:.4f}"


def test_what_is_read_are_concepts_and_their_values() -> None:
    values = {concept.name: {*concept.values, "other"} for concept in CONCEPTS}
    assert set(READ) <= set(values)
    for document in documents(8, 50):
        for labels in read_concepts(document.tokens):
            assert all(value in values[concept] for concept, value in labels.items())


def test_text_that_tells_nothing_is_left_open() -> None:
    assert read_concepts(()) == ()
    assert read_concepts(("It", " is")) == (
        {"part_of_speech": "pronoun"},
        {"part_of_speech": "verb"},
    )
    tied = read_concepts((" Anna", " is", " happy", " and", " sad"))
    assert [labels["domain"] for labels in tied] == ["story"] * 5
    assert all("mood" not in labels for labels in tied)
