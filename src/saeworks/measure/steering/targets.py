"""What is to be steered: on which tokens a concept stands, who judges it, prompts to go on from.

Shapes: N sequences, T positions, P prompts, X = N · T places.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from saeworks.embedded import CONCEPTS
from saeworks.embedded.reading import READ
from saeworks.errors import UserError, one_line
from saeworks.files.access import open_regular, parse_json, what_is
from saeworks.lm.model import LanguageModel
from saeworks.measure.asked import Work
from saeworks.measure.held_out import HeldOut
from saeworks.measure.known import truth_of
from saeworks.measure.steering.config import DEMONSTRATION, SteeringConfig
from saeworks.measure.steering.judges import GrammarJudge, Judge, WordsJudge, spelt

FEWEST_TOKENS = 50
"""Tokens on which a concept must stand, and on which it must not, among those to choose on."""
FEWEST_PROMPTS = 8
"""Below so many prompts there is no interval."""


@dataclass(frozen=True)
class Target:
    """A concept to steer.

    Attributes:
        name: of the concept, such as `mood=happy`.
        label_NT: 1 where it stands, 0 where it does not but could (another value of it stands),
            −1 elsewhere; None where firing of given latents stands in the place of a concept.
        judge: None as `label_NT`.
    """

    name: str
    label_NT: Int[Tensor, "N T"] | None
    judge: Judge | None


def targets(
    config: SteeringConfig, work: Work, lm: LanguageModel, held_out: HeldOut
) -> list[Target]:
    """What is asked for.

    Raises:
        UserError: if a concept is unknown or nobody could judge it, the text's concepts are not
            known, or the file of words is wrong.
    """
    if config.words is not None:
        return _by_words(config, lm, held_out)
    if config.latents and not config.concepts:
        return [Target(_fired(config.latents), None, None)]
    if work.text.source != "embedded":
        raise UserError(
            f"of the text {work.text.source!r} no concepts are known; give --words, a file of "
            "concepts by their words, or --latents"
        )
    asked = [_valued(name) for name in config.concepts or DEMONSTRATION]
    truth = truth_of(work.text, work.seed, lm, held_out, "--concepts")
    columns = {concept: at for at, concept in enumerate(truth.concepts)}
    found = []
    for concept, value in asked:
        any_value = [at for (other, _), at in columns.items() if other == concept]
        could_n = np.asarray(truth.stands[:, any_value].sum(axis=1)).ravel() > 0
        stands_n = truth.stands[:, columns[concept, value]].toarray()[:, 0] > 0
        label_n = torch.from_numpy(np.where(stands_n, 1, np.where(could_n, 0, -1)).astype(np.int8))
        label_NT = torch.full(held_out.tokens_NT.shape, -1, dtype=torch.int8)
        label_NT[held_out.keep_NT] = label_n
        found.append(Target(f"{concept}={value}", label_NT, GrammarJudge(concept, value)))
    return found


def _fired(latents: Sequence[int]) -> str:
    return ("latents " if len(latents) > 1 else "latent ") + " + ".join(map(str, latents))


def _valued(name: str) -> tuple[str, str]:
    """Concept and value of `concept=value`.

    Raises:
        UserError: if there is no such concept or value, or it cannot be read from a text.
    """
    concept, equals, value = name.partition("=")
    values = {known.name: known.values for known in CONCEPTS if known.name in READ}
    if not equals or concept not in values:
        raise UserError(
            f"concept {name!r} cannot be steered: give CONCEPT=VALUE with one of {', '.join(READ)}"
        )
    if value not in values[concept]:
        raise UserError(
            f"concept {concept!r} has no value {value!r}; give one of {', '.join(values[concept])}"
        )
    return concept, value


def _by_words(config: SteeringConfig, lm: LanguageModel, held_out: HeldOut) -> list[Target]:
    assert config.words is not None
    every = _words(config.words)
    for name in config.concepts:
        if name not in every:
            raise UserError(
                f"concept {name!r} is not in {config.words}, which has {', '.join(every)}"
            )
    made = []
    for name in config.concepts or every:
        spellings = [ids for word in every[name] for ids in _spellings(word, lm)]
        label_NT = spelt(held_out.tokens_NT, spellings).to(torch.int8)
        label_NT[~held_out.keep_NT] = -1
        made.append(Target(name, label_NT, WordsJudge(spellings)))
    return made


def _spellings(word: str, lm: LanguageModel) -> list[list[int]]:
    """The ids of a word at the beginning of a text, and after a space."""
    spelt_ids = (lm.tokenizer.encode(text, add_special_tokens=False) for text in (word, f" {word}"))
    unknown = getattr(lm.tokenizer, "unk_token_id", None)
    ways = [list(ids) for ids in dict.fromkeys(map(tuple, spelt_ids)) if ids and unknown not in ids]
    if not ways:
        raise UserError(f"the word {word!r} is none of the tokens of {lm.name}; leave it out")
    return ways


def _words(path: Path) -> Mapping[str, list[str]]:
    """Concept → its words.

    Raises:
        UserError: if the file cannot be read, or a line is not a concept with its words.
    """
    every: dict[str, list[str]] = {}
    for number, row in _rows(path):
        fields: dict[str, Any] = row if isinstance(row, dict) else {}
        name, words = fields.get("concept"), fields.get("words")
        if not isinstance(name, str) or not name or not _are_words(words):
            raise UserError(
                f'{path}, line {number}: give {{"concept": "animal", "words": ["dog", "cat"]}}'
            )
        if name in every:
            raise UserError(f"{path}, line {number}: concept {name!r} stands twice; join its words")
        every[name] = [str(word).strip() for word in words or ()]
    if not every:
        raise UserError(f"{path} has no concepts; give a line for each")
    return every


def _are_words(words: object) -> bool:
    return (
        isinstance(words, list)
        and len(words) > 0
        and all(isinstance(word, str) and word.strip() for word in words)
    )


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The lines that are not blank, with their numbers."""
    if what_is(path) != "file":
        raise UserError(f"words {str(path)!r}: there is no such file; give a .jsonl file")
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode()
                if text.strip():
                    yield number, parse_json(text)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path}, line {number}: not valid JSON in UTF-8 ({one_line(error)}); mend or "
                    "remove the line"
                ) from None


