"""The criteria of groups, applied to what was measured."""

from itertools import pairwise
from statistics import fmean

from experiments.criteria import Number, known, mark
from experiments.groups.variants import BASELINE, complete, ladder
from experiments.runs import Found


def verdicts(found: Found) -> list[str]:
    """One item per criterion, in its order."""
    criteria = (falls, gap, even, normalisation, drawn, equal_cost, seconds)
    return [criterion(found) for criterion in criteria]


def difference(found: Found, name: str, other: str, metric: str = "fvu") -> Number:
    """Of the mean over layers, between two variants."""
    return known(found["pairs"][f"{name} − {other}"]["mean"][metric]["difference"])


def relative(found: Found, name: str, other: str) -> Number:
    """FVU(name)/FVU(other) − 1, of the mean over layers."""
    return known(found["pairs"][f"{name} − {other}"]["mean"]["fvu"]["ratio"]).map(shift=-1)


def percent(n: Number, form: str = "+.1f") -> str:
    return f"{n.map(100):{form}}%"


def falls(found: Found) -> str:
    names = ladder(len(found["sites"]))
    steps = [difference(found, after, before) for before, after in pairwise(names)]
    shown = "; ".join(f"{g}→{g + 1}: {step:+.4f}" for g, step in enumerate(steps, 1))
    verdict = mark((step.high < 0 for step in steps), all(step.value < 0 for step in steps))
    return f"**FVU falls with G. {verdict.capitalize()}**: {shown}."


def gap(found: Found) -> str:
    mean = found["variants"][complete(found["chosen"])]["mean"]
    ratio = known(mean["fvu"]["ratio"]).map(shift=-1)
    verdict = mark([ratio.meets(0.11, 0.14)])
    return (
        f"**The gap at Ĝ = {found['chosen']}. {verdict.capitalize()}**: {percent(ratio)} of the "
        "baseline's FVU (paper: 11 to 14%); ΔCE "
        f"{known(mean['delta_ce']['difference']):+.4f} nats."
    )


def even(found: Found) -> str:
    parts, holds = [], []
    for g in range(2, len(found["sites"])):
        names = (f"{BASELINE}-g{g}-even", complete(g))
        groups = [sorted(map(tuple, found["variants"][n]["groups"].values())) for n in names]
        n = difference(found, *names)
        if groups[0] == groups[1]:
            parts.append(
                f"G = {g}: the same groups, which differ by {n.value:+.4f} in their other "
                "initialisation, the scale of such noise"
            )
        else:
            holds.append(n.low > 0)
            parts.append(f"G = {g}: {n:+.4f}")
    verdict = mark(holds).capitalize() if holds else "Nothing to compare"
    return f"**Even groups are worse. {verdict}**: FVU(even) − FVU(complete): {'; '.join(parts)}."


def normalisation(found: Found) -> str:
    lines, notable = [], []
    for g in dict.fromkeys((1, found["chosen"])):
        parts = []
        for kind in ("scale-only", "none", "learnable"):
            ratio = relative(found, f"{BASELINE}-{kind}-g{g}-complete", complete(g))
            parts.append(f"{kind} {percent(ratio)}")
            if ratio.value >= 0.02 and ratio.low > 0:
                notable.append(f"{kind} at G = {g}")
        lines.append(f"G = {g}: {', '.join(parts)}")
    verdict = f"Notable against {', '.join(notable)}" if notable else "Not notable"
    return (
        f"**Per-layer centre and scale. {verdict}**: FVU of each other kind relative to it: "
        f"{'; '.join(lines)}."
    )


def drawn(found: Found) -> str:
    parts = []
    for g in dict.fromkeys((1, found["chosen"])):
        ratio = relative(found, f"{complete(g)}-all", complete(g))
        verdict = "different" if ratio.differs() else "no different"
        parts.append(f"G = {g}: {percent(ratio, '+.2f')} ({verdict})")
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
        f"{label}: FVU {difference(found, name, best):+.4f}, ΔCE "
        f"{difference(found, name, best, 'delta_ce'):+.4f} nats"
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
    predicted = {n: fmean(r["predicted"] for r in rs) for n, rs in timing["rounds"].items()}
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
        f"{saving(measured):.0%}; predicted {saving(predicted):.0%} of the seconds, "
        f"{saving(flops):.0%} of the operations."
    )
