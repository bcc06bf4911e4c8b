"""The claims of the criteria, applied to what was measured."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from experiments.criteria import NONE, PART, REPRODUCED, Number, hull, mark, reaches, worst
from experiments.darkmatter.saes import (
    Sae,
    archs_of,
    by_layer,
    by_width,
    layers_of,
    mean,
    of_seeds,
    shown,
    value,
)
from experiments.runs import Found

RUNGS = {
    "scaled": "x̂ rescaled by α*",
    "per_latent": "one scale per latent",
    "affine": "the best affine map of x̂",
}
BASELINES = {"token": "r2_token", "loss": "r2_loss", "L0": "r2_l0", "‖x‖²": "r2_x_norm"}
LADDER = ("x", "x_hat", "x_hat_u", "e", "l", "u")
MIDDLE = ("layers.2", "layers.3")
LEAST_GAP = 0.01
"""Nats of a CE gap below which its shares are not read."""


@dataclass(frozen=True)
class Check:
    """One claim on one set of SAEs: its mark, and the numbers it rests on."""

    mark: str
    text: str


Checker = Callable[[Found, str], Check]
"""Of what was found, at one place (`seed-<i>` or `random`)."""


@dataclass(frozen=True)
class Claim:
    """A claim with its criterion, and the controls it is held against."""

    title: str
    check: Checker
    rungs: Mapping[str, Checker]
    nulls: Mapping[str, Checker]


def marked(holds: Mapping[str, bool], every: Sequence[str] | None = None) -> str:
    """Reproduced where it holds at all of `every` (by default all) sites, in part where at some."""
    if not holds:
        return NONE
    return mark((holds.get(site, False) for site in every or holds), any(holds.values()))


def per_layer(found: Found, where: str, metric: str) -> dict[str, Number]:
    """Site → a number, where there is one."""
    numbers = {site: value(sae, metric) for site, sae in by_layer(found, where).items()}
    return {site: n for site, n in numbers.items() if n is not None}


def span(numbers: Mapping[str, Number]) -> str:
    """The smallest and the largest over sites."""
    if not numbers:
        return "–"
    low, high = (pick(numbers, key=lambda s: numbers[s].value) for pick in (min, max))
    return f"{numbers[low]:.3f} ({short(low)}) to {numbers[high]:.3f} ({short(high)})"


def short(site: str) -> str:
    return site.replace("layers.", "layer ")


def in_range(metric: str, low: float, high: float, every: Sequence[str] | None = None) -> Checker:
    """Whether a number per layer meets a range."""

    def check(found: Found, where: str) -> Check:
        numbers = per_layer(found, where, metric)
        holds = {site: n.meets(low, high) for site, n in numbers.items()}
        return Check(marked(holds, every), f"{span(numbers)}; met at {counted(holds)}")

    return check


def counted(holds: Mapping[str, bool]) -> str:
    """`3 of 6 layers`."""
    return f"{sum(holds.values())} of {len(holds)} layers"


def baselines(found: Found, where: str) -> Check:
    holds, best = {}, {}
    for site, sae in by_layer(found, where).items():
        probe = value(sae, "norm.r2_error_norm")
        others = {k: n for k, m in BASELINES.items() if (n := value(sae, f"norm.{m}")) is not None}
        if probe is None or not others:
            continue
        holds[site] = all(probe.low > n.high for n in others.values())
        name = max(others, key=lambda k: others[k].value)
        best[site] = f"{short(site)} {probe.value:.2f} against {others[name].value:.2f} ({name})"
    pairs = ", ".join(best.values())
    text = f"above all at {counted(holds)}; the probe and the best baseline: {pairs}"
    return Check(marked(holds), text)


def constant_in_width(suffix: str = "") -> Checker:
    """|n/b| of the criteria; `suffix` names a rung."""
    section = f"shrinkage.{{}}_{suffix}" if suffix else "split.{}"

    def check(found: Found, where: str) -> Check:
        saes = by_width(found, where)
        fvu = [value(sae, section.format("fvu")) for sae in saes]
        rest = [value(sae, section.format("fvu_nonlinear")) for sae in saes]
        total, nonlinear = [n for n in fvu if n], [n for n in rest if n]
        if len(total) < 3 or len(nonlinear) < len(total):
            return Check(NONE, "–")
        b, n = change(total), change(nonlinear)
        falls = all(after.value < before.value for before, after in pairwise(total))
        ratio = abs(n.value / b.value)
        least = min(abs(b.low), abs(b.high)) if b.low * b.high > 0 else 0.0
        most = max(abs(n.low), abs(n.high)) / least if least else math.inf
        constant = falls and b.high < 0 and most < 0.5
        text = (
            f"M = {saes[0]['width']} to {saes[-1]['width']}: FVU {total[0].value:.3f} to "
            f"{total[-1].value:.3f}, FVU_nl {nonlinear[0].value:.3f} to {nonlinear[-1].value:.3f}; "
            f"|n/b| = {ratio:.2f}, at most {most:.2f}"
        )
        text += "" if falls else "; FVU does not fall at every step"
        return Check(mark([constant and most <= 0.25], constant), text)

    return check


def change(numbers: Sequence[Number]) -> Number:
    """ln(last/first), with the widest interval."""
    first, last = numbers[0], numbers[-1]
    return Number(
        math.log(last.value / first.value),
        math.log(last.low / first.high),
        math.log(last.high / first.low),
    )


def pursued(found: Found, where: str) -> Check:
    total = per_layer(found, where, "pursuit.fvu_change")
    rest = per_layer(found, where, "pursuit.fvu_nonlinear_change")
    if not total:
        return Check(NONE, "–")
    both = {s: n.meets(-0.05, -0.03) and rest[s].meets(-0.02, 0.02) for s, n in total.items()}
    little = all(n.high < 0 and n.value > -0.1 for n in total.values())
    text = f"FVU changes by {percents(total)}, FVU_nl by {percents(rest)}"
    return Check(mark(both.values(), little), text)


def percents(numbers: Mapping[str, Number]) -> str:
    return span({site: n.map(100) for site, n in numbers.items()})


def learnable(found: Found, where: str) -> Check:
    for sae in by_width(found, where):
        gap = value(sae, "error_saes.u_minus_l")
        if gap is None:
            continue
        fvu = {key: value(sae, f"error_saes.fvu_{key}") for key in ("e", "l", "u")}
        parts = ", ".join(f"{'ℓ' if k == 'l' else k} {n:.3f}" for k, n in fvu.items() if n)
        text = f"FVU of SAEs on {parts}; u − ℓ {gap:.3f}"
        return Check(mark([gap.low > 0 and gap.meets(0.02, 0.10)], gap.low > 0), text)
    return Check(NONE, "–")


def shares_of_loss(found: Found, where: str) -> Check:
    holds, left, parts = {}, [], []
    for site, sae in by_layer(found, where).items():
        names = ("gap", "recovered_linear", "recovered_nonlinear", "squared_share_linear")
        gap, linear, rest, share = (value(sae, f"downstream.{name}") for name in names)
        if gap is None or gap.value <= LEAST_GAP or not (linear and rest and share):
            left.append(short(site))
            continue
        s = share.value
        holds[site] = linear.meets(s - 0.1, s + 0.1) and rest.meets(0.9 - s, 1.1 - s)
        parts.append(
            f"{short(site)} ℓ {linear.value:.2f} (of ‖e‖² {s:.2f}), u {rest.value:.2f} "
            f"({1 - s:.2f})"
        )
    text = "no CE gap to share out"
    if parts:
        text = f"met at {counted(holds)}; recovered: {'; '.join(parts)}"
    if left:
        text += f"; left out, gap below {LEAST_GAP} nats: {', '.join(left)}"
    return Check(marked(holds), text)


def ladder(found: Found, where: str) -> Check:
    falls, rises = {}, {}
    for site, sae in by_layer(found, where).items():
        rungs = [value(sae, f"ladder.r2_norm_{key}") for key in LADDER]
        if any(n is None for n in rungs):
            continue
        steps = [(a, b) for a, b in pairwise(rungs) if a is not None and b is not None]
        falls[site] = all(b.high < a.low for a, b in steps)
        rises[site] = [
            f"{LADDER[i]}→{LADDER[i + 1]}" for i, (a, b) in enumerate(steps) if b.value > a.value
        ]
    if not falls:
        return Check(NONE, "–")
    few = all(len(steps) <= 1 for steps in rises.values())
    text = "; ".join(f"{short(s)}: {', '.join(steps) or 'none'}" for s, steps in rises.items())
    return Check(mark(falls.values(), few), f"steps that rise: {text}")


def adjacent(found: Found, where: str) -> Check:
    output = per_layer(found, where, "adjacent.r2_u_from_x_hat")
    itself = per_layer(found, where, "adjacent.r2_u_from_x")
    if not output:
        return Check(NONE, "–")
    best = max(output, key=lambda site: output[site].value)
    most, control = output[best], itself[best]
    compared = (
        "which reaches as high: the SAE has nothing to do with it"
        if control.high >= most.low
        else "which is less"
    )
    text = f"u from x̂ of the layer before {span(output)}; from x of it {control:.3f}, {compared}"
    return Check(mark([most.meets(0.4)], most.value > 0.1), text)


def difference(a: Number, b: Number) -> Number:
    """a − b, with the widest interval that theirs allow."""
    return Number(a.value - b.value, a.low - b.high, a.high - b.low)


def part_lost(after: Number, before: Number) -> Number:
    """1 − after/before, likewise; both above 0."""
    low, high = after.low / before.high, after.high / before.low
    return Number(1 - after.value / before.value, 1 - high, 1 - low)


def null(metric: str) -> Checker:
    return in_range(f"null.{metric}", 0.4, 0.6)


def claims() -> list[Claim]:
    """In the order of the criteria."""
    r2 = {what: in_range(f"shrinkage.r2_error_{rung}", 0.4, 0.6) for rung, what in RUNGS.items()}
    norm = {
        what: in_range(f"shrinkage.r2_error_norm_{rung}", 0.7, math.inf, MIDDLE)
        for rung, what in RUNGS.items()
    }
    width = {what: constant_in_width(rung) for rung, what in RUNGS.items()}
    nulls = {"shuffled errors": null("r2_shuffled"), "noise of the same norm": null("r2_noise")}
    return [
        Claim(
            "About half of the error vector is linear in x",
            in_range("vector.r2_error_per_dimension", 0.4, 0.6),
            r2,
            nulls,
        ),
        Claim(
            "The norm of the error is mostly linear in x",
            in_range("norm.r2_error_norm", 0.7, math.inf, MIDDLE),
            norm,
            {},
        ),
        Claim("The norm probe beats every baseline", baselines, {}, {}),
        Claim(
            "FVU_nl is roughly constant in width while FVU falls", constant_in_width(), width, {}
        ),
        Claim("Pursuit lowers FVU by 3 to 5% and FVU_nl hardly", pursued, {}, {}),
        Claim("ℓ is more learnable than u", learnable, {}, {}),
        Claim("Shares of the loss are shares of the error", shares_of_loss, {}, {}),
        Claim("The norm ladder falls", ladder, {}, {}),
        Claim("Earlier SAE outputs explain up to half of u", adjacent, {}, {}),
    ]


@dataclass(frozen=True)
class Judged:
    """A claim with its mark over the seeds, and under each control."""

    title: str
    mark: str
    seeds: dict[str, Check]
    rungs: dict[str, str]
    nulls: dict[str, str]
    random: Check

    def specific(self) -> str:
        """What the controls leave of it."""
        if self.mark not in (PART, REPRODUCED):
            return "–"
        met = [what for what, mark in self.nulls.items() if reaches(mark, self.mark)]
        if reaches(self.random.mark, self.mark):
            met.append("random weights")
        if met:
            return f"not specific ({', '.join(met)})"
        return "specific" if self.random.mark != NONE else "no control"


def judged(found: Found) -> list[Judged]:
    """Every claim."""
    seeds = of_seeds(found)
    every = []
    for claim in claims():
        checks = {where: claim.check(found, where) for where in seeds}
        every.append(
            Judged(
                claim.title,
                worst(check.mark for check in checks.values()),
                checks,
                _under(claim.rungs, found, seeds),
                _under(claim.nulls, found, seeds),
                claim.check(found, "random") if found["random"] else Check(NONE, "–"),
            )
        )
    return every


def _under(controls: Mapping[str, Checker], found: Found, seeds: Sequence[str]) -> dict[str, str]:
    return {
        what: worst(check(found, where).mark for where in seeds) for what, check in controls.items()
    }


def of_shrinkage(found: Found) -> str:
    """At how many layers the pooled R² of x̂ meets the range and that of a rung lies below it."""
    parts = []
    for rung, what in RUNGS.items():
        drops: dict[str, bool] = {}
        for where in of_seeds(found):
            before = per_layer(found, where, "shrinkage.r2_error_as_is")
            after = per_layer(found, where, f"shrinkage.r2_error_{rung}")
            for site, n in after.items():
                drop = before[site].meets(0.4, 0.6) and n.high < 0.4
                drops[site] = drops.get(site, False) or drop
        parts.append(f"{what}: {counted(drops)}" if drops else f"{what}: not measured")
    return f"An artefact of shrinkage at {'; '.join(parts)}."


def floor(found: Found) -> str:
    """R² at α* beside the FVU that is its floor."""
    gaps = {}
    for site, saes in layers_of(found).items():
        of_seed = []
        for sae in filter(None, saes):
            r2, fvu = (value(sae, f"shrinkage.{m}_scaled") for m in ("r2_error", "fvu"))
            of_seed.append(difference(r2, fvu) if r2 and fvu else None)
        if (gap := hull(of_seed)) is not None:
            gaps[site] = gap
    return f"Above the arithmetical floor, R²(α*x̂ + c) − FVU(α*x̂ + c): {span(gaps)}."


def ceiling(found: Found) -> str:
    """What an MLP predicts of u, over layers."""
    known = {
        site: n
        for site, saes in layers_of(found).items()
        if (n := mean(saes, "mlp.r2_u_best")) is not None
    }
    more = {site: n.low > 0.1 for site, n in known.items()}
    verdict = "Not the ceiling" if any(more.values()) else "No MLP tried does much better"
    return f"**{verdict}**: an MLP predicts R² {span(known)} of u; above .1 at {counted(more)}."


SHRINKS, STRAIGHT = ("relu",), ("topk", "batchtopk", "jumprelu", "gated", "switch")


def artefact(sae: Sae, rung: str) -> Number | None:
    """1 − R²(rung)/R²(x̂): the audit's, else with the widest interval."""
    audited = value(sae, f"shrinkage.artefact_{rung}")
    before = value(sae, "shrinkage.r2_error_as_is")
    after = value(sae, f"shrinkage.r2_error_{rung}")
    if audited is not None or before is None or after is None or min(before.low, after.low) <= 0:
        return audited
    return part_lost(after, before)


