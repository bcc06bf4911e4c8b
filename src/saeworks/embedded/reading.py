"""Which concepts stand on the words of a text of the grammar, read from the text alone.

For text that a model wrote, of which nobody knows the labels. A text's words vote for its domain;
in that domain a word has the concepts that the grammar gives it there; what holds for a whole
document (mood, season, units) is decided by the words that tell it. What the words do not decide is
left open, as are concepts that need more than a text's own words (`READ` lists those that are
read). `tests/embedded/test_reading.py` states how often that is right.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from saeworks.embedded import lexicon as lx
from saeworks.embedded.draft import Concepts
from saeworks.embedded.parts_of_speech import part_of_speech

READ = (
    "domain",
    "part_of_speech",
    "number",
    "noun_class",
    "name",
    "name_gender",
    "mood",
    "mood_word",
    "season",
    "season_word",
    "century",
    "units",
    "unit",
    "ingredient_kind",
    "severity",
    "service",
)
"""Concepts that are read. Of `number`, on nouns alone."""
_WHOLE = {"mood": "mood_word", "season": "season_word", "units": "unit"}
"""Concepts of a whole document, and the words that tell them."""
_SEVERITIES = ("info", "warning", "error")


def read_concepts(tokens: Sequence[str]) -> tuple[Concepts, ...]:
    """The concepts of each token of a text, or of a part of one (surfaces as the tokenizer has
    them, with the space before them)."""
    words = [token.strip() for token in tokens]
    domain = _most(_only_in()[word] for word in words if word in _only_in())
    labels: list[Concepts] = [{"part_of_speech": part_of_speech(token)} for token in tokens]
    if domain is None:
        return tuple(labels)
    table = _words()[domain]
    for word, of_token in zip(words, labels, strict=True):
        of_token |= {"domain": domain, **table.get(word, {})}
    for concept, told_by in _WHOLE.items():
        value = _most(of_token[told_by] for of_token in labels if told_by in of_token)
        if value is not None:
            for of_token in labels:
                of_token[concept] = value
    if domain == "log":
        _read_lines(words, tokens, labels)
    if domain == "chronicle":
        _read_years(words, tokens, labels)
    return tuple(labels)


def _most(values: Iterable[str]) -> str | None:
    """The value that stands most often; None where there is none, or two do."""
    counts = Counter(values).most_common(2)
    if not counts or (len(counts) == 2 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def _read_lines(words: Sequence[str], tokens: Sequence[str], labels: Sequence[Concepts]) -> None:
    """Severity, of every token of a line."""
    start = 0
    ends = [at for at, token in enumerate(tokens) if token == "\n" and at] + [len(tokens)]
    for end in ends:
        severity = next((word for word in words[start:end] if word in _SEVERITIES), None)
        if severity is not None:
            for of_token in labels[start:end]:
                of_token["severity"] = severity
        start = end


def _read_years(words: Sequence[str], tokens: Sequence[str], labels: Sequence[Concepts]) -> None:
    """Centuries: of two pairs of digits without a space between them."""
    for at in range(len(words) - 1):
        if words[at] in _CENTURIES and tokens[at + 1].isdigit():
            for of_token in labels[at : at + 2]:
                of_token["century"] = words[at]


_CENTURIES = frozenset(str(century) for century in range(11, 20))


@cache
def _only_in() -> Mapping[str, str]:
    """Words of one domain alone, and which."""
    owners: dict[str, list[str]] = {}
    for domain, words in _words().items():
        for word in words:
            owners.setdefault(word, []).append(domain)
    return {word: domains[0] for word, domains in owners.items() if len(domains) == 1}


@cache
def _words() -> Mapping[str, Mapping[str, Concepts]]:
    """Domain → word → its concepts there."""
    return {
        "story": _story(),
        "chronicle": _chronicle(),
        "description": _description(),
        "recipe": _recipe(),
        "log": _all(lx.RESOURCES, noun_class="resource")
        | {name: {"service": name} for name in lx.SERVICES}
        | _all((*lx.FAULTS, *_SEVERITIES, "opened", "closed", "retry", "client")),
    }


def _all(words: Iterable[str], **concepts: str) -> dict[str, Concepts]:
    return {word: dict(concepts) for word in words}


def _people(names: Iterable[str], gender: str) -> dict[str, Concepts]:
    return {name: {"name": name, "name_gender": gender} for name in names}


def _pronouns() -> dict[str, Concepts]:
    female = _all(("she", "She", "her"), name_gender="female")
    return female | _all(("he", "He", "his"), name_gender="male")


def _story() -> dict[str, Concepts]:
    return (
        _all(lx.GIFTS, number="singular", noun_class="object")
        | _all(lx.SHOP_PLACES, number="singular", noun_class="place")
        | _all(lx.PETS, number="singular", noun_class="animal")
        | _all(lx.GIVING_VERBS)
        | _all((*lx.HAPPY_ADJECTIVES, *lx.HAPPY_ADVERBS), mood_word="happy")
        | _all((*lx.SAD_ADJECTIVES, *lx.SAD_ADVERBS), mood_word="sad")
        | _people(lx.FEMALE_NAMES, "female")
        | _people(lx.MALE_NAMES, "male")
        | _pronouns()
    )


def _chronicle() -> dict[str, Concepts]:
    return (
        _all((*lx.REALMS, *lx.CITIES, *lx.EVENT_ADJECTIVES, *lx.PEOPLE_VERBS))
        | _all(lx.LONG_EVENTS, number="singular", noun_class="event")
        | _all(lx.BUILDINGS, number="singular", noun_class="building")
        | _all(lx.PEOPLE_PLURAL, number="plural")
        | _people(lx.QUEENS, "female")
        | _people(lx.KINGS, "male")
        | _all(("Queen",), name_gender="female")
        | _all(("King",), name_gender="male")
        | _pronouns()
    )


def _description() -> dict[str, Concepts]:
    words = _all(word for adjectives in lx.CLASS_ADJECTIVES.values() for word in adjectives)
    words |= _all(lx.LOOK_ADJECTIVES) | _all(lx.SCENES, number="singular", noun_class="place")
    for singular, plural, noun_class in lx.NOUNS:
        for word, number in ((singular, "singular"), (plural, "plural")):
            words[word] = {"number": number, "noun_class": noun_class}
    for season, (weather, signs) in lx.SEASONS.items():
        words |= _all((season, *weather), season_word=season)
        words |= _all(signs, season_word=season, number="plural")
    return words


def _recipe() -> dict[str, Concepts]:
    words = _all(lx.DISHES, noun_class="dish")
    words |= _all(lx.VESSELS, number="singular", noun_class="vessel")
    words |= _all(word for verbs in lx.INGREDIENT_VERBS.values() for word in verbs)
    for kind, ingredients in lx.INGREDIENTS.items():
        words |= _all(ingredients, noun_class="ingredient", ingredient_kind=kind)
    for system, units in lx.UNITS.items():
        words |= _all(units.values(), unit=system, number="plural")
    return words
