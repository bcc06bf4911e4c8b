"""The claims of darkmatter_criteria.md, applied to what was found."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from darkmatter_found import (
    Found,
    Number,
    Sae,
    by_arch,
    by_layer,
    by_width,
    difference,
    number,
    of_seeds,
    over,
    part_lost,
)

REPRODUCED, PART, NOT, NONE = "reproduced", "in part", "not reproduced", "not measured"
MARKS = (NONE, NOT, PART, REPRODUCED)
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
    """One claim on one set of SAEs: its mark, and what it rests on."""

    mark: str
    said: str


Checker = Callable[[Found, str], Check]
"""Of what was found, at one place (`seed-<i>` or `random`)."""


@dataclass(frozen=True)
class Claim:
    """A claim with its criterion, and the controls it is held against."""

    title: str
    check: Checker
    rungs: Mapping[str, Checker]
    nulls: Mapping[str, Checker]


def reaches(mark: str, other: str) -> bool:
    """Whether a mark is at least as good as another."""
    return MARKS.index(mark) >= MARKS.index(other)


def worst(checks: Sequence[Check]) -> str:
    """Of several seeds, the mark that all of them reach."""
    return min((check.mark for check in checks), key=MARKS.index, default=NONE)


def marked(holds: Mapping[str, bool], every: Sequence[str] | None = None) -> str:
    """Reproduced where it holds at all of `every` (by default all) sites, in part where at some."""
    if not holds:
        return NONE
    if all(holds.get(site, False) for site in every or holds):
        return REPRODUCED
    return PART if any(holds.values()) else NOT


def per_layer(found: Found, where: str, metric: str) -> dict[str, Number]:
    """Site → a number, where there is one."""
    numbers = {site: number(sae, metric) for site, sae in by_layer(found, where).items()}
    return {site: n for site, n in numbers.items() if n is not None}


def span(numbers: Mapping[str, Number]) -> str:
    """The smallest and the largest over layers."""
    if not numbers:
        return "–"
    low, high = (pick(numbers, key=lambda s: numbers[s].value) for pick in (min, max))
    return f"{numbers[low]} ({short(low)}) to {numbers[high]} ({short(high)})"


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
        probe = number(sae, "norm.r2_error_norm")
        others = {k: n for k, m in BASELINES.items() if (n := number(sae, f"norm.{m}")) is not None}
        if probe is None or not others:
            continue
        holds[site] = all(probe.low > n.high for n in others.values())
        name = max(others, key=lambda k: others[k].value)
        best[site] = f"{short(site)} {probe.value:.2f} against {others[name].value:.2f} ({name})"
    said = f"above all at {counted(holds)}; the probe and the best baseline: " + ", ".join(
        best.values()
    )
    return Check(marked(holds), said)


def constant_in_width(suffix: str = "") -> Checker:
    """|n/b| of the criteria; `suffix` names a rung."""
    section = f"shrinkage.{{}}_{suffix}" if suffix else "split.{}"

    def check(found: Found, where: str) -> Check:
        saes = by_width(found, where)
        fvu = [number(sae, section.format("fvu")) for sae in saes]
        rest = [number(sae, section.format("fvu_nonlinear")) for sae in saes]
        total, nonlinear = [n for n in fvu if n], [n for n in rest if n]
        if len(total) < 3 or len(nonlinear) < len(total):
            return Check(NONE, "–")
        b, n = change(total), change(nonlinear)
        falls = all(after.value < before.value for before, after in pairwise(total))
        ratio = abs(n.value / b.value)
        least = min(abs(b.low), abs(b.high)) if b.low * b.high > 0 else 0.0
        most = max(abs(n.low), abs(n.high)) / least if least else math.inf
        mark = NOT
        if falls and b.high < 0 and most < 0.5:
            mark = REPRODUCED if most <= 0.25 else PART
        said = (
            f"M = {saes[0]['width']} to {saes[-1]['width']}: FVU {total[0].value:.3f} to "
            f"{total[-1].value:.3f}, FVU_nl {nonlinear[0].value:.3f} to {nonlinear[-1].value:.3f}; "
            f"|n/b| = {ratio:.2f}, at most {most:.2f}"
        )
        return Check(mark, said if falls else f"{said}; FVU does not fall at every step")

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
    mark = REPRODUCED if all(both.values()) else PART if little else NOT
    return Check(mark, f"FVU changes by {percents(total)}, FVU_nl by {percents(rest)}")


def percents(numbers: Mapping[str, Number]) -> str:
    return span({s: Number(100 * n.value, 100 * n.low, 100 * n.high) for s, n in numbers.items()})


def learnable(found: Found, where: str) -> Check:
    for sae in by_width(found, where):
        gap = number(sae, "error_saes.u_minus_l")
        if gap is None:
            continue
        fvu = {key: number(sae, f"error_saes.fvu_{key}") for key in ("e", "l", "u")}
        mark = NOT
        if gap.low > 0:
            mark = REPRODUCED if gap.meets(0.02, 0.10) else PART
        parts = ", ".join(f"{'ℓ' if k == 'l' else k} {n}" for k, n in fvu.items() if n)
        return Check(mark, f"FVU of SAEs on {parts}; u − ℓ {gap}")
    return Check(NONE, "–")


def shares_of_loss(found: Found, where: str) -> Check:
    holds, left, parts = {}, [], []
    for site, sae in by_layer(found, where).items():
        names = ("gap", "recovered_linear", "recovered_nonlinear", "squared_share_linear")
        gap, linear, rest, share = (number(sae, f"downstream.{name}") for name in names)
        if gap is None or gap.value <= LEAST_GAP or not (linear and rest and share):
            left.append(short(site))
            continue
        s = share.value
        holds[site] = linear.meets(s - 0.1, s + 0.1) and rest.meets(0.9 - s, 1.1 - s)
        parts.append(
            f"{short(site)} ℓ {linear.value:.2f} (of ‖e‖² {s:.2f}), u {rest.value:.2f} "
            f"({1 - s:.2f})"
        )
    said = "no CE gap to share out"
    if parts:
        said = f"met at {counted(holds)}; recovered: {'; '.join(parts)}"
    if left:
        said += f"; left out, gap below {LEAST_GAP} nats: {', '.join(left)}"
    return Check(marked(holds), said)


def ladder(found: Found, where: str) -> Check:
    falls, rises = {}, {}
    for site, sae in by_layer(found, where).items():
        rungs = [number(sae, f"ladder.r2_norm_{key}") for key in LADDER]
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
    mark = REPRODUCED if all(falls.values()) else PART if few else NOT
    said = "; ".join(f"{short(s)}: {', '.join(steps) or 'none'}" for s, steps in rises.items())
    return Check(mark, f"steps that rise: {said}")


def adjacent(found: Found, where: str) -> Check:
    output = per_layer(found, where, "adjacent.r2_u_from_x_hat")
    itself = per_layer(found, where, "adjacent.r2_u_from_x")
    if not output:
        return Check(NONE, "–")
    best = max(output, key=lambda site: output[site].value)
    most = output[best]
    mark = REPRODUCED if most.meets(0.4) else PART if most.value > 0.1 else NOT
    own = (
        "which reaches as high: the SAE has nothing to do with it"
        if itself[best].high >= most.low
        else "which is less"
    )
    said = f"u from x̂ of the layer before {span(output)}; from x of it {itself[best]}, {own}"
    return Check(mark, said)


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
                worst(list(checks.values())),
                checks,
                _under(claim.rungs, found, seeds),
                _under(claim.nulls, found, seeds),
                claim.check(found, "random") if found["random"] else Check(NONE, "–"),
            )
        )
    return every


def _under(controls: Mapping[str, Checker], found: Found, seeds: Sequence[str]) -> dict[str, str]:
    return {
        what: worst([check(found, where) for where in seeds]) for what, check in controls.items()
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
    over_floor = {}
    for site in by_layer(found, of_seeds(found)[0]):
        gaps = []
        for where in of_seeds(found):
            sae = by_layer(found, where)[site]
            r2, fvu = (number(sae, f"shrinkage.{m}_scaled") for m in ("r2_error", "fvu"))
            gaps.append(difference(r2, fvu) if r2 and fvu else None)
        if (gap := over(gaps)) is not None:
            over_floor[site] = gap
    return f"Above the arithmetical floor, R²(α*x̂ + c) − FVU(α*x̂ + c): {span(over_floor)}."


def ceiling(found: Found) -> str:
    """What an MLP predicts of u, over layers."""
    sites = {
        site: over(
            [per_layer(found, where, "mlp.r2_u_best").get(site) for where in of_seeds(found)]
        )
        for site in by_layer(found, of_seeds(found)[0])
    }
    known = {site: n for site, n in sites.items() if n is not None}
    more = {site: n.low > 0.1 for site, n in known.items()}
    verdict = "Not the ceiling" if any(more.values()) else "No MLP tried does much better"
    return f"**{verdict}**: an MLP predicts R² {span(known)} of u; above .1 at {counted(more)}."


SHRINKS, STRAIGHT = ("relu",), ("topk", "batchtopk", "jumprelu", "gated", "switch")


def artefact(sae: Sae, rung: str) -> Number | None:
    """1 − R²(rung)/R²(x̂): as the audit says it, else with the widest interval."""
    said = number(sae, f"shrinkage.artefact_{rung}")
    before = number(sae, "shrinkage.r2_error_as_is")
    after = number(sae, f"shrinkage.r2_error_{rung}")
    if said is not None or before is None or after is None or min(before.low, after.low) <= 0:
        return said
    return part_lost(after, before)


def linear_lost(sae: Sae, rung: str) -> Number | None:
    """1 − L(rung)/L(x̂), L = FVU − FVU_nl: as the audit says it, else with the widest interval."""
    said = number(sae, f"shrinkage.linear_gone_{rung}")
    if said is not None:
        return said
    parts = []
    for name in (rung, "as_is"):
        fvu, rest = (number(sae, f"shrinkage.{m}_{name}") for m in ("fvu", "fvu_nonlinear"))
        if fvu is None or rest is None:
            return None
        parts.append(difference(fvu, rest))
    return part_lost(*parts) if min(parts[0].low, parts[1].low) > 0 else None


def predictions(found: Found) -> list[tuple[str, str, str, str]]:
    """Architecture, prediction, `held` or `failed` (with every seed), and the numbers."""
    made = [by_arch(found, where) for where in of_seeds(found)]
    rows = []
    for arch in made[0]:
        saes = [one[arch] for one in made if arch in one]
        alphas = [n for sae in saes if (n := number(sae, "shrinkage.alpha"))]
        scaled = [n for sae in saes if (n := artefact(sae, "scaled"))]
        affine = [n for sae in saes if (n := artefact(sae, "affine"))]
        said = f"α* {over(alphas)}; artefact at α* {over(scaled)}, affine {over(affine)}"
        if arch in SHRINKS:
            held = [a.value > 1.02 for a in alphas] + [n.low > 0.05 for n in scaled]
            rows.append((arch, "shrinks", mark(held, 2 * len(saes)), said))
        elif arch in STRAIGHT:
            held = [0.98 <= a.value <= 1.02 for a in alphas] + [n.value < 0.05 for n in scaled]
            rows.append((arch, "does not", mark(held, 2 * len(saes)), said))
        held = [n.value < 0.5 for n in affine]
        rows.append((arch, "not most of it", mark(held, len(saes)), said))
    return rows


def mark(held: Sequence[bool], needed: int) -> str:
    """Of the parts of a prediction; what has no number (R² not above 0) neither held nor failed."""
    if not all(held):
        return "failed"
    return "held" if len(held) == needed else NONE
