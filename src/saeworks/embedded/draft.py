"""Writing a document while labelling every token with its concepts."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from saeworks.embedded.parts_of_speech import part_of_speech

# One token: a word, a pair of digits or a sign, each with the space before it; or one newline.
# The shipped tokenizer splits with this very pattern, which is why labels and ids line up.
TOKEN_PATTERN = r" ?[^\W\d_]+| ?\d\d| ?\d| ?(?:[^\s\w]|_)|\s"
_TOKEN = re.compile(TOKEN_PATTERN)
_SLOT = re.compile(r"\{(\w+)\}")

Concepts = dict[str, str]


@dataclass(frozen=True)
class Phrase:
    """A piece of text with the concepts that hold for each of its tokens.

    `parts` are (surface, concepts); spaces inside a phrase belong to the surfaces.
    """

    parts: tuple[tuple[str, Concepts], ...]

    def tagged(self, **concepts: str) -> "Phrase":
        """The same phrase with more concepts on every part."""
        return Phrase(tuple((text, {**old, **concepts}) for text, old in self.parts))

    def then(self, other: "Phrase", between: str = " ") -> "Phrase":
        """This phrase, `between`, the other phrase."""
        (first, concepts), *rest = other.parts
        return Phrase((*self.parts, (between + first, concepts), *rest))

    @property
    def text(self) -> str:
        """The phrase as plain text."""
        return "".join(text for text, _ in self.parts)


def word(text: str, **concepts: str) -> Phrase:
    """A phrase of one surface."""
    return Phrase(((text, concepts),))


@dataclass(frozen=True)
class LabelledDocument:
    """A generated document: `text`, its `tokens` (whose concatenation is `text`), and for every
    token the concepts that hold there (`concepts[i]["domain"]`, …; absent = does not apply)."""

    text: str
    tokens: tuple[str, ...]
    concepts: tuple[Concepts, ...]

    def column(self, concept: str) -> tuple[str | None, ...]:
        """One concept along the document, None where it does not apply."""
        return tuple(labels.get(concept) for labels in self.concepts)


@dataclass
class Draft:
    """A document being written. `write` appends a template whose `{slots}` are phrases."""

    domain: str
    tokens: list[str] = field(default_factory=list)
    concepts: list[Concepts] = field(default_factory=list)
    _scope: Concepts = field(default_factory=dict)
    _depth: int = 0

    def write(self, template: str, **slots: Phrase | str) -> None:
        """Append the template; each slot's concepts go to the tokens that it fills."""
        for position, piece in enumerate(_SLOT.split(template)):
            if position % 2 == 0:
                self._append(piece, {})
            else:
                phrase = slots[piece]
                parts = phrase.parts if isinstance(phrase, Phrase) else ((phrase, {}),)
                for text, concepts in parts:
                    self._append(text, concepts)

    def _append(self, text: str, concepts: Concepts) -> None:
        if self._hanging_space:
            text = " " + text
            self._hanging_space = False
        if text.endswith(" "):
            text = text[:-1]
            self._hanging_space = True
        for token in _TOKEN.findall(text):
            labels = {"domain": self.domain, "quote_depth": str(self._depth)}
            labels["part_of_speech"] = part_of_speech(token)
            labels.update(self._scope)
            labels.update(concepts)
            self.tokens.append(token)
            self.concepts.append(labels)

    _hanging_space: bool = False

    @contextmanager
    def scope(self, **concepts: str) -> Iterator[None]:
        """Concepts of everything written inside, for instance the severity of a log line."""
        outer = self._scope
        self._scope = {**outer, **concepts}
        yield
        self._scope = outer

    @contextmanager
    def quote(self) -> Iterator[None]:
        """Quotation marks around what is written inside; both marks count as quoted."""
        self._depth += 1
        mark = '"' if self._depth % 2 else "'"
        self._append(mark, {})
        yield
        self._append(mark, {})
        self._depth -= 1

    def finish(self) -> LabelledDocument:
        """The finished document."""
        return LabelledDocument("".join(self.tokens), tuple(self.tokens), tuple(self.concepts))
