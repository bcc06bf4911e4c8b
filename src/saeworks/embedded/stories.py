"""Domain "story": people with names, gifts, dialogue with nested quotes, a mood that lasts."""

from collections.abc import Callable
from dataclasses import dataclass

from saeworks.embedded import lexicon as lx
from saeworks.embedded.chance import Chance, is_held_out_gift
from saeworks.embedded.draft import Draft, Phrase, word

# Every template ends where the recipient's name comes. {first}, {second} are the two people,
# {giver} repeats one of them, the other is the answer.
GIFT_TEMPLATES = (
    "When {first} and {second} went to the {place}, {giver} {verb} {article} {gift} to",
    "After {first} and {second} left the {place}, {giver} {verb} {article} {gift} to",
    "While {first} and {second} were at the {place}, {giver} {verb} {article} {gift} to",
    "Then {first} and {second} met at the {place}. {giver} {verb} {article} {gift} to",
    "Yesterday {first} and {second} walked to the {place}, and {giver} {verb} {article} {gift} to",
    (
        "The friends {first} and {second} were near the {place}, "
        "where {giver} {verb} {article} {gift} to"
    ),
    "Because {first} and {second} liked the {place}, {giver} {verb} {article} {gift} to",
    "Once {first} saw {second} at the {place}, and there {giver} {verb} {article} {gift} to",
)


@dataclass(frozen=True)
class Gift:
    """The fillers of a gift sentence; `giver` is `first` or `second`."""

    template: str
    first: str
    second: str
    giver: str
    place: str
    gift: str
    verb: str

    @property
    def recipient(self) -> str:
        """The one of the two who does not give."""
        return self.second if self.giver == self.first else self.first

    def slots(self) -> dict[str, Phrase]:
        """The phrases of the template's slots, with names, genders and roles."""
        role = {self.giver: "subject", self.recipient: "indirect_object"}
        return {
            "first": name(self.first, role[self.first]),
            "second": name(self.second, role[self.second]),
            "giver": name(self.giver, "second_mention"),
            "place": word(self.place, number="singular", role="place", noun_class="place"),
            "gift": word(self.gift, number="singular", role="object", noun_class="object"),
            "article": word("an" if self.gift[0] in "aeiou" else "a"),
            "verb": word(self.verb, tense="past"),
        }


def name(text: str, role: str | None = None) -> Phrase:
    """A person's name with its gender."""
    gender = "female" if text in lx.FEMALE_NAMES else "male"
    phrase = word(text, name=text, name_gender=gender)
    return phrase.tagged(role=role) if role else phrase


def draw_gift(chance: Chance, first: str, second: str, held_out: bool) -> Gift:
    """A gift between the two whose combination is held out, or is not, as asked."""
    while True:
        place, gift = chance.pick(lx.SHOP_PLACES), chance.pick(lx.GIFTS)
        if is_held_out_gift(first, second, gift, place) == held_out:
            break
    one, other = chance.sample((first, second), 2)
    giver = chance.pick((first, second))
    template, verb = chance.pick(GIFT_TEMPLATES), chance.pick(lx.GIVING_VERBS)
    return Gift(template, one, other, giver, place, gift, verb)


@dataclass
class Plot:
    """What a story keeps in mind from its first sentence to its last."""

    chance: Chance
    draft: Draft
    hero: str
    friend: str
    place: str
    thing: str
    pet: str
    happy: bool

    def adjective(self) -> str:
        return self.chance.pick(lx.HAPPY_ADJECTIVES if self.happy else lx.SAD_ADJECTIVES)

    def adverb(self) -> str:
        return self.chance.pick(lx.HAPPY_ADVERBS if self.happy else lx.SAD_ADVERBS)

    def slots(self) -> dict[str, Phrase | str]:
        """The slots any sentence of the story may use."""
        mood = "happy" if self.happy else "sad"
        female = self.hero in lx.FEMALE_NAMES
        gender = "female" if female else "male"
        return {
            "hero": name(self.hero),
            "friend": name(self.friend),
            "place": word(self.place, number="singular", noun_class="place"),
            "thing": word(self.thing, number="singular", noun_class="object"),
            "pet": word(self.pet, number="singular", noun_class="animal"),
            "mood": word(self.adjective(), mood_word=mood),
            "how": word(self.adverb(), mood_word=mood),
            "he": word("she" if female else "he", name_gender=gender),
            "He": word("She" if female else "He", name_gender=gender),
            "his": word("her" if female else "his", name_gender=gender),
        }


