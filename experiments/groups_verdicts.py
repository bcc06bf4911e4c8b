"""The criteria of groups_criteria.md, applied to what was found."""

from itertools import pairwise
from statistics import fmean
from typing import Any

Found = dict[str, Any]
BASELINE = "topk-x4-k32"


def verdicts(found: Found) -> list[str]:
    """One item per criterion, in its order."""
    marked = [
        falls(found),
        gap(found),
        even(found),
        normalisation(found),
        drawn(found),
        equal_cost(found),
        seconds(found),
    ]
    return [f"{i}. {text}" for i, text in enumerate(marked, 1)]


def complete(groups: int) -> str:
    return f"{BASELINE}-g{groups}-complete"


def difference(found: Found, one: str, other: str, metric: str = "fvu") -> Found:
    pair: Found = found["pairs"][f"{one} − {other}"]["mean"][metric]
    return pair


def interval(value: Found, scale: float = 1.0, form: str = "+.4f") -> str:
    low, high = value["low"], value["high"]
    if low is None:
        return f"{scale * value['value']:{form}}"
    return f"{scale * value['value']:{form}} [{scale * low:{form}}, {scale * high:{form}}]"


def falls(found: Found) -> str:
    sites = len(found["sites"])
    ladder = [*(complete(g) for g in range(1, sites)), BASELINE]
    steps = [difference(found, after, before)["difference"] for before, after in pairwise(ladder)]
    shown = "; ".join(f"{g}→{g + 1}: {interval(s)}" for g, s in enumerate(steps, 1))
    if all(step["high"] < 0 for step in steps):
        verdict = "Reproduced"
    elif all(step["value"] < 0 for step in steps):
        verdict = "In part"
    else:
        verdict = "Not reproduced"
    return f"**FVU falls with G. {verdict}**: {shown}."


def percent(ratio: Found) -> Found:
    """A ratio as the relative gap."""
    return {k: None if v is None else v - 1 for k, v in ratio.items()}


def gap(found: Found) -> str:
    ratio = percent(found["variants"][complete(found["chosen"])]["mean"]["fvu"]["ratio"])
    meets = ratio["low"] <= 0.14 and ratio["high"] >= 0.11
    verdict = "Reproduced" if meets else "Not reproduced"
    ce = found["variants"][complete(found["chosen"])]["mean"]["delta_ce"]["difference"]
    return (
        f"**The gap at Ĝ = {found['chosen']}. {verdict}**: {interval(ratio, 100, '+.1f')}% of the "
        f"baseline's FVU (paper: 11 to 14%); ΔCE {interval(ce)} nats."
    )


def even(found: Found) -> str:
    parts, holds = [], []
    for g in range(2, len(found["sites"])):
        one, other = f"{BASELINE}-g{g}-even", complete(g)
        own, usual = (
            sorted(map(tuple, found["variants"][name]["groups"].values())) for name in (one, other)
        )
        value = difference(found, one, other)["difference"]
        if own == usual:
            parts.append(
                f"G = {g}: the same groups, which differ by {value['value']:+.4f} in their other "
                "initialisation, the scale of such noise"
            )
            continue
        holds.append(value["low"] > 0)
        parts.append(f"G = {g}: {interval(value)}")
    verdict = "Reproduced" if holds and all(holds) else "Not reproduced"
    if not holds:
        verdict = "Nothing to compare"
    return f"**Even groups are worse. {verdict}**: FVU(even) − FVU(complete): {'; '.join(parts)}."


def normalisation(found: Found) -> str:
    lines, notable = [], {}
    for g in dict.fromkeys((1, found["chosen"])):
        parts = []
        for kind in ("scale-only", "none", "learnable"):
            pair = difference(found, f"{BASELINE}-{kind}-g{g}-complete", complete(g))
            ratio = percent(pair["ratio"])
            parts.append(f"{kind} {interval(ratio, 100, '+.1f')}%")
            notable[g, kind] = ratio["value"] >= 0.02 and ratio["low"] > 0
        lines.append(f"G = {g}: {', '.join(parts)}")
    said = [f"{kind} at G = {g}" for (g, kind), yes in notable.items() if yes]
    verdict = f"Notable against {', '.join(said)}" if said else "Not notable"
    return (
        f"**Per-layer centre and scale. {verdict}**: FVU of each other kind relative to it: "
        f"{'; '.join(lines)}."
    )


def drawn(found: Found) -> str:
    parts = []
    for g in dict.fromkeys((1, found["chosen"])):
        ratio = percent(difference(found, f"{complete(g)}-all", complete(g))["ratio"])
        differs = ratio["low"] > 0 or ratio["high"] < 0
        verdict = "different" if differs else "no different"
        parts.append(f"G = {g}: {interval(ratio, 100, '+.2f')}% ({verdict})")
    return f"**All layers of a token instead of one**, FVU relative to one: {'; '.join(parts)}."


def equal_cost(found: Found) -> str:
    best = complete(found["chosen"])
    smaller = next(n for n in found["variants"] if n.startswith("topk-x1") and "-g" not in n)
    rows = {"groups": best, "smaller SAEs per layer": smaller, "fewer tokens": "fewer"}
    values = {
        label: found["variants"][name]["mean"]["fvu"]["suite"]["value"]
        for label, name in rows.items()
    }
    parts = [
        f"{label}: FVU {interval(difference(found, name, best)['difference'])}, ΔCE "
        f"{interval(difference(found, name, best, 'delta_ce')['difference'])} nats"
        for label, name in rows.items()
        if name != best
    ]
    one = found["variants"][complete(1)]["mean"]["fvu"]["suite"]["value"]
    winner = min(values, key=lambda label: values[label])
    return (
        f"**At equal vectors × latents, lowest FVU: {winner}** ({values[winner]:.4f}). Differences "
        f"from the groups of Ĝ: {'; '.join(parts)}. One SAE for all layers: FVU {one:.4f}."
    )


def seconds(found: Found) -> str:
    timing = found["timing"]
    if not timing:
        return "**Seconds saved**: not measured."
    measured = {n: fmean(r["measured"] for r in rs) for n, rs in timing["rounds"].items()}
    said = {n: fmean(r["predicted"] for r in rs) for n, rs in timing["rounds"].items()}
    errors = [r["measured"] / r["predicted"] - 1 for rs in timing["rounds"].values() for r in rs]
    holds = all(abs(error) <= 0.25 for error in errors)
    flops = {n: rs[0]["flops_lm"] + rs[0]["flops_saes"] for n, rs in timing["rounds"].items()}

    def saving(by: dict[str, float]) -> float:
        return 1 - by["groups"] / by["per-site"]

    return (
        f"**Seconds: the prediction {'holds' if holds else 'does not hold'}** (measured over "
        f"predicted − 1 between {min(errors):+.0%} and {max(errors):+.0%}, "
        f"{len(errors) // 2} rounds of {timing['tokens']:,} tokens). Per layer "
        f"{measured['per-site']:.1f} s, groups {measured['groups']:.1f} s: saved "
        f"{saving(measured):.0%}; predicted {saving(said):.0%} of the seconds, {saving(flops):.0%} "
        "of the operations."
    )
