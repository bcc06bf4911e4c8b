"""What the numbers of circuits say, in sentences."""

from collections.abc import Iterable, Mapping, Sequence

from saeworks.measure.circuits.curves import ENOUGH
from saeworks.measure.circuits.metrics import (
    ERROR_KEPT,
    FAITHFUL,
    FAITHFUL_ERROR,
    LATENTS_ENOUGH,
    LATENTS_KEPT,
    RANDOM_DIRECTIONS,
    RANDOM_LATENTS,
    RANK,
    ZERO,
    less_baseline,
    of,
)
from saeworks.measure.tasks.skill import Skill
from saeworks.results.metric import Value
from saeworks.results.names import ALL_SITES
from saeworks.results.words import decimal, percent

Values = Mapping[str, Mapping[str, Value]]


def findings(task: str, skill: Skill, values: Values, nodes: Sequence[int]) -> tuple[str, ...]:
    """Sentences on one suite and task, the most important first."""
    known = {site: v for site, v in values.items() if _number(v, FAITHFUL) is not None}
    single = {site: v for site, v in known.items() if site != ALL_SITES}
    sentences = [
        _skill(task, skill),
        *(_left_out(values, known)),
        *(_kept(single) if single else ()),
        *(_enough(single, nodes) if single else ()),
        *_baseline(known),
        *(_all_sites(known[ALL_SITES]) if ALL_SITES in known else ()),
        *(_controls(single) if single else ()),
        *(_zero(single) if single else ()),
        *_attribution(values),
    ]
    return tuple(sentences)


def _skill(task: str, skill: Skill) -> str:
    return (
        f"The model does {task}: it is right on {percent(skill.right)} of {skill.prompts} "
        f"prompts, with a difference m of {decimal(skill.mean)} logits."
    )


def _left_out(values: Values, known: Values) -> list[str]:
    zero = [site for site in values if site not in known]
    if not zero:
        return []
    return [
        f"At {', '.join(zero)} ablating the whole site takes next to nothing of m away, so that "
        "faithfulness, a share of that, is not defined there: the task does not run through it."
    ]


def _kept(single: Values) -> list[str]:
    low, high = _ends(single, LATENTS_KEPT)
    error_low, error_high = _ends(single, ERROR_KEPT)
    return [
        f"With one site replaced at a time, all latents without the error keep "
        f"{_between(single, low, high, LATENTS_KEPT)} of the task; the error alone keeps "
        f"{_between(single, error_low, error_high, ERROR_KEPT)}."
    ]


def _enough(single: Values, nodes: Sequence[int]) -> list[str]:
    reached = {s: v[LATENTS_ENOUGH] for s, v in single.items() if v[LATENTS_ENOUGH].value}
    never = [site for site in single if site not in reached]
    said = [f"{decimal(value, 0)} at {site}" for site, value in reached.items()]
    if never and len(never) < len(single):
        said.append(f"no circuit of up to {nodes[-1]} latents at {', '.join(never)}")
    if not reached:
        return [
            f"Without error nodes no circuit of up to {nodes[-1]} latents keeps {ENOUGH:.0%} of "
            "the task at any site."
        ]
    return [
        f"Without error nodes {ENOUGH:.0%} of the task takes this many latents: {'; '.join(said)}."
    ]


def _baseline(known: Values) -> list[str]:
    key = less_baseline(FAITHFUL)
    differences = {site: v[key] for site, v in known.items() if key in v}
    if not differences:
        return []
    below = [s for s, v in differences.items() if v.high is not None and v.high < 0]
    above = [s for s, v in differences.items() if v.low is not None and v.low > 0]
    single = [v for site, v in differences.items() if site != ALL_SITES]
    told = [
        f"{words} at {', '.join(sites)}"
        for words, sites in (("above it", above), ("below it", below))
        if sites
    ]
    where = " and ".join(told) or "not clearly different at any site"
    return [
        "Area without error nodes less the baseline's: "
        f"{_mean(single or differences.values()):+.3f}, mean over sites; {where}."
    ]


def _all_sites(values: Mapping[str, Value]) -> list[str]:
    return [
        f"With all sites replaced at once, all latents keep {percent(values[LATENTS_KEPT])} of "
        f"the task without error nodes; the area under the curve is "
        f"{decimal(values[FAITHFUL])} without and {decimal(values[FAITHFUL_ERROR])} with them."
    ]


def _controls(single: Values) -> list[str]:
    sentences = []
    for control, words in (
        (RANDOM_LATENTS, "as many random active latents"),
        (RANDOM_DIRECTIONS, "an SAE with random directions"),
    ):
        key = of(control, FAITHFUL)
        above = [s for s, v in single.items() if _apart(v[FAITHFUL], v.get(key))]
        below = [s for s, v in single.items() if _apart(v.get(key), v[FAITHFUL])]
        mean = [_mean(v.get(name) for v in single.values()) for name in (FAITHFUL, key)]
        told = [f"clearly more at {_all_or(above, single)}"] if above else []
        told += [f"clearly less at {_all_or(below, single)}"] if below else []
        sentences.append(
            f"Than those of {words}, the suite's circuits keep "
            f"{' and '.join(told) or 'not clearly more or less at any site'} (area without error "
            f"nodes {mean[0]:.2f} against {mean[1]:.2f}, mean over sites)."
        )
    return sentences


def _all_or(some: Sequence[str], single: Values) -> str:
    return "every site" if len(some) == len(single) else ", ".join(some)


def _zero(single: Values) -> list[str]:
    without = _mean(v.get(of(ZERO, FAITHFUL)) for v in single.values())
    with_error = _mean(v.get(of(ZERO, FAITHFUL_ERROR)) for v in single.values())
    own = _mean(v.get(FAITHFUL_ERROR) for v in single.values())
    beside = "more than" if with_error > own else "beside"
    return [
        f"With error nodes an SAE without any latent (the zero SAE) reaches {with_error:.2f}, "
        f"{beside} the suite's {own:.2f}, since its error is all of the activation; without them "
        f"it reaches {without:.2f}. So it is the curves without error nodes that tell "
        "whether latents carry the task."
    ]


def _attribution(values: Values) -> list[str]:
    ranks = {site: v[RANK] for site, v in values.items() if RANK in v and v[RANK].value is not None}
    if not ranks:
        return []
    worst = min(ranks, key=lambda site: ranks[site].value or 0.0)
    return [
        f"Attribution ranks single latents as patching each alone does with a correlation of "
        f"{_mean(ranks.values()):.2f} (mean over sites; lowest {decimal(ranks[worst])} at {worst})."
    ]


def _number(values: Mapping[str, Value], key: str) -> float | None:
    return values[key].value if key in values else None


def _ends(values: Values, key: str) -> tuple[str, str]:
    """The sites with the smallest and the largest value."""
    return (
        min(values, key=lambda site: values[site][key].value or 0.0),
        max(values, key=lambda site: values[site][key].value or 0.0),
    )


def _between(values: Values, low: str, high: str, key: str) -> str:
    if low == high:
        return percent(values[low][key])
    return f"from {percent(values[low][key])} at {low} to {percent(values[high][key])} at {high}"


def _mean(values: Iterable[Value | None]) -> float:
    numbers = [v.value for v in values if v is not None and v.value is not None]
    return sum(numbers) / len(numbers) if numbers else float("nan")


def _apart(value: Value | None, other: Value | None) -> bool:
    """Whether a value is above another, intervals and all."""
    if value is None or other is None or value.low is None or other.high is None:
        return False
    return value.low > other.high
