"""Claims 1 to 10 of the criteria: what the paper says, with our numbers beside its own."""

from collections.abc import Callable, Iterator

import numpy as np

from experiments.criteria import Claim, Number, Part, over_seeds
from experiments.switch.arms import (
    Arm,
    Drawn,
    difference,
    estimate,
    matched,
    relative,
    switch,
    topk,
)
from saeworks.cost.estimate import flops

D = 256
WIDTHS = (1024, 2048, 4096, 8192, 16384)
NARROW = (256, 512)


def fixed_width() -> Iterator[Part]:
    for n, paper in ((4, None), (16, 0.135), (64, 0.288)):
        yield Part(f"N = {n}", relative(switch(experts=n), topk()), paper, sign=1)


def with_experts() -> Iterator[Part]:
    first = relative(switch(experts=16), switch(experts=4))
    yield Part("16 over 4", first, sign=1)
    yield Part("64 over 16", relative(switch(experts=64), switch(experts=16)), 0.135)


def with_k() -> Iterator[Part]:
    def growth(small: Drawn, base_small: Drawn, large: Drawn, base_large: Drawn) -> Drawn:
        return (large / base_large) / (small / base_small) - 1

    for n, paper in ((16, 0.138), (64, 0.316)):
        arms = [switch(k=8, experts=n), topk(k=8), switch(k=64, experts=n), topk(k=64)]
        yield Part(f"N = {n}", estimate(growth, arms), paper)


def with_width() -> Iterator[Part]:
    for n, paper in ((8, -0.031), (64, -0.068)):
        widths = widths_of(n)

        def slope(*drawn: Drawn, widths: tuple[int, ...] = widths) -> Drawn:
            half = len(widths)
            ratio = np.log(np.stack(drawn[:half]) / np.stack(drawn[half:]))
            x = np.log2(widths) - np.mean(np.log2(widths))
            return np.asarray(x @ ratio / (x @ x))

        arms = [switch(w, experts=n) for w in widths] + [topk(w) for w in widths]
        yield Part(f"N = {n}", estimate(slope, arms), paper, form="+.4f")


