"""Domain "chronicle": realms and their rulers, years as a century token and a two-digit token."""

from collections.abc import Callable
from dataclasses import dataclass

from saeworks.embedded import lexicon as lx
from saeworks.embedded.chance import Chance, is_held_out_years
from saeworks.embedded.draft import Draft, Phrase, word

CENTURIES = range(11, 20)
FIRST_YEAR, LAST_START_YEAR, LAST_YEAR = 2, 90, 99

# Every template ends where the end year comes; the two years share their century.
SPAN_TEMPLATES = (
    "The {event} lasted from {start} to",
    "The {event} of {city} ran from the year {start} to",
    "The {adjective} {event} went on from {start} until",
    "The {event} in {realm} began in {start} and ended in",
    "Between the {event} of {start} and",
)
SPAN_TAILS = (
    ".",
    ".",
    ".",
    ".",
    ", {realm} was {adjective}.",
)


def two_digits(number: int) -> str:
    """07, 45, …"""
    return f"{number:02d}"


def year(century: int, low: int, order: str | None = None) -> Phrase:
    """A year as two tokens, labelled with its century, quarter and place in a span."""
    shared = {"century": str(century), "year_quarter": str(low // 25 + 1)}
    if order:
        shared["year_order"] = order
    return Phrase(
        (
            (str(century), {**shared, "year_part": "century"}),
            (two_digits(low), {**shared, "year_part": "low"}),
        )
    )


@dataclass
class Annals:
    """What a chronicle keeps in mind: the realm, its ruler, the century."""

    chance: Chance
    draft: Draft
    realm: str
    century: int
    ruler: str
    queen: bool
    rivals: list[str]

    def slots(self) -> dict[str, Phrase | str]:
        """The slots any sentence of the chronicle may use."""
        gender = "female" if self.queen else "male"
        title = "Queen" if self.queen else "King"
        ruler = word(title, name_gender=gender).then(
            word(self.ruler, name=self.ruler, name_gender=gender)
        )
        chance = self.chance
        return {
            "realm": word(self.realm, realm="own"),
            "rival": word(chance.pick(self.rivals), realm="rival"),
            "city": word(chance.pick(lx.CITIES)),
            "ruler": ruler,
            "event": word(chance.pick_early(lx.LONG_EVENTS), number="singular", noun_class="event"),
            "adjective": word(chance.pick_early(lx.EVENT_ADJECTIVES)),
            "people": word(chance.pick_early(lx.PEOPLE_PLURAL), number="plural"),
            "did": word(chance.pick_early(lx.PEOPLE_VERBS), tense="past"),
            "building": word(
                chance.pick_early(lx.BUILDINGS),
                number="singular",
                noun_class="building",
            ),
            "amount": word(chance.pick_early(lx.NUMBER_WORDS)),
            "he": word("she" if self.queen else "he", name_gender=gender),
            "his": word("her" if self.queen else "his", name_gender=gender),
        }


def draw_end(chance: Chance, century: int, start: int, held_out: bool) -> int | None:
    """An end year after the start, of a combination that is held out or is not, as asked; None
    where every end year falls on the other side."""
    allowed = [
        end
        for end in range(start + 1, LAST_YEAR + 1)
        if is_held_out_years(century, start, end) == held_out
    ]
    return chance.pick(allowed) if allowed else None


EVENTS = (
    " In {year}, {ruler} {did} the {building} of {city}.",
    " In {year}, the {people} of {realm} {did} the {building}.",
    " By {year}, {amount} {people} had left {realm} for {rival}.",
    " {ruler} feared {rival}, so {he} {did} the {building} in {year}.",
    " The {event} of {year} was {adjective}.",
    " After {year}, {realm} and {rival} were friends.",
)
REMARKS = (
    " The {people} of {realm} called it the {adjective} {event}.",
    " {ruler} gave {amount} gates to {city} and lost {his} crown.",
    " Nobody in {realm} trusted the {people} of {rival}.",
)
SAYINGS = (
    "The {event} was {adjective}.",
    "Our {people} never feared {rival}.",
    "May {ruler} save {realm}!",
)


def write_chronicle(chance: Chance, draft: Draft) -> None:
    """One chronicle; half of them tell their years in order."""
    queen = chance.maybe(0.5)
    realms = chance.sample(lx.REALMS, 3)
    annals = Annals(
        chance, draft, realms[0], chance.pick(CENTURIES),
        ruler=chance.pick(lx.QUEENS if queen else lx.KINGS), queen=queen, rivals=realms[1:],
    )  # fmt: skip
    count = chance.integer(4, 7)
    years = [chance.integer(FIRST_YEAR, LAST_START_YEAR) for _ in range(count)]
    if chance.maybe(0.5):
        years.sort()
    if chance.maybe(0.4):
        draft.write("The annals of {realm} under {ruler}:", **annals.slots())
    writers: tuple[Callable[[Annals, int], None], ...]
    writers = (_write_span, _write_span, _write_span, _write_event, _write_event, _write_later,
               _write_saying, _write_remark)  # fmt: skip
    for low in years:
        writer = chance.pick(writers) if draft.tokens else _write_span
        writer(annals, low)


def _write_span(annals: Annals, low: int) -> None:
    end = draw_end(annals.chance, annals.century, low, held_out=False)
    if end is None:
        return
    which = annals.chance.integer(0, len(SPAN_TEMPLATES) - 1)
    opening = " " if annals.draft.tokens else ""
    annals.draft.write(
        opening + SPAN_TEMPLATES[which] + " {end}" + SPAN_TAILS[which],
        start=year(annals.century, low, "start"),
        end=year(annals.century, end, "end"),
        **annals.slots(),
    )


def _write_event(annals: Annals, low: int) -> None:
    slots = {**annals.slots(), "year": year(annals.century, low)}
    annals.draft.write(annals.chance.pick_early(EVENTS), **slots)


def _write_later(annals: Annals, low: int) -> None:
    """Two sentences, the second one ten years after the first."""
    slots = {**annals.slots(), "year": year(annals.century, low)}
    annals.draft.write(" In {year}, {ruler} went to {city}.", **slots)
    if low + 10 <= LAST_YEAR:
        slots["later"] = year(annals.century, low + 10)
        annals.draft.write(" Ten years later, in {later}, {he} came home.", **slots)


def _write_saying(annals: Annals, low: int) -> None:
    slots = {**annals.slots(), "year": year(annals.century, low)}
    annals.draft.write(" In {year} a monk wrote, ", **slots)
    with annals.draft.quote():
        annals.draft.write(annals.chance.pick_early(SAYINGS), **slots)


def _write_remark(annals: Annals, low: int) -> None:
    annals.draft.write(annals.chance.pick_early(REMARKS), **annals.slots())
