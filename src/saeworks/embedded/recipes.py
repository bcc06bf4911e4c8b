"""Domain "recipe": an ingredient list, then numbered steps that use each ingredient once."""

from saeworks.embedded import lexicon as lx
from saeworks.embedded.chance import Chance
from saeworks.embedded.draft import Draft, Phrase, word

STEP_TEMPLATES = (
    "{verb} the {ingredient}.",
    "{verb} the {ingredient} in the {vessel}.",
    "{verb} the {ingredient} for {minutes} minutes.",
    "{verb} the {ingredient} and add it to the {vessel}.",
)
TIPS = (
    "Use a clean {vessel}!",
    "Do not burn the {ingredient}.",
    "The {ingredient} must be fresh.",
)


def write_recipe(chance: Chance, draft: Draft) -> None:
    """One recipe; units are metric or imperial throughout, steps take the ingredients in order
    in half of the recipes and shuffled in the others."""
    system = chance.pick(tuple(lx.UNITS))
    dish, vessel = chance.pick(lx.DISHES), chance.pick(lx.VESSELS)
    kinds = {text: kind for kind, texts in lx.INGREDIENTS.items() for text in texts}
    ingredients = chance.sample(tuple(kinds), chance.integer(3, 5))
    with draft.scope(units=system):
        slots: dict[str, Phrase | str] = {
            "dish": word(dish, noun_class="dish"),
            "vessel": word(vessel, number="singular", noun_class="vessel"),
            "people": str(chance.integer(2, 8)),
        }
        draft.write("Recipe for {dish}, serves {people}:", **slots)
        for text in ingredients:
            _write_ingredient(chance, draft, text, kinds[text], system)
        if chance.maybe(0.5):
            ingredients = chance.sample(ingredients, len(ingredients))
        for number, text in enumerate(ingredients, 1):
            with draft.scope(step=str(number)):
                _write_step(chance, draft, number, text, kinds[text], slots)
        warm = "hot" if dish in lx.SERVING["hot"] else "cold"
        draft.write("\n{number}. Serve the {dish} {warm}.", number=str(len(ingredients) + 1),
                    warm=warm, **slots)  # fmt: skip
        if chance.maybe(0.4):
            draft.write("\nThe cook says, ")
            with draft.quote():
                tip = chance.pick_early(TIPS)
                draft.write(tip, ingredient=_ingredient(ingredients[0], kinds), **slots)


def _ingredient(text: str, kinds: dict[str, str]) -> Phrase:
    return word(text, noun_class="ingredient", ingredient_kind=kinds[text])


def _write_ingredient(chance: Chance, draft: Draft, text: str, kind: str, system: str) -> None:
    amount = chance.integer(1, 19) * 5 if system == "metric" else chance.integer(2, 9)
    unit = word(lx.UNITS[system][kind], unit=system, number="plural")
    draft.write("\n- {amount} {unit} of {ingredient}", amount=str(amount), unit=unit,
                ingredient=_ingredient(text, {text: kind}))  # fmt: skip


def _write_step(
    chance: Chance,
    draft: Draft,
    number: int,
    text: str,
    kind: str,
    slots: dict[str, Phrase | str],
) -> None:
    draft.write(
        "\n{number}. " + chance.pick_early(STEP_TEMPLATES),
        number=str(number),
        verb=word(chance.pick_early(lx.INGREDIENT_VERBS[kind]), tense="imperative"),
        ingredient=_ingredient(text, {text: kind}),
        minutes=str(chance.integer(1, 12) * 5),
        **slots,
    )
