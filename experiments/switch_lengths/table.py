"""The verdicts of criteria.md, and a table of everything that was measured."""

import itertools
from collections.abc import Iterable, Sequence
from math import exp, log
from statistics import fmean

from experiments.criteria import NONE, Claim, Part, mark, over_seeds, worst
from experiments.runs import Found
from experiments.switch_lengths.arms import (
    Arm,
    Pair,
    arms,
    changes,
    crossings,
    lines,
    pairs,
    selected,
)
from experiments.tables import table

PAPER = {2: -0.098, 4: -0.160, 8: -0.209}
"""Experts → the published effect at equal FLOPs (k 32)."""
FEWER_FLOPS = 2.0
"""TopK's FLOPs over Switch's, from which on claim 6 is reproduced with 8 experts."""
ONE_NUMBER = 3.0
"""Crossings within this factor count as one number of tokens per latent."""
TITLES = {
    "embedded": "the embedded model",
    "real": "tinystories-neox-6L256",
    "parts": "its parts, the embedded model",
}


def markdown(found: Found, name: str) -> str:
    """The verdicts, then the SAEs."""
    seeds = ", ".join(map(str, found["seeds"]))
    body = parts(found) if found["setting"] == "parts" else verdicts(found)
    figure = [] if found["setting"] == "parts" else [f"![The effect over tokens]({name}.svg)", ""]
    head = [
        f"# Switch SAEs over tokens per latent: {TITLES[found['setting']]}",
        "",
        f"Made by `{found['command']}`. Layer 3, seeds {seeds}; FVU on 100,000 held-out tokens, "
        "ΔCE on 30,000. *Effect*: FVU over that of TopK with an expert's width, same k and tokens, "
        "minus 1; brackets are Student's 95% interval over seeds (one seed: no interval, a sign "
        "alone). Judged by [criteria](../criteria.md) committed before.",
        "",
    ]
    return "\n".join([*head, *figure, *body, "", *sae_table(found)]) + "\n"


def verdicts(found: Found) -> list[str]:
    by_line = lines(pairs(found))
    longest = max(arm.length for arm in arms(found))
    at_longest = [of[-1] for of in by_line.values() if of[-1].switch.length == longest]
    judged = [
        ("At equal FLOPs Switch is better", *equal_flops(at_longest)),
        ("It depends on the tokens per latent", *one_number(by_line.values())),
        ("More tokens help Switch more than TopK", *helped(by_line.values())),
        ("At fixed width Switch is a little worse", *fixed_width(found, longest)),
        ("ΔCE goes with FVU", *delta_ce(at_longest)),
        ("The same loss for fewer FLOPs", *fewer_flops(found, longest)),
    ]
    return [
        f"{i}. *{title}*: **{verdict}**. {words}"
        for i, (title, verdict, words) in enumerate(judged, 1)
    ]


def called(pair: Pair) -> str:
    arm = pair.switch
    return f"{arm.experts} × {arm.expert}, k {arm.k}"


def equal_flops(at_longest: Sequence[Pair]) -> tuple[str, str]:
    of_paper = [pair for pair in at_longest if pair.switch.experts in PAPER]
    claim = Claim(1, "", [Part(called(p), p.effect(), PAPER[p.switch.experts]) for p in of_paper])
    words = "; ".join(
        f"{part.name}: {part.found:+.1%} ({pair.switch.tokens_per_latent:,.0f} per latent)"
        for part, pair in zip(claim.parts, of_paper, strict=True)
    )
    return claim.verdict, f"{words}."


def one_number(by_line: Iterable[Sequence[Pair]]) -> tuple[str, str]:
    means, never = {}, []
    for of in by_line:
        seeds = crossings(of)
        if seeds:
            means[called(of[0])] = exp(fmean(map(log, seeds)))
        else:
            side = "below TopK" if of[0].effect().value < 0 else "above TopK"
            never.append(f"{called(of[0])} ({side})")
    if not means:
        return NONE, f"No SAE crosses TopK within the lengths: {'; '.join(never)}."
    spread = max(means.values()) / min(means.values())
    verdict = mark([spread <= ONE_NUMBER and not never], partly=spread <= ONE_NUMBER)
    words = "; ".join(f"{name}: {at:,.0f}" for name, at in means.items())
    rest = f" At all lengths on one side: {'; '.join(never)}." if never else ""
    return verdict, (
        f"Tokens per latent at which the FVU equals TopK's: {words}; the largest is {spread:.1f} "
        f"times the smallest.{rest}"
    )


def helped(by_line: Iterable[Sequence[Pair]]) -> tuple[str, str]:
    steps = [n for of in by_line for n in changes(of)]
    below = sum(n.high < 0 for n in steps)
    verdict = mark([below == len(steps)] if steps else [], partly=below > len(steps) / 2)
    return (
        verdict,
        f"The effect falls from one length to the next in {below} of {len(steps)} steps.",
    )