def widths_of(experts: int) -> tuple[int, ...]:
    """Those at which an expert has at least k = 32 latents."""
    return tuple(w for w in WIDTHS if w // experts >= 32)


def equal_flops() -> Iterator[Part]:
    papers = {
        32: (-0.098, -0.160, -0.209),
        8: (-0.042, -0.066, -0.082),
        16: (-0.068, -0.117, -0.155),
        64: (-0.093, -0.155, -0.206),
    }
    for k, of_k in papers.items():
        for n, paper in zip((2, 4, 8), of_k, strict=True):
            found = relative(matched(n, k), topk(k=k))
            yield Part(f"k = {k}, N = {n}", found, paper, judged=k == 32)


def same_loss() -> Iterator[Part]:
    for n, paper in ((8, 4.0), (64, 15.0)):
        for judged, count in ((True, training), (False, authors)):
            found, width = saving(n, count)
            what = "our count" if judged else "the paper's count"
            name = f"N = {n} at M = {width:,}, {what}"
            yield Part(name, found, paper - 1, judged=judged, form="+.2f")


Count = Callable[[int, int], float]


def training(width: int, experts: int) -> float:
    """FLOPs per token of our training step."""
    more = {"experts": experts} if experts > 1 else {}
    return flops("switch" if more else "topk", D, width=width, k=32, **more).total


def authors(width: int, experts: int) -> float:
    return 4.0 * D * width / experts


def saving(experts: int, count: Count) -> tuple[Number, int]:
    """FLOPs of TopK at the FVU of the widest Switch whose FVU lies within TopK's, over its own,
    minus 1. TopK's widths are those up to its best."""
    fvu = {w: topk(w).drawn(0, "fvu")[0] for w in (*NARROW, *WIDTHS)}
    dense = [w for w in fvu if w <= min(fvu, key=lambda w: fvu[w])]
    own = {w: switch(w, experts=experts).drawn(0, "fvu")[0] for w in widths_of(experts)}
    width = max(w for w, value in own.items() if fvu[dense[-1]] <= value <= fvu[dense[0]])
    log_flops = np.log([count(w, 1) for w in dense])

    def ratio(one: Drawn, *others: Drawn) -> Drawn:
        needed = [
            np.interp(-np.log(at), -np.log(curve), log_flops)
            for at, curve in zip(one, np.stack(others).T, strict=True)
        ]
        return np.asarray(np.exp(needed) / count(width, experts) - 1)

    arms = [switch(width, experts=experts), *(topk(w) for w in dense)]
    return estimate(ratio, arms), width


def downstream() -> Iterator[Part]:
    for k in (64, 32):
        pairs = ((switch(k=k), "16 experts of equal width", 0.26), (matched(8, k), EQUAL, -0.25))
        for arm, name, paper in pairs:
            found = relative(arm, topk(k=k), "delta_ce")
            yield Part(f"ΔCE, k = {k}, {name}", found, paper, judged=k == 64)
    for arm, name, paper in (
        (switch(k=64), "16 experts", -0.0015),
        (matched(8, 64), EQUAL, 0.0014),
    ):
        found = difference(arm, topk(k=64), "loss_recovered_zero")
        yield Part(f"loss recovered, k = 64, {name}", found, paper, judged=False, form="+.4f")


EQUAL = "8 experts at equal FLOPs"


def weighting() -> Iterator[Part]:
    for k in (64, 32):
        for alpha, paper in (("0", 0.238), ("0.03", None)):
            plain = switch(k=k, balance=0) if alpha == "0" else switch(k=k)
            found = relative(switch(k=k, balance=alpha, router="heaviside"), plain)
            name = f"k = {k}, α = {alpha}"
            yield Part(name, found, paper, sign=1, judged=k == 64 and alpha == "0")


def duplicates(arms: tuple[Arm, Arm]) -> Number:
    """Difference of the duplicate share at cosine 0.9, over seeds where there are several."""
    shares = (arm.extra("duplicates", "0.9") for arm in arms)
    return over_seeds([a - b for a, b in zip(*shares, strict=False)])


def balance() -> Iterator[Part]:
    for alpha in ("0", "0.001", "0.01", "0.1", "0.3", "1", "3"):
        found = relative(switch(balance=alpha), switch())
        name, flat = f"α = {alpha} over 0.03", float(alpha) > 0.03
        if flat:
            yield Part(name, found, within=0.02)
        else:
            yield Part(name, found, sign=1, judged=alpha == "0.001")


def redundancy() -> Iterator[Part]:
    for one, other in ((16, 4), (64, 16)):
        found = duplicates((switch(experts=one), switch(experts=other)))
        yield Part(f"{one} over {other}, k = 32", found, sign=1)
    for n in (16, 64):
        found = duplicates((switch(k=64, experts=n), switch(k=8, experts=n)))
        yield Part(f"N = {n}, k = 64 over 8", found, sign=-1)


PUBLISHED: dict[str, Callable[[], Iterator[Part]]] = {
    "At fixed width Switch is a little worse than TopK": fixed_width,
    "The gap grows with the number of experts": with_experts,
    "The gap grows with k": with_k,
    "The gap shrinks with width (slope of ln(ratio) per doubling)": with_width,
    "At equal FLOPs Switch is better": equal_flops,
    "The same loss for fewer FLOPs (times fewer, minus 1)": same_loss,
    "ΔCE goes with FVU": downstream,
    "Weighting by p is essential (heaviside over switch)": weighting,
    "α matters only below a threshold": balance,
    "More experts, more duplicates; fewer at larger k": redundancy,
}


def published() -> list[Claim]:
    """Claims 1 to 10."""
    return [Claim(i, title, list(of())) for i, (title, of) in enumerate(PUBLISHED.items(), 1)]
