"""Claims 11 to 19 of the criteria: other sites, routers, batches, layers, seconds, length."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from experiments.criteria import Claim, Part, known
from experiments.runs import read
from experiments.switch.arms import Arm, Drawn, all_arms, estimate, matched, relative, switch, topk
from experiments.switch.claims import duplicates

TOPK, WIDE = "topk-w4096-k32", "switch-w32768-k32-experts8"


def within(part: str) -> dict[str, Arm]:
    """The arms of a part by variant."""
    return {arm.variant: arm for arm in all_arms() if arm.part == part}


def other_sites(_: Path) -> Iterator[Part]:
    arms = within("sites")
    if not arms:
        return
    for site, paper in zip(arms[TOPK].suite.sites, (0.28, 0.22), strict=True):
        for n, judged in ((8, True), (16, False)):
            one = arms[f"switch-w4096-k32-experts{n}"]
            found = relative(one, arms[TOPK], site=site)
            yield Part(f"{site}, N = {n}", found, paper if judged else None, 1, judged=judged)
        found = relative(arms[WIDE], arms[TOPK], site=site)
        name = f"{site}, 8 experts at equal FLOPs"
        yield Part(name, found, sign=-1, judged=False)


ROUTERS = {
    "shared, 2 of 32": switch(experts=32, router="shared"),
    "top-n, 2 of 32": switch(active=2, experts=32, router="top-n"),
    "top-n, 4 of 64": switch(active=4, experts=64, router="top-n"),
    "bias": switch(router="bias"),
    "expert choice": switch(router="expert-choice"),
    "heaviside": switch(balance=0.03, router="heaviside"),
    "no balance loss": switch(balance=0),
    "heaviside, no balance loss": switch(balance=0, router="heaviside"),
}
"""At the FLOPs of 16 experts and router switch."""


def several(_: Path) -> Iterator[Part]:
    yield Part("shared, 2 of 32", relative(ROUTERS["shared, 2 of 32"], switch()), sign=1)
    for name in ("top-n, 2 of 32", "top-n, 4 of 64"):
        yield Part(name, relative(ROUTERS[name], switch()), -0.24)
        pair = (ROUTERS[name], switch())
        yield Part(f"{name}: duplicates", duplicates(pair), sign=-1, judged=False)


def routers(_: Path) -> Iterator[Part]:
    for name, arm in ROUTERS.items():
        yield Part(f"{name}: FVU", relative(arm, switch()))
        yield Part(f"{name}: ΔCE", relative(arm, switch(), "delta_ce"))


def change(arm: Drawn, base: Drawn, usual: Drawn, usual_base: Drawn) -> Drawn:
    """Of a ratio from that of the usual training."""
    return np.asarray(arm / base - usual / usual_base)


def batches(_: Path) -> Iterator[Part]:
    for size in (1024, 2048, 8192):
        arms = within(f"batch/batch-{size}")
        for n in (16, 64):
            one = arms.get(f"switch-w4096-k32-experts{n}")
            if one:
                of = [one, arms[TOPK], switch(experts=n), topk()]
                yield Part(f"batch {size:,}, N = {n}", estimate(change, of), form="+.4f")


def layers(_: Path) -> Iterator[Part]:
    arms = within("group")
    for width, n in ((4096, 16), (32768, 8)) if arms else ():
        layer, usual = (
            arms[f"switch-w{width}-k32-experts{n}-router{router}-g1-user"]
            for router in ("layer", "switch")
        )
        for metric, shown in (("fvu", "FVU"), ("delta_ce", "ΔCE")):
            yield Part(f"M = {width:,}, N = {n}: {shown}", relative(layer, usual, metric))


def seconds(results: Path) -> Iterator[Part]:
    path = results / "time.json"
    if not path.exists():
        return
    arms = read(path)["arms"]
    for n in (4, 16, 64):
        one, other = (arms[v]["seconds"] for v in (f"switch-w4096-k32-experts{n}", TOPK))
        found = known([one / other - 1, None, None])
        yield Part(f"N = {n}", found, sign=-1, least=0.5, judged=n == 16, form="+.0%")


def length(_: Path) -> Iterator[Part]:
    arms = within("long")
    for variant, arm in arms.items():
        if variant != TOPK:
            usual = Arm("rates" if "-lr" in variant else "seeds", variant)
            now = relative(arm, arms[TOPK])
            yield Part(
                f"{variant}: over TopK {now:+.1%}; change",
                estimate(change, [arm, arms[TOPK], usual, topk()]),
            )


def held_back(_: Path) -> Iterator[Part]:
    arms = within("others")
    for n in (2, 4, 8) if arms else ():
        arm = arms[f"switch-w{4096 * n}-k32-experts{n}-lr0.0032"]
        yield Part(f"{n} experts at equal FLOPs, over TopK", relative(arm, topk()))
        yield Part(f"{n} experts at equal FLOPs, over the usual", relative(arm, matched(n)))
    for step in ("0.01", "0.1") if arms else ():
        arm = arms[f"switch-w4096-k32-bias_step{step}-experts16-routerbias"]
        yield Part(f"bias, u = {step}, over u = 0.001", relative(arm, ROUTERS["bias"]))
        yield Part(f"bias, u = {step}, over switch", relative(arm, switch()))


def rates(_: Path) -> Iterator[Part]:
    arms = within("rates")
    for n in (2, 4, 8) if arms else ():
        arm = arms[f"switch-w{4096 * n}-k32-experts{n}-lr0.0032"]
        for metric, shown in (("fvu", "FVU"), ("delta_ce", "ΔCE")):
            name = f"{n} experts at equal FLOPs, rate of E = 4,096, over TopK: {shown}"
            yield Part(name, relative(arm, topk(), metric))
    if arms:
        faster = arms["topk-w4096-k32-lr0.0064"]
        yield Part("TopK, twice the rate, over TopK", relative(faster, topk()))
        wide = arms["switch-w32768-k32-experts8-lr0.0064"]
        yield Part(
            "8 experts at equal FLOPs over TopK, both at twice TopK's rate", relative(wide, faster)
        )
    for rate, times in (("0.0064", "twice"), ("0.0128", "four times (E = 256)")) if arms else ():
        arm = arms[f"switch-w4096-k32-experts16-lr{rate}"]
        yield Part(f"N = 16 at fixed width, {times} the rate, over TopK", relative(arm, topk()))


QUESTIONS: dict[str, Callable[[Path], Iterator[Part]]] = {
    "Attention and MLP outputs: the same gap at fixed width": other_sites,
    "One expert always on is worse, several with one joint TopK are better": several,
    "Which balance, which weighting: relative to switch with α = 0.03": routers,
    "Batch size: change of FVU(Switch)/FVU(TopK) from that at 4,096": batches,
    "A router that sees the layer, over one that does not": layers,
    "Fewer FLOPs are fewer seconds: seconds per step over TopK's": seconds,
    "Twice the tokens: FVU over TopK of the same length": length,
    "What held the wide ones and the biases back": held_back,
    "Learning rates by the width of an expert": rates,
}


def asked(results: Path) -> list[Claim]:
    """Claims 11 to 19."""
    return [
        Claim(i, title, list(of(results))) for i, (title, of) in enumerate(QUESTIONS.items(), 11)
    ]