def fixed_width(found: Found, longest: int) -> tuple[str, str]:
    of = [p for p in pairs(found, fixed_width=True) if p.switch.length == longest]
    of.sort(key=lambda pair: (pair.switch.width, pair.switch.experts))
    worse = all(pair.effect().low > 0 for pair in of)
    grows = all(
        over_seeds([b - a for a, b in zip(one.ratios(), other.ratios(), strict=True)]).low > 0
        for one, other in itertools.pairwise(of)
        if one.switch.width == other.switch.width
    )
    words = "; ".join(f"{p.switch.width:,} in {p.switch.experts}: {p.effect():+.1%}" for p in of)
    return mark([worse, grows] if of else [], partly=worse or grows), f"{words}."


def delta_ce(at_longest: Sequence[Pair]) -> tuple[str, str]:
    both = [(p.effect(), p.effect("delta_ce")) for p in at_longest]
    clear = [(fvu, ce) for fvu, ce in both if fvu.differs() and ce.differs()]
    agree = sum((fvu.value > 0) == (ce.value > 0) for fvu, ce in clear)
    verdict = mark([agree == len(clear)] if clear else [], partly=agree > len(clear) / 2)
    return verdict, (
        f"The two signs agree for {agree} of {len(clear)} SAEs whose intervals exclude 0 in both "
        f"({len(both)} in all)."
    )


def fewer_flops(found: Found, longest: int) -> tuple[str, str]:
    of = [a for a in arms(found) if a.length == longest]
    k, expert = (16, 256) if found["setting"] == "embedded" else (32, 128)
    topk = sorted((a for a in of if a.experts == 1 and a.k == k), key=lambda a: a.flops)
    switch = [a for a in of if a.experts == 8 and a.expert == expert and a.k == k]
    if not switch:
        return NONE, ""
    ratios = [
        at / switch[0].flops
        for seed, fvu in enumerate(switch[0].fvu)
        if (at := flops_at(topk, seed, fvu)) is not None
    ]
    if len(ratios) < len(switch[0].fvu):
        return NONE, "TopK of no width measured here has as low an FVU."
    n = over_seeds(ratios)
    return mark([n.value >= FEWER_FLOPS and n.low > 1], partly=n.low > 1), (
        f"TopK needs {n:.1f} times the FLOPs per token of 8 experts of {expert} latents for their "
        "FVU (paper: 4 to 6)."
    )


def flops_at(topk: Sequence[Arm], seed: int, fvu: float) -> float | None:
    """FLOPs per token at which TopK, over its widths, has this FVU; log-log linear between them."""
    for one, other in itertools.pairwise(topk):
        high, low = one.fvu[seed], other.fvu[seed]
        if high >= fvu >= low:
            share = log(high / fvu) / log(high / low)
            return exp(log(one.flops) + share * log(other.flops / one.flops))
    return None


def parts(found: Found) -> list[str]:
    """The balance loss and AuxK: claims 7 and 8."""
    of = arms(found)
    with_aux = [arm for arm in of if arm.options["aux_coefficient"] > 0]
    usual = selected(with_aux, balance=0.03)
    by_alpha = {float(a.options["balance"]): Pair(a, usual).effect() for a in with_aux}
    low = [by_alpha[a].low > 0 for a in (0.0, 0.001, 0.003)]
    flat = [abs(by_alpha[a].value) <= 0.02 for a in (0.1, 0.3, 1.0, 3.0)]
    without = Pair(selected(of, aux_coefficient=0.0), usual).effect()
    rows = [[f"{a:g}", f"{n:+.1%}"] for a, n in sorted(by_alpha.items()) if a != 0.03]
    verdict = worst([mark(low, partly=any(low)), mark(flat, partly=any(flat))])
    return [
        f"7. *α matters only below a threshold*: **{verdict}**.",
        f"8. *AuxK in the experts pays at enough tokens*: FVU {without:+.1%} without it, "
        f"**{mark([without.low > 0])}**.",
        "",
        *table(["α", "FVU against α = 0.03"], rows),
    ]


def sae_table(found: Found) -> list[str]:
    effects = {key(pair.switch): pair.effect() for pair in pairs(found)}
    rows = [
        [
            "TopK" if arm.experts == 1 else f"{arm.experts}",
            arm.expert, arm.k, f"{arm.length / 1e6:g}M", f"{arm.tokens_per_latent:,.0f}",
            f"{over_seeds(arm.fvu):.4f}", f"{fmean(arm.delta_ce):.4f}",
            f"{fmean(arm.dead_share):.1%}", f"{fmean(arm.duplicate_share):.1%}",
            f"{effects[key(arm)]:+.1%}" if key(arm) in effects else "",
        ]
        for arm in sorted(arms(found), key=key)
    ]  # fmt: skip
    head = [
        "experts",
        "E",
        "k",
        "tokens",
        "per latent",
        "FVU",
        "ΔCE",
        "dead",
        "duplicates",
        "effect",
    ]
    return table(head, rows)


def key(arm: Arm) -> tuple[float, ...]:
    """One SAE at one length, in the order of the table."""
    rest = (arm.options.get("balance", 0.0), arm.options["aux_coefficient"])
    return (arm.k, arm.expert, arm.experts, arm.length, *rest)
