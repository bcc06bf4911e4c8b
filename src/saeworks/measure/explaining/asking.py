"""Explanations by a language model, scored by detection and fuzzing (Paulo et al. 2024).

An explainer is shown contexts of the fitting half and says what the latent responds to. A scorer is
given that sentence alone and contexts of the judging half, and says in which of them the latent
fires (detection), or in which the marked tokens are those on which it fires (fuzzing).
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from saeworks.errors import shown as on_one_line
from saeworks.measure.explaining.answers import ModelAnswer
from saeworks.measure.explaining.budget import BudgetReached, Spent
from saeworks.measure.explaining.endpoint import Endpoint, Request, RunEnded
from saeworks.measure.explaining.prompts import prompt
from saeworks.measure.explaining.scoring import Answers as Said
from saeworks.measure.explaining.stretches import Sample, Stretches
from saeworks.measure.progress import Tick
from saeworks.measure.studies.pieces import Pieces
from saeworks.results.tokens import legible

BATCH = 5
"""Contexts in one question of detection and fuzzing."""
LONGEST = 400
"""Characters of an explanation at most."""
STRENGTHS = 10
"""The explainer is told activations in so many steps up to the latent's largest."""
_TYPICAL = "the definite article before nouns that name a place, above all at the end of a sentence"
"""Stands in an estimate for an explanation that is not there yet."""
_TYPICAL_ANSWERS = {"explain": 60, "score": 12}
_BYTES_PER_TOKEN = 3.5
_LIST = re.compile(r"\[\s*[01](?:\s*,\s*[01])*\s*\]")


@dataclass(frozen=True)
class LatentContexts:
    """A latent to explain: contexts with its activations, and those on which it is scored.

    Attributes:
        rows, values: kept tokens on which it fires, and its activations.
        shown: stretches that the explainer is shown.
    """

    rows: np.ndarray
    values: np.ndarray
    shown: Sequence[int]
    sample: Sample


@dataclass(frozen=True)
class ModelSaid:
    """What a language model made of a latent.

    Attributes:
        text: its explanation.
        detection, fuzzing: of the contexts with a readable answer: what is so, and what it said.
        unreadable: share of the contexts without.
    """

    text: str
    detection: Said
    fuzzing: Said
    unreadable: float


class Contexts:
    """Stretches as text, with marks."""

    def __init__(self, stretches: Stretches, pieces: Pieces) -> None:
        self.stretches, self._pieces = stretches, pieces

    def text(self, stretch: int, marked: np.ndarray | None = None) -> str:
        """A stretch on one line, marked tokens «like this»; marks that are in it are taken off."""
        start, end = (int(of[stretch]) for of in (self.stretches.start_S, self.stretches.end_S))
        pieces = self.pieces(np.arange(start, end))
        marks = set() if marked is None else {int(row) - start for row in marked}
        return "".join(_mark(p) if at in marks else p for at, p in enumerate(pieces)).strip()

    def pieces(self, rows: np.ndarray) -> list[str]:
        """The texts of consecutive tokens."""
        window = self._pieces.window(self.stretches.token_N[rows].tolist())
        return [re.sub("[«»]", '"', legible(piece)) for piece in window]


def _mark(piece: str) -> str:
    bare = piece.lstrip(" ")
    return f"{piece[: len(piece) - len(bare)]}«{bare}»"


