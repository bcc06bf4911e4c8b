"""Generators of the three tasks for any tokenizer; their words and templates are data files."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from saeworks.embedded.chance import Chance
from saeworks.lm.model import LanguageModel
from saeworks.measure.tasks.cases import Prompt, Task, fits, task_of
from saeworks.measure.tasks.words import Forms, Vocabulary

Draw = Callable[[Chance], Prompt]
"""Makes one prompt."""

_TRIES = 20
"""Draws for each prompt that is asked for: small vocabularies give the same one often."""


def generated_task(name: str, lm: LanguageModel, prompts: int, seed: int) -> Task:
    """At most so many different prompts of a task, drawn with the words that fit the tokenizer.

    Raises:
        UserError: if too few words fit, or too few prompts do.
    """
    vocabulary = Vocabulary(name, lm)
    draw = GENERATORS[name](vocabulary)
    chance = Chance(seed, list(GENERATORS).index(name))
    fitting: dict[Prompt, bool] = {}
    kept = 0
    for _ in range(_TRIES * prompts):
        prompt = draw(chance)
        if prompt not in fitting:
            fitting[prompt] = fits(prompt, lm)
            kept += fitting[prompt]
        if kept == prompts:
            break
    misfits = len(fitting) - kept
    if misfits > kept:
        raise vocabulary.refusal(
            f"{misfits} of {len(fitting)} prompts have prefixes of unequal length, or answers of "
            "several tokens"
        )
    drawn = [prompt for prompt, fit in fitting.items() if fit]
    every = [replace(p, where=f"task {name}, prompt {n + 1}") for n, p in enumerate(drawn)]
    left_out = {**vocabulary.left_out, "prompts": misfits}
    return task_of(name, every, lm, "templates", {k: n for k, n in left_out.items() if n})


def _singles(words: Sequence[str]) -> tuple[Forms, ...]:
    return tuple((word,) for word in words)


def _indirect_object(vocabulary: Vocabulary) -> Draw:
    """Two names, of whom one gives: the other gets it (Wang et al. 2023). In ABBA the one who gets
    it is named first, in BABA second. The patch has the other one give."""
    data = vocabulary.data
    templates = data["templates"]
    spacing, names = vocabulary.answers(
        "names", "He gave a book to", _singles(data["names"]), least=4
    )
    names = vocabulary.alike("names", "When {} and he went", names, least=4)
    places = vocabulary.alike("locations", "They went to the {}.", _singles(data["locations"]))
    objects = vocabulary.alike("objects", "He gave a {} to", _singles(data["objects"]))

    def draw(chance: Chance) -> Prompt:
        (first,), (second,) = chance.sample(names, 2)
        at = chance.integer(0, len(templates) - 1)
        giver, getter, order = (second, first, "ABBA")
        if chance.maybe(0.5):
            giver, getter, order = (first, second, "BABA")
        slots = {"place": chance.pick(places)[0], "object": chance.pick(objects)[0]}

        def prefix(who: str) -> str:
            text: str = templates[at].format(first=first, second=second, giver=who, **slots)
            return text + spacing.at_end

        return Prompt(
            prefix(giver),
            prefix(getter),
            spacing.answer(getter),
            spacing.answer(giver),
            f"{order}-{at + 1}",
        )

    return draw


def _greater_than(vocabulary: Vocabulary) -> Draw:
    """Years: what begins in 1732 ends later in its century (Hanna et al. 2023). The patch begins
    earlier; its answer is right there, and too early for the clean prompt.

    The answer is a year's last two digits where they are one token, else the third digit.
    """
    data = vocabulary.data
    templates = data["templates"]
    frame = "The {} lasted from the year"
    events = vocabulary.alike("events", frame, _singles(data["events"]))
    years = _years(vocabulary, f"{frame.format(events[0][0])} ", data["centuries"])

    def draw(chance: Chance) -> Prompt:
        century = chance.pick(tuple(years))
        by_answer = years[century]
        early, between, late, after = sorted(chance.sample(tuple(by_answer), 4))
        at = chance.integer(0, len(templates) - 1)
        slots = {"event": chance.pick(events)[0], "century": century}

        def prefix(start: str) -> str:
            year = chance.pick(by_answer[start])
            text: str = templates[at].format(start=year, **slots)
            return text

        return Prompt(prefix(late), prefix(early), after, between, f"span-{at + 1}")

    return draw


_FEWEST_YEARS = 20


def _years(
    vocabulary: Vocabulary, before: str, centuries: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Century → what can be answered → the years (two digits) that begin so. All years have as
    many tokens as one another.

    Raises:
        UserError: if no century has enough of them.
    """
    every = [f"{year:02d}" for year in range(2, 99)]
    for digits in (2, 1):
        fitting = {
            century: [y for y in every if vocabulary.cut(before + century, y, digits)]
            for century in centuries
        }
        kept = {c: years for c, years in fitting.items() if len(years) >= _FEWEST_YEARS}
        if kept:
            vocabulary.left_out["centuries"] = len(centuries) - len(kept)
            vocabulary.left_out["years"] = sum(len(every) - len(of) for of in kept.values())
            return {c: _by_answer(years, digits) for c, years in kept.items()}
    raise vocabulary.refusal(
        f"of no century are {_FEWEST_YEARS} years cut into the century and two digits, or two "
        "single digits"
    )


def _by_answer(years: Sequence[str], digits: int) -> dict[str, list[str]]:
    answers = dict.fromkeys(year[:digits] for year in years)
    return {answer: [y for y in years if y.startswith(answer)] for answer in answers}


def _agreement(vocabulary: Vocabulary) -> Draw:
    """The verb agrees with its subject, whatever another noun between them is (Finlayson et al.
    2021; Marks et al. 2024). The patch changes the number of the subject."""
    data = vocabulary.data
    pairs = [tuple(pair) for pair in data["nouns"]]
    nouns = vocabulary.alike("nouns", "The {} near", pairs, least=4)
    kinds = {}
    seen = [tuple(pair) for pair in data["transitive_verbs"]]
    other_verbs = vocabulary.alike("verbs of clauses", "The boy that the girl {} is", seen, least=1)
    for kind, templates in data["kinds"].items():
        within = kind == "within_relative_clause"
        end = "The boy that the girl" if within else "The boy"
        verbs = seen if within else [tuple(pair) for pair in data["verbs"]]
        kinds[kind] = (templates, *vocabulary.answers(f"verbs {kind}", end, verbs, least=1))

    def draw(chance: Chance) -> Prompt:
        kind = chance.pick(tuple(kinds))
        templates, spacing, verbs = kinds[kind]
        at = chance.integer(0, len(templates) - 1)
        plural, other_plural = chance.integer(0, 1), chance.integer(0, 1)
        subject, other = chance.sample(nouns, 2)
        other_verb, verb = chance.pick(other_verbs), chance.pick(verbs)

        def prefix(number: int) -> str:
            text: str = templates[at].format(
                subject=subject[number],
                other=other[other_plural],
                other_verb=other_verb[other_plural],
            )
            return text + spacing.at_end

        numbers = [NUMBERS[plural]] + ([] if kind == "simple" else [NUMBERS[other_plural]])
        return Prompt(
            prefix(plural),
            prefix(1 - plural),
            spacing.answer(verb[plural]),
            spacing.answer(verb[1 - plural]),
            f"{kind}-{at + 1}-{'_'.join(numbers)}",
        )

    return draw


NUMBERS = ("singular", "plural")

GENERATORS: dict[str, Callable[[Vocabulary], Draw]] = {
    "ioi": _indirect_object,
    "greater_than": _greater_than,
    "agreement": _agreement,
}
