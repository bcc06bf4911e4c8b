"""Concepts of tokens by rules that hold for any English text: how a word is written, where it
stands, closed classes of words. No model and no dictionary is asked, so a rule is sometimes wrong
("her" is a determiner wherever it stands); what it says is exactly what it does.

A token is labelled by the word that it is part of: the run of letters or digits, with apostrophes
inside, that its text touches.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from saeworks.measure.known import ConceptName

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,:]\d+)*|[^\w\s]|_+")
_CLOSED = {
    "determiner": "a an the this that these those each every some any no all both either neither "
    "another such my your his her its our their many few several much",
    "pronoun": "i you he she it we they me him us them mine yours hers ours theirs myself yourself "
    "himself herself itself ourselves themselves someone somebody something anyone anybody "
    "anything everyone everybody everything nobody nothing one",
    "preposition": "of in to for with on at from by about as into through during before after over "
    "under above below between among against without within along behind beside beyond near "
    "towards toward upon across until since around off out up down inside outside",
    "conjunction": "and or but nor so yet because although though while if unless when whereas "
    "whether than once",
    "auxiliary": "be am is are was were been being have has had having do does did will would "
    "shall should can could may might must",
    "question": "who whom whose which what where why how when",
    "negation": "not no never none nothing nobody neither nor cannot",
    "number_word": "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty "
    "seventy eighty ninety hundred thousand million billion first second third fourth fifth",
}
_CLASSES = {name: frozenset(words.split()) for name, words in _CLOSED.items()}
_ENDINGS = ("ing", "ed", "ly", "tion", "er", "est", "s")
_MARKS = {
    ".": "period",
    ",": "comma",
    ";": "semicolon",
    ":": "colon",
    "?": "question_mark",
    "!": "exclamation_mark",
    '"': "quotation_mark",
    "“": "quotation_mark",
    "”": "quotation_mark",
    "'": "apostrophe",
    "’": "apostrophe",
    "(": "bracket",
    ")": "bracket",
    "[": "bracket",
    "]": "bracket",
    "-": "dash",
    "–": "dash",
    "—": "dash",
}
_SENTENCE_ENDS, _LEAST = frozenset(".?!"), 3
"""Marks that end a sentence; letters that a word has before an ending is looked at."""

RULES: tuple[ConceptName, ...] = (
    *(("word_class", name) for name in _CLOSED),
    *(("ending", ending) for ending in _ENDINGS),
    *(("first_letter", letter) for letter in "abcdefghijklmnopqrstuvwxyz"),
    *(("capitals", value) for value in ("first", "all")),
    *(("number", value) for value in ("digits", "year")),
    *(("mark", name) for name in dict.fromkeys([*_MARKS.values(), "other"])),
    ("quoted", "yes"),
    ("in_brackets", "yes"),
    ("line_end", "yes"),
    *(("in_sentence", value) for value in ("first_word", "second_word")),
    *(("in_word", value) for value in ("whole", "first", "middle", "last")),
    *(("after", value) for value in ("determiner", "preposition", "auxiliary", "number")),
)
"""What `labels` may say of a token."""


@dataclass
class _State:
    """What the rules remember from left to right.

    Attributes:
        quoted: inside double quotation marks.
        brackets: how many are open.
        words: of the sentence so far.
        before: the class of the word before, for `after`.
    """

    quoted: bool = False
    brackets: int = 0
    words: int = 0
    before: str = ""


def labels(pieces: Sequence[str]) -> list[list[ConceptName]]:
    """The concepts of each token of a document.

    A label says what holds once the token has been read, with two exceptions that look ahead to
    the end of the word: `word_class`, `ending` and the capitals `all` stand on the last token of
    their word alone, where the model can know them.

    Args:
        pieces: the texts of its tokens, spaces included; together they are the text.
    """
    text = "".join(pieces)
    by_token: list[dict[ConceptName, None]] = [{} for _ in pieces]
    owner = [at for at, piece in enumerate(pieces) for _ in piece]
    state = _State()
    place = 0
    for match in _WORD.finditer(text):
        for at in range(place, match.start()):
            _gap(text[at], by_token[owner[at]], state)
        place = match.end()
        tokens = list(dict.fromkeys(owner[match.start() : match.end()]))
        _word(match[0], [by_token[at] for at in tokens], state)
    for at in range(place, len(text)):
        _gap(text[at], by_token[owner[at]], state)
    return [list(of_token) for of_token in by_token]


def _gap(character: str, token: dict[ConceptName, None], state: _State) -> None:
    """White space: a line's end also ends a sentence, and two of them a quotation."""
    if character == "\n":
        if ("line_end", "yes") in token:
            state.quoted, state.brackets = False, 0
        token["line_end", "yes"] = None
        state.words, state.before = 0, ""


def _word(word: str, tokens: list[dict[ConceptName, None]], state: _State) -> None:
    """One word, number or mark, and the tokens that it is cut into."""
    if not (word[0].isalpha() or word[0].isdigit()):
        for token in tokens:
            _mark(word, token, state)
        return
    on_all = [("first_letter", word[0].lower())] if word[0].lower() in _LETTERS else []
    if state.quoted:
        on_all.append(("quoted", "yes"))
    if state.brackets:
        on_all.append(("in_brackets", "yes"))
    if state.words < 2:
        on_all.append(("in_sentence", ("first_word", "second_word")[state.words]))
    if state.before:
        on_all.append(("after", state.before))
    if word[0].isupper():
        on_all.append(("capitals", "first"))
    if word[0].isdigit():
        on_all.append(("number", "digits"))
    for at, token in enumerate(tokens):
        token.update(dict.fromkeys(on_all))
        token["in_word", _part(at, len(tokens))] = None
    tokens[-1].update(dict.fromkeys(_whole(word)))
    state.words += 1
    state.before = _before(word)


_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")


def _part(at: int, count: int) -> str:
    if count == 1:
        return "whole"
    return "first" if at == 0 else "last" if at == count - 1 else "middle"


def _whole(word: str) -> list[ConceptName]:
    """What only the whole word tells."""
    low = word.lower()
    of_word = [("word_class", name) for name, words in _CLASSES.items() if low in words]
    if not of_word and word.isalpha():
        ending = next(
            (e for e in _ENDINGS if low.endswith(e) and len(low) >= len(e) + _LEAST), None
        )
        of_word += [("ending", ending)] if ending else []
    if len(word) > 1 and word.isupper():
        of_word.append(("capitals", "all"))
    if re.fullmatch(r"1\d{3}|20\d\d", word):
        of_word.append(("number", "year"))
    return of_word


def _before(word: str) -> str:
    low = word.lower()
    if low[0].isdigit() or low in _CLASSES["number_word"]:
        return "number"
    return next((c for c in ("determiner", "preposition", "auxiliary") if low in _CLASSES[c]), "")


def _mark(mark: str, token: dict[ConceptName, None], state: _State) -> None:
    token["mark", _MARKS.get(mark, "other")] = None
    if mark in "([":
        state.brackets += 1
    if state.quoted:
        token["quoted", "yes"] = None
    if state.brackets:
        token["in_brackets", "yes"] = None
    if mark == '"':
        state.quoted = not state.quoted
    elif mark in "“”":
        state.quoted = mark == "“"
    elif mark in ")]":
        state.brackets = max(0, state.brackets - 1)
    elif mark in _SENTENCE_ENDS:
        state.words = 0
    state.before = ""