class Asking:
    """Asks an endpoint about latents.

    Args:
        contexts: of which latents' stretches are taken.
    """

    def __init__(self, endpoint: Endpoint, contexts: Contexts) -> None:
        self.endpoint, self.contexts = endpoint, contexts
        config = endpoint.config
        assert config.explainer is not None
        self._explainer, self._scorer = config.explainer, config.scorer or config.explainer
        self._answer_tokens = config.answer_tokens

    def estimate(self, subjects: Sequence[LatentContexts]) -> Spent:
        """About what it costs to explain and score these latents, without what is kept."""
        total = Spent()
        for subject in subjects:
            request = self._explain(subject)
            known = self._known(request)
            if known is None:
                total = total.plus(_about(request, _TYPICAL_ANSWERS["explain"]))
            text = _TYPICAL if known is None else explanation(known)
            for asked, _ in self._questions(subject, text) if text else ():
                if self._known(asked) is None:
                    total = total.plus(_about(asked, _TYPICAL_ANSWERS["score"]))
        return total

    def said(self, subjects: Sequence[LatentContexts], tick: Tick) -> list[ModelSaid | None]:
        """What the model makes of each latent; None for those whose explanation cannot be read, and
        of those that the budget did not allow.

        When it is interrupted, or a request is refused, what is on its way is waited for and kept.

        Raises:
            UserError: if the server refuses a request, or fails again and again.
        """
        done: list[ModelSaid | None] = [None] * len(subjects)
        with ThreadPoolExecutor(self.endpoint.config.concurrency) as pool:
            jobs = {pool.submit(self._of, subject): at for at, subject in enumerate(subjects)}
            try:
                for job in _ended(set(jobs)):
                    done[jobs[job]] = job.result()
                    tick(1)
            except BaseException:
                self.endpoint.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return done

    def _of(self, subject: LatentContexts) -> ModelSaid | None:
        """A latent explained and scored; None where the budget is reached before."""
        try:
            text = explanation(self.endpoint.ask(self._explain(subject)))
            if text is None:
                return None
            said: dict[bool, list[tuple[bool, bool]]] = {False: [], True: []}
            lost = total = 0
            for at, (request, truths) in enumerate(self._questions(subject, text)):
                answers = verdicts(self.endpoint.ask(request), len(truths))
                total += len(truths)
                if answers is None:
                    lost += len(truths)
                else:
                    fuzzing = at >= self._detections(subject)
                    said[fuzzing] += zip(truths, answers, strict=True)
        except BudgetReached:
            self.endpoint.out_of_budget = True
            return None
        return ModelSaid(text, said[False], said[True], lost / total if total else 0.0)

    def _known(self, request: Request) -> ModelAnswer | None:
        return self.endpoint.answers.get(request.key(str(self.endpoint.config.endpoint)))

    def _explain(self, subject: LatentContexts) -> Request:
        largest = subject.values.max()
        parts = []
        for number, stretch in enumerate(subject.shown, start=1):
            inside = self.contexts.stretches.containing(subject.rows) == stretch
            rows, values = subject.rows[inside], subject.values[inside]
            pieces = (self.contexts.pieces(rows[at : at + 1])[0] for at in range(len(rows)))
            steps = np.ceil(values / largest * STRENGTHS).astype(int)
            fires = ", ".join(f'"{p}" {step}' for p, step in zip(pieces, steps, strict=True))
            parts.append(f"Text {number}: {self.contexts.text(stretch, rows)}\nFires: {fires}")
        messages = prompt("explain").messages(contexts="\n".join(parts))
        return Request(self._explainer, messages, self._answer_tokens)

    def _detections(self, subject: LatentContexts) -> int:
        """Questions of detection, which come before those of fuzzing."""
        return -(-len(subject.sample.detection) // BATCH)

    def _questions(
        self, subject: LatentContexts, text: str
    ) -> Iterator[tuple[Request, list[bool]]]:
        """The questions to the scorer, each with the right answers."""
        detection = [(self.contexts.text(s), fires) for s, fires in subject.sample.detection]
        fuzzing = [
            (self.contexts.text(one.stretch, one.rows), one.right) for one in subject.sample.fuzzing
        ]
        for form, texts in ((prompt("detect"), detection), (prompt("fuzz"), fuzzing)):
            for start in range(0, len(texts), BATCH):
                batch = texts[start : start + BATCH]
                numbered = [f"Text {n}: {line}" for n, (line, _) in enumerate(batch, start=1)]
                messages = form.messages(
                    explanation=text, count=str(len(batch)), texts="\n".join(numbered)
                )
                request = Request(self._scorer, messages, self._answer_tokens)
                yield request, [truth for _, truth in batch]


def _ended(jobs: "set[Future[ModelSaid | None]]") -> "Iterator[Future[ModelSaid | None]]":
    """The jobs as they end; the first that failed as soon as it did."""
    while jobs:
        ended, jobs = wait(jobs, return_when=FIRST_COMPLETED)
        yield from sorted(ended, key=lambda job: isinstance(job.exception(), RunEnded))


def explanation(answer: ModelAnswer) -> str | None:
    """The explanation in an answer: what follows its last "Explanation:", on one line; None where
    there is none, or the answer was cut off."""
    _, found, text = answer.text.rpartition("Explanation:")
    text = on_one_line(" ".join(text.split()))
    if not (found and text and answer.complete):
        return None
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def verdicts(answer: ModelAnswer, count: int) -> list[bool] | None:
    """The last list of 0s and 1s in an answer; None where there is none of that length."""
    lists = _LIST.findall(answer.text)
    if not lists or not answer.complete:
        return None
    said = [digit == "1" for digit in re.findall("[01]", lists[-1])]
    return said if len(said) == count else None


def _about(request: Request, answer_tokens: int) -> Spent:
    size = sum(len(message["content"].encode()) for message in request.messages)
    return Spent(round(size / _BYTES_PER_TOKEN), answer_tokens, 1)
