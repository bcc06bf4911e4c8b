"""Domain "description": the present tense, subjects and verbs that agree across attractors."""

from collections.abc import Callable
from dataclasses import dataclass

from saeworks.embedded import lexicon as lx
from saeworks.embedded.chance import Chance, is_held_out_agreement
from saeworks.embedded.draft import Draft, Phrase, word

Noun = tuple[str, str, str]
Verb = tuple[str, str, str]

# Every template ends where the verb that agrees with {head} comes.
AGREEMENT_TEMPLATES = (
    "The {head} {near} the {attractor}",
    "The {adjective} {head} {near} the {attractor}",
    "The {head} {near} the {adjective} {attractor}",
    "The {head} that {sees} the {attractor}",
    "The {head} that the {attractor} {saw}",
    "In the {scene}, the {head} {near} the {attractor}",
)
TASK_VERBS = (*lx.LINKING_VERBS, lx.HAVE)


@dataclass(frozen=True)
class Agreement:
    """The fillers of a subject–verb sentence; `plural` and `attractor_plural` are free."""

    template: str
    head: Noun
    plural: bool
    attractor: Noun
    attractor_plural: bool
    verb: Verb
    seeing: Verb
    near: str
    adjective: str
    scene: str

    @property
    def verb_form(self) -> str:
        """The form of the verb that agrees with the head."""
        return self.verb[2 if self.plural else 1]

    def slots(self) -> dict[str, Phrase | str]:
        """The phrases of the template's slots."""
        relation = "same" if self.plural == self.attractor_plural else "different"
        return {
            "head": noun(self.head, self.plural).tagged(role="head"),
            "attractor": noun(self.attractor, self.attractor_plural).tagged(
                role="attractor", attractor_number=relation
            ),
            "sees": verb(self.seeing, self.plural),
            "saw": verb(self.seeing, self.attractor_plural),
            "near": self.near,
            "adjective": self.adjective,
            "scene": word(self.scene, number="singular", noun_class="place"),
            "verb": verb(self.verb, self.plural).tagged(
                role="agreeing_verb", attractor_number=relation, verb_lemma=self.verb[0]
            ),
        }


def noun(entry: Noun, plural: bool) -> Phrase:
    """A noun in one of its numbers, with its class."""
    singular, many, noun_class = entry
    number = "plural" if plural else "singular"
    text = many if plural else singular
    return word(text, number=number, noun_class=noun_class, lemma=singular)


def verb(entry: Verb, plural: bool) -> Phrase:
    """A present-tense verb in one of its numbers."""
    number = "plural" if plural else "singular"
    return word(entry[2 if plural else 1], number=number, tense="present")


def draw_agreement(chance: Chance, held_out: bool) -> Agreement:
    """A sentence whose (head, attractor, verb) is held out, or is not, as asked."""
    while True:
        head, attractor = chance.sample(lx.NOUNS, 2)
        main = chance.pick(TASK_VERBS)
        if is_held_out_agreement(head[0], attractor[0], main[0]) == held_out:
            break
    return Agreement(
        chance.pick(AGREEMENT_TEMPLATES),
        head,
        chance.maybe(0.5),
        attractor,
        chance.maybe(0.5),
        main,
        chance.pick(lx.SEEING_VERBS),
        chance.pick(lx.NEAR_PREPOSITIONS),
        chance.pick(lx.LOOK_ADJECTIVES),
        chance.pick(lx.SCENES),
    )


@dataclass
class Scene:
    """What a description keeps in mind: where and in which season it is."""

    chance: Chance
    draft: Draft
    place: str
    season: str

    def slots(self) -> dict[str, Phrase | str]:
        """The slots any sentence may use."""
        weather, signs = lx.SEASONS[self.season]
        return {
            "scene": word(self.place, number="singular", noun_class="place"),
            "season": word(self.season, season_word=self.season),
            "weather": word(self.chance.pick_early(weather), season_word=self.season),
            "sign": word(self.chance.pick_early(signs), season_word=self.season, number="plural"),
            "near": self.chance.pick(lx.NEAR_PREPOSITIONS),
        }


OPENINGS = (
    "It is {season} in the {scene}, and the air is {weather}.",
    "The {scene} is {weather} in {season}.",
    "Look at the {scene}: it is a {weather} day in {season}.",
)
SEASON_SENTENCES = (
    " The {scene} is {weather} today.",
    " There are {sign} in the {scene}.",
    " Nobody minds the {sign}, because it is {season}.",
    " The {weather} wind blows {near} the {scene}.",
)


