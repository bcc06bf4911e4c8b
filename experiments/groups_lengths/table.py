"""The verdicts of criteria.md, and a table of every arm at every length."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean

from experiments.criteria import Number, mark, over_seeds, side
from experiments.runs import Found
from experiments.tables import table

WIDTH = 256
LADDER = ("1 groups", "2 groups", "3 groups", "4 groups", "per layer")
CHOSEN, EVEN = "2 groups", "2 even groups"
EQUAL_COST = ("fewer vectors", CHOSEN, "smaller SAEs")
"""In the order of the first study, by FVU."""
TITLES = {"embedded": "the embedded model", "real": "tinystories-neox-6L256"}


def relative(arms: Found, name: str, other: str, metric: str = "fvu") -> Number:
    """An arm over another, minus 1, over seeds."""
    both = zip(arms[name][metric], arms[other][metric], strict=True)
    return over_seeds([one / of - 1 for one, of in both])


def change(before: Found, after: Found, name: str, other: str) -> Number:
    """Of `relative`, from one length to the next."""
    gaps = [
        [a / b for a, b in zip(arms[name]["fvu"], arms[other]["fvu"], strict=True)]
        for arms in (before, after)
    ]
    return over_seeds([late - early for early, late in zip(*gaps, strict=True)])


def at_lengths(found: Found, answer: Callable[[Found], str]) -> str:
    """The answer at each length, with its name."""
    return "; ".join(
        f"{int(length) / 1e6:g}M: {answer(arms)}" for length, arms in found["lengths"].items()
    )


def beside(found: Found, name: str, other: str) -> str:
    """`relative` at each length."""
    return at_lengths(found, lambda arms: f"{relative(arms, name, other):+.1%}")


def markdown(found: Found, name: str) -> str:
    seeds = ", ".join(map(str, found["seeds"]))
    lines = [
        f"# Groups over the length of training: {TITLES[found['setting']]}",
        "",
        f"Made by `{found['command']}`. TopK of {WIDTH} latents, layers 0–4, seeds {seeds}; FVU "
        "and ΔCE are means over the layers, on 100,000 and 30,000 held-out tokens; brackets are "
        "Student's 95% interval over seeds (one seed: no interval, a sign alone). Judged by "
        "[criteria](../criteria.md) committed before.",
        "",
        f"![FVU beside one SAE per layer]({name}.svg)",
        "",
        *verdicts(found),
        "",
        *arms_table(found),
    ]
    return "\n".join(lines) + "\n"


def verdicts(found: Found) -> list[str]:
    lengths = list(found["lengths"].values())
    falls = [
        relative(arms, more, fewer).high < 0 for arms in lengths for fewer, more in pairwise(LADDER)
    ]
    steps = [change(a, b, CHOSEN, "per layer") for a, b in pairwise(lengths)]
    words = [side(n, "grows", "shrinks", "open") for n in steps]
    even = [relative(arms, EVEN, CHOSEN).low > 0 for arms in lengths]
    same = [order(arms) == list(EQUAL_COST) for arms in lengths]
    whole = [beside(found, f"{g} groups, all layers", f"{g} groups") for g in (2, 1)]
    return [
        f"1. *FVU falls with G towards the baseline*: **{mark(falls, partly=any(falls))}** "
        f"({sum(falls)} of {len(falls)} steps).",
        f"2. *The gap at Ĝ*: {beside(found, CHOSEN, 'per layer')}. From a length to the next: "
        f"**{', '.join(words)}**.",
        "3. *The plan's groups are better than even ones*: "
        f"**{mark(even, partly=any(even))}**. FVU(even) over FVU(plan), minus 1: "
        f"{beside(found, EVEN, CHOSEN)}.",
        "4. *The order at equal cost*, best first: "
        f"{at_lengths(found, lambda arms: ', '.join(order(arms)))}. The first study's order: "
        f"**{mark(same, partly=any(same))}**.",
        f"5. *All layers of a token against one*, 2 groups: {whole[0]}. 1 group: {whole[1]}.",
    ]


def order(arms: Found) -> list[str]:
    """What costs as much as the groups, the lowest FVU first."""
    return sorted(EQUAL_COST, key=lambda name: fmean(arms[name]["fvu"]))


def arms_table(found: Found) -> list[str]:
    rows = [
        row(int(length), name, arms) for length, arms in found["lengths"].items() for name in arms
    ]
    head = ["vectors per SAE", "SAEs", "per latent", "FVU", "ΔCE", "dead", "FVU against per layer"]
    return table(head, rows)


def row(length: int, name: str, arms: Found) -> Sequence[str]:
    arm = arms[name]
    width = 102 if name == "smaller SAEs" else WIDTH
    return [
        f"{length / 1e6:g}M", name, f"{arm['tokens'] / width:,.0f}",
        f"{over_seeds(arm['fvu']):.4f}", f"{fmean(arm['delta_ce']):.4f}",
        f"{fmean(arm['dead_share']):.1%}",
        "" if name == "per layer" else f"{relative(arms, name, 'per layer'):+.1%}",
    ]  # fmt: skip
