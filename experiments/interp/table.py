"""The study's tables and verdicts, from its JSON alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean

from experiments.criteria import NOT, PART, REPRODUCED, Number, over_seeds
from experiments.interp.arms import (
    DECODER,
    ENCODER,
    EQUAL,
    ERRORS,
    PER_LAYER,
    PLANNED,
    SHARED,
    SWITCH,
)
from experiments.interp.measured import TASKS
from experiments.runs import Found
from experiments.tables import table
from saeworks.results.names import ALL_SITES

SKILL, OPEN = 0.6, "open"
CIRCUIT, SCORE, SHARE = -0.05, -0.02, -0.05
"""Differences down to which a method keeps what it should."""
MEASURES = {
    **{f"circuits, {task}": (f"circuits_{task}", "faithful_auc", CIRCUIT) for task in TASKS},
    "explanations": ("explanations", "program_detection", SCORE),
    "concepts": ("concepts", "coverage", SHARE),
}
"""Name → file, metric, margin."""
Differences = Mapping[str, Number]
"""Site → the difference of two kinds of SAEs there."""


def value(runs: Found, seed: str, name: str, file: str, site: str, metric: str) -> Number | None:
    """One number of one seed, with the interval of its own measurement; None where none is."""
    found = runs[seed][name].get(file, {}).get(site, {}).get(metric)
    if found is None or found[0] is None:
        return None
    middle, low, high = found
    return Number(middle, middle if low is None else low, middle if high is None else high)


def differences(runs: Found, name: str, other: str, file: str, metric: str) -> Differences:
    """`name` minus `other` at each site: Student's interval over seeds; of one seed, half-widths
    added in squares, as if the two were measured on different samples."""
    found: dict[str, Number] = {}
    for site in next(iter(runs.values()))[name].get(file, {}):
        of_seeds = [
            (
                value(runs, seed, name, file, site, metric),
                value(runs, seed, other, file, site, metric),
            )
            for seed in runs
        ]
        pairs = [(a, b) for a, b in of_seeds if a is not None and b is not None]
        if len(pairs) < len(of_seeds):
            continue
        found[site] = (
            over_seeds([a.value - b.value for a, b in pairs])
            if len(pairs) > 1
            else apart(*pairs[0])
        )
    return found


def apart(a: Number, b: Number) -> Number:
    middle = a.value - b.value
    half = ((a.high - a.low) ** 2 + (b.high - b.low) ** 2) ** 0.5 / 2
    return Number(middle, middle - half, middle + half)


def answer(n: Number, margin: float) -> str:
    """Whether a difference lies above a margin, below it, or across it."""
    return REPRODUCED if n.low > margin else NOT if n.high < margin else OPEN


def claim(answers: Sequence[str]) -> str:
    """Of a claim's answers by layer: all, most, or fewer."""
    held = sum(a == REPRODUCED for a in answers)
    if not answers:
        return OPEN
    if held == len(answers):
        return REPRODUCED
    if answers.count(NOT) * 2 > len(answers):
        return NOT
    return PART if held * 2 > len(answers) else OPEN


def able(runs: Found) -> list[str]:
    """Tasks whose circuits were measured: the command refuses a task that the model cannot do."""
    return [t for t in TASKS if all(f"circuits_{t}" in run[PER_LAYER] for run in runs.values())]


def by_layer(found: Differences) -> dict[str, Number]:
    return {site: n for site, n in found.items() if site != ALL_SITES}


def verdicts(runs: Found) -> list[str]:
    """A line for each claim."""
    circuits = [f"circuits, {task}" for task in able(runs)]
    meanings = ["explanations", "concepts"]
    blind = [name for name in (*circuits, *meanings) if is_blind(runs, name)]
    lines = []
    for number, words, names, other, measures in (
        (1, "groups keep circuits", (PLANNED, SHARED), PER_LAYER, circuits),
        (2, "groups keep interpretability", (PLANNED, SHARED), PER_LAYER, meanings),
        (3, "a Switch SAE is as interpretable as TopK at its FLOPs", (SWITCH,), EQUAL, meanings),
    ):
        for name in names:
            answers = {m: judged(runs, name, other, m) for m in measures}
            mark = claim([a for of in answers.values() for a in of])
            if mark == REPRODUCED and set(measures) <= set(blind):
                mark = PART
            parts = "; ".join(f"{m}: {counted(of)}" for m, of in answers.items())
            lines.append(f"{number}. *{name}*: {words}: **{mark}** ({parts}).")
    above = by_layer(
        differences(runs, ERRORS["l"], ERRORS["u"], "explanations", "program_detection")
    )
    of_errors = [answer(n, 0.0) for n in above.values()]
    lines.append(
        f"4. ℓ is more interpretable than u: **{claim(of_errors)}** ({counted(of_errors)})."
    )
    lines.append(f"5. Blind to random directions at most layers: {', '.join(blind) or 'none'}.")
    return lines


def judged(runs: Found, name: str, other: str, measure: str) -> list[str]:
    file, metric, margin = MEASURES[measure]
    return [
        answer(n, margin) for n in by_layer(differences(runs, name, other, file, metric)).values()
    ]


def is_blind(runs: Found, measure: str) -> bool:
    """Whether it tells trained SAEs from frozen ones at half of the layers or fewer."""
    file, metric, _ = MEASURES[measure]
    told = [
        n.low > 0
        for frozen in (DECODER, ENCODER)
        for n in by_layer(differences(runs, PER_LAYER, frozen, file, metric)).values()
    ]
    return sum(told) * 2 <= len(told)


