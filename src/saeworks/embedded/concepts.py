"""The concepts that label the tokens of the embedded documents."""

from dataclasses import dataclass

from saeworks.embedded import lexicon as lx


@dataclass(frozen=True)
class Concept:
    """One concept: on which tokens it stands, and its values there."""

    name: str
    description: str
    values: tuple[str, ...]


def _values(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_PEOPLE = (*lx.FEMALE_NAMES, *lx.MALE_NAMES, *lx.QUEENS, *lx.KINGS)

CONCEPTS: tuple[Concept, ...] = (
    Concept("domain", "kind of document; every token",
            _values("story chronicle description recipe log")),
    Concept("part_of_speech", "word class; every token",
            _values("noun verb adjective adverb name pronoun determiner preposition conjunction "
                    "number punctuation")),
    Concept("quote_depth", "quotations around the token, the marks included; every token",
            _values("0 1 2")),
    Concept("number", "grammatical number; nouns, agreeing verbs, quantifiers and pronouns",
            _values("singular plural")),
    Concept("tense", "verbs", _values("past present imperative")),
    Concept("noun_class", "what kind of thing a noun names",
            _values("animal furniture tool plant person object place event building dish "
                    "ingredient vessel resource")),
    Concept("lemma", "singular of the noun, whatever its number; descriptions",
            tuple(entry[0] for entry in lx.NOUNS)),
    Concept("name", "which person; names", _PEOPLE),
    Concept("name_gender", "gender of names, titles and of pronouns that stand for them",
            _values("female male")),
    Concept("role", "part in a gift sentence (subject and indirect_object at first mention, "
            "second_mention of the giver, recipient = the indirect object again, object, place) "
            "or in an agreement sentence (head, attractor, agreeing_verb)",
            _values("subject indirect_object second_mention recipient object place head attractor "
                    "agreeing_verb")),
    Concept("attractor_number", "number of the attractor against the head's; attractors and "
            "agreeing verbs", _values("same different")),
    Concept("verb_lemma", "base form of the agreeing verb",
            _values("be look seem appear become have")),
    Concept("mood", "mood of a story; every token of it", _values("happy sad")),
    Concept("mood_word", "adjectives and adverbs of mood", _values("happy sad")),
    Concept("season", "season of a description; every token of it", tuple(lx.SEASONS)),
    Concept("season_word", "words that tell the season", tuple(lx.SEASONS)),
    Concept("realm", "realm names: the chronicle's own or another", _values("own rival")),
    Concept("century", "first two digits of a year; both tokens of the year",
            tuple(str(c) for c in range(11, 20))),
    Concept("year_part", "which token of a year", _values("century low")),
    Concept("year_quarter", "quarter of its century; both tokens of a year", _values("1 2 3 4")),
    Concept("year_order", "start or end of a span of years", _values("start end")),
    Concept("units", "system of units of a recipe; every token of it", tuple(lx.UNITS)),
    Concept("unit", "words for units", tuple(lx.UNITS)),
    Concept("ingredient_kind", "kind of an ingredient", tuple(lx.INGREDIENTS)),
    Concept("step", "number of a recipe's step; every token of the step", _values("1 2 3 4 5")),
    Concept("severity", "severity of a log line; every token of the line",
            _values("info warning error")),
    Concept("service", "which service writes the log; its name", lx.SERVICES),
    Concept("time_part", "clock times of a log", _values("hour minute")),
    Concept("identifier", "first digit of a two-digit identifier in a log",
            tuple(str(d) for d in range(1, 10))),
)  # fmt: skip