def write_description(chance: Chance, draft: Draft) -> None:
    """One description; a third of them start in the middle, with an agreement sentence."""
    scene = Scene(chance, draft, chance.pick(lx.SCENES), chance.pick(tuple(lx.SEASONS)))
    with draft.scope(season=scene.season):
        if chance.maybe(0.65):
            draft.write(chance.pick_early(OPENINGS), **scene.slots())
        writers: tuple[Callable[[Scene], None], ...]
        writers = (_write_agreement, _write_agreement, _write_agreement, _write_intransitive,
                   _write_quantified, _write_season, _write_label)  # fmt: skip
        for _ in range(chance.integer(4, 7)):
            writer = chance.pick(writers) if draft.tokens else _write_agreement
            writer(scene)


def _space(scene: Scene) -> str:
    return " " if scene.draft.tokens else ""


def _write_agreement(scene: Scene) -> None:
    """The head, the attractor, the verb, and often a pronoun that agrees as well."""
    chance, draft = scene.chance, scene.draft
    agreement = draw_agreement(chance, held_out=False)
    noun_class = agreement.head[2]
    number = "plural" if agreement.plural else "singular"
    draft.write(_space(scene) + agreement.template + " {verb}", **agreement.slots())
    if agreement.verb == lx.HAVE:
        part = word(chance.pick_early(lx.CLASS_PARTS[noun_class]), number="singular")
        draft.write(" a {look} {part}.", look=_consonant_adjective(chance), part=part)
    else:
        draft.write(" {quality}.", quality=chance.pick_early(lx.CLASS_ADJECTIVES[noun_class]))
    if chance.maybe(0.4):
        copula = verb(lx.LINKING_VERBS[0], agreement.plural)
        draft.write(
            " {They} {are} {also} {quality}.",
            They=word("They" if agreement.plural else "It", number=number),
            are=copula,
            also=chance.pick(("also", "very", "rather")),
            quality=chance.pick_early(lx.CLASS_ADJECTIVES[noun_class]),
        )


def _consonant_adjective(chance: Chance) -> str:
    """An adjective that goes with "a"."""
    return chance.pick_early(lx.LOOK_ADJECTIVES[1:])


def _write_intransitive(scene: Scene) -> None:
    """The verb depends on the class of its subject."""
    chance = scene.chance
    entry, plural = chance.pick(lx.NOUNS), chance.maybe(0.5)
    forms = chance.pick_early(lx.CLASS_VERBS[entry[2]])
    scene.draft.write(
        _space(scene) + "The {quality} {head} {verb} {near} the {scene}.",
        **{
            **scene.slots(),
            "quality": chance.pick_early(lx.CLASS_ADJECTIVES[entry[2]]),
            "head": noun(entry, plural),
            "verb": verb(("", *forms), plural),
        },
    )


def _write_quantified(scene: Scene) -> None:
    """A quantifier that decides the number of noun and verb."""
    chance = scene.chance
    entry, plural = chance.pick(lx.NOUNS), chance.maybe(0.5)
    number = "plural" if plural else "singular"
    quantifier = chance.pick(lx.PLURAL_QUANTIFIERS if plural else lx.SINGULAR_QUANTIFIERS)
    scene.draft.write(
        " In the {scene}, {quantifier} {head} {verb} {quality}.",
        **{
            **scene.slots(),
            "quantifier": word(quantifier, number=number),
            "head": noun(entry, plural),
            "verb": verb(chance.pick(lx.LINKING_VERBS), plural),
            "quality": chance.pick_early(lx.CLASS_ADJECTIVES[entry[2]]),
        },
    )


def _write_season(scene: Scene) -> None:
    scene.draft.write(scene.chance.pick_early(SEASON_SENTENCES), **scene.slots())


def _write_label(scene: Scene) -> None:
    """A written sign: a quotation in the present tense."""
    chance = scene.chance
    entry, plural = chance.pick(lx.NOUNS), chance.maybe(0.5)
    scene.draft.write(" A sign {near} the {scene} says, ", **scene.slots())
    with scene.draft.quote():
        scene.draft.write(
            "The {head} {is} {quality}!",
            head=noun(entry, plural),
            **{"is": verb(lx.LINKING_VERBS[0], plural)},
            quality=chance.pick_early(lx.CLASS_ADJECTIVES[entry[2]]),
        )
