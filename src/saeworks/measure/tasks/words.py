"""Words that fit a tokenizer, and where it has the space."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saeworks.errors import UserError
from saeworks.files.access import read_json
from saeworks.lm.model import LanguageModel
from saeworks.measure.tasks.cases import answer_id, token_ids, unknown

_SPACINGS = (("", " {}"), (" ", "{} "), (" ", "{}"))
"""The space belongs to the next word (most tokenizers), to the word before it, or to neither."""

Forms = tuple[str, ...]
"""A word's forms that must have as many tokens as one another: (singular, plural); or one."""


@dataclass(frozen=True)
class Spacing:
    """Where the space before an answer stands: at the prefix's end, or in the answer."""

    at_end: str
    answer_form: str

    def answer(self, word: str) -> str:
        """The answer's text."""
        return self.answer_form.format(word)


class Vocabulary:
    """What of a task's words can be used with one tokenizer.

    Args:
        name: the task's, and its file's in `words/`.

    Attributes:
        data: of the file.
        left_out: kind of words → how many do not fit, of those that were tried.
    """

    def __init__(self, name: str, lm: LanguageModel) -> None:
        self.name, self.lm = name, lm
        self.data: dict[str, Any] = read_json(Path(__file__).parent / "words" / f"{name}.json")
        self.left_out: dict[str, int] = {}

    def alike(
        self, kind: str, frame: str, words: Sequence[Forms], least: int = 2
    ) -> tuple[Forms, ...]:
        """The words that have the commonest number of tokens in a frame, so that one can stand in
        the place of another.

        Args:
            frame: text with `{}` where the word stands.
            least: how many words the task needs.

        Raises:
            UserError: if fewer fit.
        """
        lengths = [tuple(self._length(frame.format(form)) for form in forms) for forms in words]
        known = Counter(length for of in lengths for length in of if length)
        commonest = max(known, key=lambda length: (known[length], -length), default=0)
        fit = tuple(
            forms
            for forms, of in zip(words, lengths, strict=True)
            if commonest and set(of) == {commonest}
        )
        reason = "have a common number of tokens" + ", in each number" * (len(words[0]) > 1)
        return self._enough(kind, words, fit, least, reason)

    def answers(
        self, kind: str, prefix: str, words: Sequence[Forms], least: int = 2
    ) -> tuple[Spacing, tuple[Forms, ...]]:
        """The words whose forms are all single tokens after a prefix, with the spacing that makes
        most of them so.

        Raises:
            UserError: if fewer than `least` are.
        """
        by_spacing = [
            (spacing, tuple(forms for forms in words if self._single(prefix, spacing, forms)))
            for spacing in (Spacing(*spacing) for spacing in _SPACINGS)
        ]
        spacing, fit = max(by_spacing, key=lambda pair: len(pair[1]))  # the first of equals
        reason = f"are single tokens after {prefix!r}"
        return spacing, self._enough(kind, words, fit, least, reason)

    def cut(self, before: str, year: str, digits: int) -> bool:
        """Whether `year` after `before` is tokens of so many digits each."""
        ids = token_ids(self.lm, before)
        parts = [year[at : at + digits] for at in range(0, len(year), digits)]
        token = answer_id(self.lm, before, ids, parts[0])
        whole = token_ids(self.lm, before + year)
        return (
            token is not None
            and whole[:-1] == [*ids, token][: len(whole) - 1]
            and (len(whole) == len(ids) + len(parts))
        )

    def _single(self, prefix: str, spacing: Spacing, forms: Forms) -> bool:
        before = prefix + spacing.at_end
        ids = token_ids(self.lm, before)
        tokens = [answer_id(self.lm, before, ids, spacing.answer(form)) for form in forms]
        return None not in tokens and len(set(tokens)) == len(forms)

    def _length(self, text: str) -> int:
        """Tokens of a text; 0 where one is unknown."""
        ids = token_ids(self.lm, text)
        return 0 if unknown(self.lm, ids) else len(ids)

    def _enough(
        self, kind: str, words: Sequence[Forms], fit: tuple[Forms, ...], least: int, reason: str
    ) -> tuple[Forms, ...]:
        self.left_out[kind] = self.left_out.get(kind, 0) + len(words) - len(fit)
        if len(fit) < least:
            raise self.refusal(f"{len(fit)} of {len(words)} {kind} {reason}, and it needs {least}")
        return fit

    def refusal(self, reason: str) -> UserError:
        """The task cannot be built with this tokenizer."""
        return UserError(
            f"task {self.name!r} does not fit the tokens of {self.lm.name}: {reason}; choose "
            "another task, or give prompts of your own as a .jsonl file"
        )