def check_counts(target: Target, half: HeldOut) -> None:
    """Refuse a concept that stands on too few tokens, or is missing from too few.

    Raises:
        UserError: if so.
    """
    if target.label_NT is None:
        return
    label_n = target.label_NT[half.keep_NT]
    for kind, count in (
        ("stands", int((label_n == 1).sum())),
        ("could but does not stand", int((label_n == 0).sum())),
    ):
        if count < FEWEST_TOKENS:
            raise UserError(
                f"concept {target.name!r} {kind} on {count} of the {half.kept:,} tokens that "
                f"latents are chosen on, and at least {FEWEST_TOKENS} are needed; raise tokens, or "
                "choose another concept"
            )


def beginnings(
    half: HeldOut, target: Target, bos_id: int | None, count: int, length: int
) -> Int[Tensor, "P T"]:
    """The first tokens of documents of a half in which the concept could stand, BOS included.

    Args:
        count: at most so many.
        length: tokens after BOS.

    Raises:
        UserError: if there are fewer than `FEWEST_PROMPTS`.
    """
    tokens_NT, document_NT = half.tokens_NT, half.document_NT
    starts_NT = document_NT >= 0
    starts_NT[:, 1:] &= document_NT[:, 1:] != document_NT[:, :-1]
    starts_NT[:, 0] &= tokens_NT[:, 0] == (-1 if bos_id is None else bos_id)
    eligible = set(document_NT[half.keep_NT].tolist())
    if target.label_NT is not None and isinstance(target.judge, GrammarJudge):
        eligible &= set(document_NT[half.keep_NT & (target.label_NT >= 0)].tolist())
    prompts = []
    for row, start in starts_NT.nonzero().tolist():
        length_here = length + int(tokens_NT[row, start] == bos_id)
        part = slice(start, start + length_here)
        document = document_NT[row, part]
        whole = len(document) == length_here and bool((document == document[0]).all())
        if whole and int(document[0]) in eligible:
            prompts.append(tokens_NT[row, part])
        if len(prompts) == count:
            break
    lengths = {len(prompt) for prompt in prompts}
    if len(prompts) < FEWEST_PROMPTS or len(lengths) > 1:
        raise UserError(
            f"concept {target.name!r}: {len(prompts)} documents to begin from, and at least "
            f"{FEWEST_PROMPTS} are needed; raise tokens, or lower prompt_tokens"
        )
    return torch.stack(prompts)
