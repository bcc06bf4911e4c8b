"""The verdicts of criteria.md, and tables over length and width."""

from collections.abc import Callable
from itertools import pairwise
from math import log

from experiments.criteria import Number, mark, over_seeds, side
from experiments.runs import Found
from experiments.tables import table

TITLES = {"embedded": "the embedded model", "real": "tinystories-neox-6L256"}
WIDTH = 256
SHORT, MIDDLE, LONG = "102400", "1024000", "10240000"
SHOWN = {
    "fvu": "FVU", "fvu_linear": "FVU_ℓ", "fvu_nonlinear": "FVU_nl", "r2_error": "R² of e",
    "r2_error_norm": "R² of ‖e‖²", "alpha": "α*", "fvu_change": "pursuit", "r2_u_best": "MLP of u",
}  # fmt: skip


def ratio(of: Found, metric: str, later: str, earlier: str) -> list[float]:
    """later/earlier, of each seed."""
    return [a / b for a, b in zip(of[later][metric], of[earlier][metric], strict=True)]


def change(of: Found, metric: str, later: str, earlier: str) -> Number:
    return over_seeds([a - b for a, b in zip(of[later][metric], of[earlier][metric], strict=True)])


def slopes(of: Found, later: str, earlier: str) -> Number:
    """n/b: how FVU_nl changes beside FVU, in logarithms."""
    both = (ratio(of, metric, later, earlier) for metric in ("fvu_nonlinear", "fvu"))
    return over_seeds([log(n) / log(b) for n, b in zip(*both, strict=True)])


def stays(n: Number) -> str:
    """By the rule of the first study's claim 4."""
    return mark([n.low >= -0.25 and n.high <= 0.25], partly=n.low > -0.5 and n.high < 0.5)


def markdown(found: Found, name: str) -> str:
    seeds = ", ".join(map(str, found["seeds"]))
    lines = [
        f"# Dark matter over the length of training: {TITLES[found['setting']]}",
        "",
        f"Made by `{found['command']}`. TopK at layers.3, seeds {seeds}; every number by "
        "`saeworks audit`; brackets are Student's 95% interval over seeds (one seed: no interval, "
        "a sign alone). Judged by [criteria](../criteria.md) committed before.",
        "",
        f"![FVU and its parts]({name}.svg)",
        "",
        *verdicts(found),
        "",
        f"Over the length of training, M = {WIDTH}:",
        "",
        *values_table("tokens per latent", found["lengths"], lambda n: f"{int(n) // WIDTH:,}"),
        "",
        "Over widths, 4,000 tokens per latent:",
        "",
        *values_table("M", found["widths"], lambda n: f"{int(n):,}"),
    ]
    return "\n".join(lines) + "\n"


def verdicts(found: Found) -> list[str]:
    by_length, by_width, errors = found["lengths"], found["widths"], found["errors"]
    gone = {
        metric: over_seeds([1 - r for r in ratio(by_length, metric, LONG, MIDDLE)])
        for metric in ("fvu", "fvu_linear", "fvu_nonlinear")
    }
    more = over_seeds(
        [
            n - ell
            for ell, n in zip(
                ratio(by_length, "fvu_linear", LONG, MIDDLE),
                ratio(by_length, "fvu_nonlinear", LONG, MIDDLE),
                strict=True,
            )
        ]
    )
    word = side(more, "the linear part", "the nonlinear part", "neither more than the other")
    names = list(by_length)[1:]
    falls = [change(by_length, "r2_error", b, a).high < 0 for a, b in pairwise(names)]
    per_dimension = over_seeds(by_length[LONG]["r2_error_per_dimension"])
    pursuit = change(by_length, "fvu_change", LONG, MIDDLE)
    norm = change(by_length, "r2_error_norm", LONG, MIDDLE)
    over_length = slopes(by_length, LONG, SHORT)
    widths, most = list(by_width), sum(falls) > len(falls) / 2
    over_width = slopes(by_width, widths[-1], widths[0])
    learnable = {
        of: over_seeds([u - ell for ell, u in zip(parts["l"], parts["u"], strict=True)])
        for of, parts in errors.items()
    }
    return [
        "1. *Which part is undertraining*: from 4,000 to 40,000 tokens per latent "
        f"{gone['fvu']:.0%} of the FVU goes, {gone['fvu_linear']:.0%} of FVU_ℓ and "
        f"{gone['fvu_nonlinear']:.0%} of FVU_nl: **{word}**.",
        f"2. *R² of e on x falls with training*: **{mark(falls, partly=most)}** "
        f"({sum(falls)} of {len(falls)} steps). At the longest the mean over dimensions is "
        f"{per_dimension:.2f} (paper: about .5, "
        f"**{mark([per_dimension.meets(0.4, 0.6)])}**).",
        f"3. *FVU_nl stays while FVU falls*, over length: n/b {over_length:.2f}, "
        f"**{stays(over_length)}**.",
        f"4. The same over width at equal tokens per latent: n/b {over_width:.2f}, "
        f"**{stays(over_width)}**.",
        f"5. *Pursuit gains less on trained SAEs*: its change of the FVU moves by {pursuit:+.3f}, "
        f"**{mark([pursuit.low > 0])}**.",
        "6. *The norm of the error is linear in x*: R² "
        f"{over_seeds(by_length[LONG]['r2_error_norm']):.2f} at the longest (paper: .7 to .95); "
        f"with training it **{side(norm, 'rises', 'falls', 'does not change')}** ({norm:+.2f}).",
        "7. *ℓ is more learnable than u*: "
        + "; ".join(
            f"FVU {n:+.2f} for u after {int(of) / 1e6:.0f}M, **{mark([n.low > 0])}**"
            for of, n in learnable.items()
        )
        + ".",
    ]


def values_table(head: str, of: Found, name: Callable[[str], str]) -> list[str]:
    rows = [
        [name(key), *(f"{over_seeds(values[metric]):.3f}" for metric in SHOWN)]
        for key, values in of.items()
    ]
    return table([head, *SHOWN.values()], rows)