def linear_lost(sae: Sae, rung: str) -> Number | None:
    """1 − L(rung)/L(x̂), L = FVU − FVU_nl: the audit's, else with the widest interval."""
    audited = value(sae, f"shrinkage.linear_gone_{rung}")
    if audited is not None:
        return audited
    parts = []
    for name in (rung, "as_is"):
        fvu, rest = (value(sae, f"shrinkage.{m}_{name}") for m in ("fvu", "fvu_nonlinear"))
        if fvu is None or rest is None:
            return None
        parts.append(difference(fvu, rest))
    return part_lost(*parts) if min(parts[0].low, parts[1].low) > 0 else None


def predictions(found: Found) -> list[tuple[str, str, str, str]]:
    """Architecture, prediction, `held` or `failed` (with every seed), and the numbers."""
    rows = []
    for arch, of_seed in archs_of(found).items():
        saes = [sae for sae in of_seed if sae]
        alphas = [n for sae in saes if (n := value(sae, "shrinkage.alpha"))]
        scaled = [n for sae in saes if (n := artefact(sae, "scaled"))]
        affine = [n for sae in saes if (n := artefact(sae, "affine"))]
        numbers = ", ".join(
            [
                f"α* {shown(hull(alphas))}; artefact at α* {shown(hull(scaled))}",
                f"affine {shown(hull(affine))}",
            ]
        )
        if arch in SHRINKS:
            holds = [a.value > 1.02 for a in alphas] + [n.low > 0.05 for n in scaled]
            rows.append((arch, "shrinks", judgement(holds, 2 * len(saes)), numbers))
        elif arch in STRAIGHT:
            holds = [0.98 <= a.value <= 1.02 for a in alphas] + [n.value < 0.05 for n in scaled]
            rows.append((arch, "does not", judgement(holds, 2 * len(saes)), numbers))
        holds = [n.value < 0.5 for n in affine]
        rows.append((arch, "not most of it", judgement(holds, len(saes)), numbers))
    return rows


def judgement(holds: Sequence[bool], needed: int) -> str:
    """Of a prediction's parts; one without a number (R² not above 0) neither holds nor fails."""
    if not all(holds):
        return "failed"
    return "held" if len(holds) == needed else NONE
