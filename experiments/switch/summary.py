"""The study of Switch SAEs in a few sentences, with the numbers of this run."""

from experiments.runs import Found

TOPK = "topk-w4096-k32"


def summary(found: Found) -> list[str]:
    """One item per subject."""
    return [
        f"- **{subject}.** {text(found)}"
        for subject, text in {
            "Fixed width": fixed_width,
            "Equal FLOPs": equal_flops,
            "The same loss for fewer FLOPs": same_loss,
            "Seconds": seconds,
            "Routers": routers,
            "Balance": balance,
            "Duplicates": duplicates,
            "Other sites and layers": elsewhere,
            "ReLU and Gated": penalised,
        }.items()
    ]


def part(found: Found, claim: int, name: str) -> str:
    """The number of a claim's part, as it is written in its table."""
    parts = next(c for c in found["claims"] if c["number"] == claim)["parts"]
    return str(next(p["shown"] for p in parts if p["name"] == name))


def each(found: Found, claim: int, *names: str) -> str:
    return ", ".join(part(found, claim, name) for name in names)


def fvu(found: Found, variant: str) -> str:
    at = ("seeds", "sweeps", "others")
    arm = next(a for a in found["arms"] if a["variant"] == variant and a["part"] in at)
    return f"{arm['fvu']['value']:.4f}"


def fixed_width(found: Found) -> str:
    gaps = each(found, 1, "N = 4", "N = 16", "N = 64")
    return (
        f"With 4, 16, 64 experts at M = 4,096, k = 32, FVU is above TopK's by {gaps}. The gap "
        "grows with N and with k and shrinks with width, as published, and is about twice as large."
    )


def equal_flops(found: Found) -> str:
    usual = each(found, 5, *(f"k = 32, N = {n}" for n in (2, 4, 8)))
    names = [f"{n} experts at equal FLOPs, over TopK" for n in (2, 4, 8)]
    widths = " / ".join(fvu(found, f"topk-w{w}-k32") for w in (4096, 8192, 16384))
    return (
        f"With 2, 4, 8 experts of 4,096 latents FVU differs from TopK's by {usual}: the published "
        "gain is not reproduced at so few tokens per latent. Most of the difference is the "
        "learning rate, 1/√M by the total M: "
        "by the width of an expert, which is TopK's, FVU differs by "
        f"{each(found, 18, *names)} (one seed). And so few vectors leave little to win by "
        f"width: TopK's own FVU at M = 4,096 / 8,192 / 16,384 is {widths}."
    )


def same_loss(found: Found) -> str:
    parts = next(c for c in found["claims"] if c["number"] == 6)["parts"]
    shown = {p["name"]: 1 + p["found"]["value"] for p in parts}
    text = "; ".join(f"{name} {value:.2f} times" for name, value in shown.items())
    return f"TopK's FLOPs at the FVU of Switch, over Switch's: {text} (paper: 4–6 and 15–25 times)."


def seconds(found: Found) -> str:
    own = each(found, 16, "N = 4", "N = 16", "N = 64")
    return f"Of a step at M = 4,096, k = 32, with 4, 16, 64 experts, relative to TopK: {own}."


def routers(found: Found) -> str:
    names = ("shared, 2 of 32", "top-n, 2 of 32", "top-n, 4 of 64", "expert choice")
    text = "; ".join(f"{name} {part(found, 13, f'{name}: FVU')}" for name in names)
    faster = part(found, 18, "bias, u = 0.01, over switch")
    return (
        f"At equal FLOPs, FVU relative to switch with the balance loss: {text}. Several experts "
        "per token are no clear gain. Balancing by a bias fails at u = 0.001 in so few steps and "
        f"equals the loss at u = 0.01 ({faster}, one seed). Weight 1 (heaviside) is worse: "
        f"{part(found, 13, 'heaviside: FVU')} with the balance loss, "
        f"{part(found, 8, 'k = 64, α = 0')} without it in both (k = 64; paper: +23.8%)."
    )


def balance(found: Found) -> str:
    low, high = (part(found, 9, f"α = {a} over 0.03") for a in ("0.001", "3"))
    return f"Best at α = 0.03; FVU is {low} at 0.001, where experts die, and {high} at 3."


def duplicates(found: Found) -> str:
    return (
        "Few after so short a training, and no more with more experts, against the paper; fewer at "
        "larger k, as published."
    )


def elsewhere(found: Found) -> str:
    claim = next(c for c in found["claims"] if c["number"] == 11)
    gaps = "; ".join(f"{p['name']}: {p['shown']}" for p in claim["parts"])
    layers = next(c for c in found["claims"] if c["number"] == 15)
    seen = "; ".join(f"{p['name']} {p['shown']}" for p in layers["parts"])
    return f"FVU over TopK's: {gaps}. Layer router over switch: {seen}."


def penalised(found: Found) -> str:
    own = ", ".join(fvu(found, f"{a}-w4096-target_l0_32") for a in ("gated", "relu"))
    return f"At L0 32 Gated and ReLU have FVU {own}, TopK {fvu(found, TOPK)}."
