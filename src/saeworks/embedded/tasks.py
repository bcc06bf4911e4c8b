"""Prompts of the three circuit tasks, on combinations that training never saw."""

from dataclasses import dataclass

from saeworks.embedded import lexicon as lx
from saeworks.embedded.chance import Chance, is_held_out_years
from saeworks.embedded.chronicles import (
    CENTURIES,
    FIRST_YEAR,
    LAST_START_YEAR,
    LAST_YEAR,
    SPAN_TEMPLATES,
    Annals,
    two_digits,
    year,
)
from saeworks.embedded.descriptions import AGREEMENT_TEMPLATES, TASK_VERBS, draw_agreement
from saeworks.embedded.draft import Draft, Phrase
from saeworks.embedded.stories import GIFT_TEMPLATES, draw_gift
from saeworks.errors import UserError


@dataclass(frozen=True)
class TaskPrompt:
    """A clean prompt beside its patched twin: as many tokens, another right answer.

    Answers are single tokens, with their leading space where they have one, so that
    `clean_prefix + clean_answer` is plain text. `valid_answers` are all right continuations of
    the clean prompt; `patch_answer` is never among them.
    """

    clean_prefix: str
    patch_prefix: str
    clean_answer: str
    patch_answer: str
    case: str
    valid_answers: tuple[str, ...]


def task_prompts(task: str, count: int, seed: int, held_out: bool = True) -> list[TaskPrompt]:
    """`count` prompts of a task of TASKS. With `held_out` (the default) every prompt rests on a
    combination of names, years or nouns that no training document holds; without, on others.

    Every `case` is one template, and all prompts of a case have the same number of tokens.
    Raises UserError for an unknown task.
    """
    if task not in TASKS:
        raise UserError(f"unknown task {task!r}: the embedded tasks are {', '.join(TASKS)}")
    chance = Chance(seed, list(TASKS).index(task), int(held_out))
    return [TASKS[task](chance, held_out) for _ in range(count)]


def _fill(template: str, slots: dict[str, Phrase | str]) -> str:
    draft = Draft("prompt")
    draft.write(template, **slots)
    return "".join(draft.tokens)


def _indirect_object(chance: Chance, held_out: bool) -> TaskPrompt:
    """The patch swaps who gives: the right answer becomes the other name."""
    first, second = chance.sample((*lx.FEMALE_NAMES, *lx.MALE_NAMES), 2)
    gift = draw_gift(chance, first, second, held_out)
    slots = gift.slots()
    order = "ABA" if gift.giver == gift.first else "ABB"
    answer = " " + gift.recipient
    return TaskPrompt(
        clean_prefix=_fill(gift.template, dict(slots)),
        patch_prefix=_fill(gift.template, {**slots, "giver": gift.recipient}),
        clean_answer=answer,
        patch_answer=" " + gift.giver,
        case=f"{order}-{GIFT_TEMPLATES.index(gift.template) + 1}",
        valid_answers=(answer,),
    )


def _ends(century: int, start: int, last: int, held_out: bool) -> list[int]:
    """End years from start + 1 to `last` whose combination is held out, or is not."""
    years = range(start + 1, last + 1)
    return [end for end in years if is_held_out_years(century, start, end) == held_out]


def _greater_than(chance: Chance, held_out: bool) -> TaskPrompt:
    """The patch starts earlier: `patch_answer` is right there, and too early for the clean
    prompt, whose start year is not before it."""
    while True:
        century = chance.pick(CENTURIES)
        start = chance.integer(FIRST_YEAR + 10, LAST_START_YEAR)
        patch_start = chance.integer(FIRST_YEAR, start - 1)
        late = _ends(century, start, LAST_YEAR, held_out)
        early = _ends(century, patch_start, start, held_out)
        if late and early:
            break
    which = chance.integer(0, len(SPAN_TEMPLATES) - 1)
    realm = chance.pick(lx.REALMS)
    slots = Annals(
        chance,
        Draft("prompt"),
        realm,
        century,
        lx.KINGS[0],
        queen=False,
        rivals=[realm],
    ).slots()
    template = SPAN_TEMPLATES[which] + " {century}"
    shared = {**slots, "century": str(century)}
    return TaskPrompt(
        clean_prefix=_fill(template, {**shared, "start": year(century, start)}),
        patch_prefix=_fill(template, {**shared, "start": year(century, patch_start)}),
        clean_answer=two_digits(chance.pick(late)),
        patch_answer=two_digits(chance.pick(early)),
        case=f"span-{which + 1}",
        valid_answers=tuple(two_digits(e) for e in range(start + 1, LAST_YEAR + 1)),
    )


def _agreement(chance: Chance, held_out: bool) -> TaskPrompt:
    """The patch changes the number of the head noun (and of the verb of its relative clause)."""
    clean = draw_agreement(chance, held_out)
    patch_slots = type(clean)(**{**vars(clean), "plural": not clean.plural}).slots()
    patch_slots["attractor"] = clean.slots()["attractor"]
    numbers = [
        "plural" if plural else "singular" for plural in (clean.plural, clean.attractor_plural)
    ]
    template = AGREEMENT_TEMPLATES.index(clean.template) + 1
    answer = " " + clean.verb_form
    return TaskPrompt(
        clean_prefix=_fill(clean.template, clean.slots()),
        patch_prefix=_fill(clean.template, patch_slots),
        clean_answer=answer,
        patch_answer=" " + clean.verb[1 if clean.plural else 2],
        case=f"{'_'.join(numbers)}-{template}",
        valid_answers=tuple(" " + verb[2 if clean.plural else 1] for verb in TASK_VERBS),
    )


TASKS = {
    "ioi": _indirect_object,
    "greater_than": _greater_than,
    "agreement": _agreement,
}
