"""Parts of speech of the grammar's words; the closed classes are listed, the rest derived."""

from functools import cache

from saeworks.embedded import lexicon as lx

_CLOSED = {
    "determiner": "the a an this that every each all some both many several few his her my your "
    "our its one nobody",
    "pronoun": "i you he she it they we who him it them there where what nobody",
    "preposition": "to of in at near from with for under by after until between without behind "
    "beside above below over on",
    "conjunction": "and but so because when while that then once or than only if",
    "adverb": "yesterday too very also rather home never not yes no later today last ago long "
    "so now",
    "verb": "went left were met walked liked saw lived followed was found looked felt had lost "
    "took smiled carried played knew kept slept said whispered asked answered says is are am has "
    "have must look bring come lasted ran began ended called trusted gave feared wrote save use "
    "do burn be serve serves add opened closed may blows minds been returned came find",
    "noun": "friends friend year annals day basket morning night table bag letter end crown gates "
    "years monk king queen air wind sign minutes cook recipe retry client people sofa",
    "adjective": "clean fresh ready slow idle busy hot cold lost ten",
}


@cache
def _table() -> dict[str, str]:
    table: dict[str, str] = {}

    def add(part: str, texts: object) -> None:
        if isinstance(texts, str):
            table.setdefault(texts, part)
        elif isinstance(texts, dict):
            for value in texts.values():
                add(part, value)
        else:
            for value in texts:  # type: ignore[attr-defined]
                add(part, value)

    add(
        "name",
        (lx.FEMALE_NAMES, lx.MALE_NAMES, lx.REALMS, lx.CITIES, lx.KINGS, lx.QUEENS),
    )
    for part, texts in _CLOSED.items():
        add(part, texts.split())
    add("verb", (lx.GIVING_VERBS, lx.PEOPLE_VERBS, lx.CLASS_VERBS, lx.INGREDIENT_VERBS))
    add("verb", [forms[1:] for forms in (*lx.LINKING_VERBS, *lx.SEEING_VERBS, lx.HAVE)])
    add(
        "noun",
        (
            lx.SHOP_PLACES,
            lx.GIFTS,
            lx.PETS,
            lx.LONG_EVENTS,
            lx.PEOPLE_PLURAL,
            lx.BUILDINGS,
        ),
    )
    add("noun", [entry[:2] for entry in lx.NOUNS])
    add(
        "noun",
        (lx.CLASS_PARTS, tuple(lx.SEASONS), [pair[1] for pair in lx.SEASONS.values()]),
    )
    add("noun", (lx.SCENES, lx.DISHES, lx.INGREDIENTS, lx.UNITS, lx.VESSELS))
    add("noun", (lx.SERVICES, lx.RESOURCES, "timeout", "overflow"))
    add("adjective", (lx.HAPPY_ADJECTIVES, lx.SAD_ADJECTIVES, lx.EVENT_ADJECTIVES))
    add("adjective", (lx.CLASS_ADJECTIVES, lx.LOOK_ADJECTIVES, lx.FAULTS))
    add("adjective", [pair[0] for pair in lx.SEASONS.values()])
    add("adverb", (lx.HAPPY_ADVERBS, lx.SAD_ADVERBS))
    add("number", lx.NUMBER_WORDS)
    add("noun", ("info", "warning", "error"))
    return table


@cache
def part_of_speech(token: str) -> str:
    """The part of speech of one token, `other` where the tables do not know it."""
    text = token.strip()
    if text.isdigit():
        return "number"
    if not text.isalpha():
        return "punctuation"
    table = _table()
    return table.get(text) or table.get(text.lower(), "other")
