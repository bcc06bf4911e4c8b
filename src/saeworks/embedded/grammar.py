"""Documents of the embedded grammar: five domains, every token with its concepts."""

from collections.abc import Iterator
from itertools import count as count_from

from saeworks.embedded.chance import Chance
from saeworks.embedded.chronicles import write_chronicle
from saeworks.embedded.descriptions import write_description
from saeworks.embedded.draft import Draft, LabelledDocument
from saeworks.embedded.logs import write_log
from saeworks.embedded.recipes import write_recipe
from saeworks.embedded.stories import write_story

# Domain, its writer, its share of the documents.
DOMAINS = (
    ("story", write_story, 0.30),
    ("chronicle", write_chronicle, 0.25),
    ("description", write_description, 0.25),
    ("recipe", write_recipe, 0.10),
    ("log", write_log, 0.10),
)

_REACH = tuple(
    (domain, writer, sum(share for _, _, share in DOMAINS[: index + 1]))
    for index, (domain, writer, _) in enumerate(DOMAINS)
)


def documents(seed: int, count: int | None = None, *, start: int = 0) -> Iterator[LabelledDocument]:
    """The documents start, start + 1, … of a seed: `count` of them, or without end.

    Document i depends on the seed and on i alone. Held-out combinations (see `task_prompts`)
    never occur in any of them.
    """
    indices = count_from(start) if count is None else range(start, start + count)
    for index in indices:
        yield document(seed, index)


def document(seed: int, index: int) -> LabelledDocument:
    """Document `index` of a seed."""
    chance = Chance(seed, index)
    where = chance.uniform()
    domain, writer = next((name, writer) for name, writer, reach in _REACH if where < reach)
    draft = Draft(domain)
    writer(chance, draft)
    return draft.finish()