OPENINGS = (
    "One morning {hero} met {friend} at the {place}.",
    "In the {place} lived {hero} with a {mood} {pet}.",
    "Every day {hero} walked to the {place} with {friend}.",
    "Long ago a {pet} followed {hero} to the {place}.",
    "There was a {thing} in the {place}, and {hero} found the {thing}.",
)
SENTENCES = (
    " {hero} looked for the {thing} in the {place}, but {he} found only the {pet}.",
    " The {pet} was {mood}, and so was {friend}.",
    " {hero} felt {mood} because {friend} had lost the {thing}.",
    " The {thing} was under the table, so {hero} took the {thing} and smiled {how}.",
    " {hero} walked {how} to the {place}. {He} carried the {thing} in {his} bag.",
    " {friend} and {hero} played with the {pet} near the {place}.",
    " {hero} lost {his} {thing}, and then {he} looked {mood}.",
    " Only {friend} knew that {hero} kept the {thing} in the {place}.",
    " The {pet} followed {hero} {how}, and {friend} followed the {pet}.",
)
ENDINGS = (
    " At last {hero} and {friend} went home {how}.",
    " In the end {hero} was {mood}, and {friend} was {mood} too.",
    " That night {hero} and the {pet} slept {how}.",
)
SPEECH_TAGS = (
    " said {speaker} {how}.",
    " whispered {speaker}.",
    " said {speaker} to {listener}.",
)
SPEECHES = (
    "I am so {mood} today,",
    "We must find the {thing},",
    "The {pet} is in the {place},",
    "My {thing} is at the {place},",
    "You look {mood}, my friend,",
)
QUESTIONS = (
    ("Where is the {thing}?", "The {thing} is in the {place}."),
    ("Who has the {pet}?", "I saw the {pet} at the {place}."),
    ("Are you {mood}?", "Yes, I am {mood}."),
    ("Is this your {thing}?", "No, my {thing} is in the {place}."),
)
MESSAGES = (
    "Bring the {thing} to the {place}!",
    "The {pet} is lost!",
    "I am {mood} without the {thing}.",
    "Come to the {place} with the {pet}.",
)


def write_story(chance: Chance, draft: Draft) -> None:
    """One story."""
    hero, friend = chance.sample((*lx.FEMALE_NAMES, *lx.MALE_NAMES), 2)
    plot = Plot(
        chance, draft, hero, friend,
        place=chance.pick(lx.SHOP_PLACES), thing=chance.pick(lx.GIFTS),
        pet=chance.pick_early(lx.PETS), happy=chance.maybe(0.5),
    )  # fmt: skip
    with draft.scope(mood="happy" if plot.happy else "sad"):
        if chance.maybe(0.5):
            _write_gift(plot)
        else:
            draft.write(chance.pick_early(OPENINGS), **plot.slots())
        events: tuple[Callable[[Plot], None], ...]
        events = (_write_gift, _write_sentence, _write_sentence, _write_speech, _write_question,
                  _write_message)  # fmt: skip
        for _ in range(chance.integer(2, 5)):
            chance.pick(events)(plot)
        draft.write(chance.pick_early(ENDINGS), **plot.slots())


def _write_gift(plot: Plot) -> None:
    gift = draw_gift(plot.chance, plot.hero, plot.friend, held_out=False)
    opening = " " if plot.draft.tokens else ""
    recipient = name(gift.recipient, "recipient")
    plot.draft.write(opening + gift.template + " {recipient}.", recipient=recipient, **gift.slots())


def _write_sentence(plot: Plot) -> None:
    plot.draft.write(plot.chance.pick_early(SENTENCES), **plot.slots())


def _write_speech(plot: Plot) -> None:
    speaker, listener = plot.chance.sample((plot.hero, plot.friend), 2)
    slots = {**plot.slots(), "speaker": name(speaker), "listener": name(listener)}
    plot.draft.write(" ")
    with plot.draft.quote():
        plot.draft.write(plot.chance.pick_early(SPEECHES), **slots)
    plot.draft.write(plot.chance.pick_early(SPEECH_TAGS), **slots)


def _write_question(plot: Plot) -> None:
    """One asks, the other answers about the same thing."""
    asker, answerer = plot.chance.sample((plot.hero, plot.friend), 2)
    question, answer = plot.chance.pick_early(QUESTIONS)
    for speaker, verb, text in (
        (asker, "asked", question),
        (answerer, "answered", answer),
    ):
        plot.draft.write(
            " {speaker} {verb}, ", speaker=name(speaker), verb=word(verb, tense="past")
        )
        with plot.draft.quote():
            plot.draft.write(text, **plot.slots())


def _write_message(plot: Plot) -> None:
    """A quote within a quote."""
    speaker, sender = plot.chance.sample((plot.hero, plot.friend), 2)
    plot.draft.write(" {speaker} said, ", speaker=name(speaker))
    with plot.draft.quote():
        plot.draft.write("The letter from {sender} says, ", sender=name(sender))
        with plot.draft.quote():
            plot.draft.write(plot.chance.pick_early(MESSAGES), **plot.slots())