def counted(answers: Iterable[str]) -> str:
    answers = list(answers)
    words = [f"{answers.count(word)} {word}" for word in (REPRODUCED, OPEN, NOT) if word in answers]
    return ", ".join(words) or "not measured"


def markdown(found: Found, setting: str) -> str:
    """Verdicts, then what is behind them."""
    runs = found["runs"]
    names = list(next(iter(runs.values())))
    sites = [s for s in next(iter(runs.values()))[PER_LAYER]["explanations"] if s != ALL_SITES]
    intervals = "Student's 95%" if len(runs) > 1 else "the measurements'"
    lines = [
        f"# Circuits, concepts and explanations: {setting}",
        "",
        f"Made by `{found['command']}`; seeds {', '.join(runs)}. Judged by "
        "[criteria](../criteria.md) committed before. Values are means over seeds; differences are "
        f"taken layer by layer, with {intervals} intervals. Verdicts count layers, and hold at "
        "the tokens per latent of the first table."
        + (" **One seed: a first look, on which no verdict rests.**" if len(runs) == 1 else ""),
        "",
        *verdicts(runs),
        "",
        "## Means over the layers",
        "",
        *means(runs, names, sites),
    ]
    for title, name, other in (
        ("Groups Ĝ minus one SAE per layer", PLANNED, PER_LAYER),
        ("One SAE for all layers minus one per layer", SHARED, PER_LAYER),
        ("Switch minus TopK at equal FLOPs", SWITCH, EQUAL),
        ("One SAE per layer minus frozen decoder", PER_LAYER, DECODER),
        ("One SAE per layer minus frozen encoder", PER_LAYER, ENCODER),
    ):
        lines += ["", f"## {title}", "", *by_measure(runs, name, other)]
    lines += ["", "## SAEs on ℓ minus on u", "", *on_errors(runs)]
    return (
        "\n".join([*lines, "", "## The reviewers' questions", "", *questions(runs, names)]) + "\n"
    )


def means(runs: Found, names: Sequence[str], sites: Sequence[str]) -> list[str]:
    head = ["", "SAEs", "latents", "tokens per latent", *MEASURES]
    rows = []
    for name in names:
        one = next(iter(runs.values()))[name]
        cells = []
        for file, metric, _ in MEASURES.values():
            values = [value(runs, s, name, file, site, metric) for s in runs for site in sites]
            known = [n.value for n in values if n is not None]
            cells.append(f"{fmean(known):.3f}" if known else "")
        regime = f"{one['vectors'] / one['width']:,.0f}"
        rows.append([name, one["saes"], one["width"], regime, *cells])
    return table(head, rows, "lrrr" + "r" * len(MEASURES))


def by_measure(runs: Found, name: str, other: str) -> list[str]:
    found = {m: differences(runs, name, other, f, k) for m, (f, k, _) in MEASURES.items()}
    sites = list(dict.fromkeys(site for of in found.values() for site in of))
    rows = [
        [site, *(f"{of[site]:+.3f}" if site in of else "" for of in found.values())]
        for site in sites
    ]
    return table(["layer", *found], rows)


def on_errors(runs: Found) -> list[str]:
    metrics = ("program_detection", "program_f1", "program_balanced")
    found = {m: differences(runs, ERRORS["l"], ERRORS["u"], "explanations", m) for m in metrics}
    rows = [[site, *(f"{of[site]:+.3f}" for of in found.values())] for site in found[metrics[0]]]
    return table(["layer", *metrics], rows)


def questions(runs: Found, names: Sequence[str]) -> list[str]:
    """Error nodes, one or all layers, how many latents, and concepts in experts."""
    arms = [name for name in names if name not in ERRORS.values()]
    rows = []
    for task in able(runs):
        mean = partial(mean_over, runs, f"circuits_{task}")
        rows += [
            row(f"{task}: zero SAE, error a node", arms, partial(mean, "zero_faithful_auc_error")),
            row(f"{task}: zero SAE, error ablated", arms, partial(mean, "zero_faithful_auc")),
            row(f"{task}: faithfulness, error a node", arms, partial(mean, "faithful_auc_error")),
            row(f"{task}: faithfulness, error ablated", arms, partial(mean, "faithful_auc")),
            row(
                f"{task}: the same, all layers at once",
                arms,
                partial(mean, "faithful_auc", whole=True),
            ),
            row(f"{task}: latents for 80%", arms, partial(mean, "latents_enough")),
            row(
                f"{task}: attribution against ablation, ρ", arms, partial(mean, "attribution_rank")
            ),
        ]
    concepts = partial(mean_over, runs, "concepts")
    rows.append(row("experts that code a concept", arms, partial(concepts, "coding_experts")))
    rows.append(
        row("cosine of a concept's latents in them", arms, partial(concepts, "expert_cosine"))
    )
    return table(["mean over layers and seeds", *arms], rows, "l" + "r" * len(arms))


def row(words: str, arms: Sequence[str], mean: Callable[[str], float | None]) -> list[str]:
    values = [mean(arm) for arm in arms]
    return [words, *("" if v is None else f"{v:.3g}" for v in values)]


def mean_over(runs: Found, file: str, metric: str, name: str, whole: bool = False) -> float | None:
    """Over seeds, and over layers or of all layers at once; None where one has no value."""
    sites = [s for s in next(iter(runs.values()))[name].get(file, {}) if (s == ALL_SITES) is whole]
    values = [value(runs, seed, name, file, site, metric) for seed in runs for site in sites]
    known = [n.value for n in values if n is not None]
    return fmean(known) if known and len(known) == len(values) else None
