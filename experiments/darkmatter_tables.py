"""The tables of `darkmatter.py`, and its verdicts beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from darkmatter_claims import (
    NONE,
    NOT,
    PART,
    REPRODUCED,
    Judged,
    artefact,
    ceiling,
    floor,
    judged,
    linear_lost,
    of_shrinkage,
    predictions,
)
from darkmatter_found import (
    Found,
    Number,
    Sae,
    by_arch,
    by_layer,
    by_width,
    number,
    of_seeds,
    over,
)

NAMES = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "jumprelu": "JumpReLU",
    "relu": "ReLU",
    "gated": "Gated",
    "switch": "Switch",
    "topk in groups": "TopK in groups",
}
COLUMNS = {
    "decomposed": {
        "FVU": "split.fvu",
        "FVU_nl": "split.fvu_nonlinear",
        "R² of e": "vector.r2_error",
        "R² of e, mean over dimensions": "vector.r2_error_per_dimension",
        "R² at α*": "shrinkage.r2_error_scaled",
        "R² at the affine rung": "shrinkage.r2_error_affine",
        "R² of shuffled e": "null.r2_shuffled",
        "R² of noise": "null.r2_noise",
        "MLP: R² of u": "mlp.r2_u_best",
    },
    "norms": {
        "R² of ‖e‖²": "norm.r2_error_norm",
        "by token": "norm.r2_token",
        "by loss": "norm.r2_loss",
        "by L0": "norm.r2_l0",
        "by ‖x‖²": "norm.r2_x_norm",
        "‖x‖²": "ladder.r2_norm_x",
        "‖x̂‖²": "ladder.r2_norm_x_hat",
        "‖x̂ + u‖²": "ladder.r2_norm_x_hat_u",
        "‖e‖² (ladder)": "ladder.r2_norm_e",
        "‖ℓ‖²": "ladder.r2_norm_l",
        "‖u‖²": "ladder.r2_norm_u",
    },
    "recovered": {
        "pursuit: FVU": "pursuit.fvu_change",
        "pursuit: FVU_nl": "pursuit.fvu_nonlinear_change",
        "refitted coefficients mend": "attribution.coefficients",
        "of noise": "attribution.coefficients_chance",
        "choosing anew mends": "attribution.choice",
        "of noise ": "attribution.choice_chance",
        "u from x̂ before": "adjacent.r2_u_from_x_hat",
        "u from x before": "adjacent.r2_u_from_x",
        "CE gap (nats)": "downstream.gap",
        "recovered by ℓ": "downstream.recovered_linear",
        "by u": "downstream.recovered_nonlinear",
        "‖e‖² share of ℓ": "downstream.squared_share_linear",
    },
}


def write_markdown(found: Found, path: Path) -> None:
    """The verdicts on the criteria, then the tables."""
    parts = [
        f"# Dark matter: {found['model']}",
        about(found, path.stem),
        f"![Per layer, per width, per architecture, downstream]({path.stem}.svg)",
        f"![Ladders]({path.stem}_ladders.svg)",
        *against_criteria(found),
        *open_question(found),
        *layers(found),
        *widths(found),
        *errors(found),
        made_with(found),
    ]
    path.write_text("\n\n".join(part for part in parts if part) + "\n")


def about(found: Found, stem: str) -> str:
    test = found["folds"]["test"]
    seeds = ", ".join(map(str, found["seeds"]))
    several = len(found["seeds"]) > 1
    return (
        f"Made by `{found['command']}` from `experiments/{stem}_layers.yaml` and "
        f"`{stem}_layer.yaml`; seeds {seeds}, {found['tokens']:,} vectors per SAE. Measured on "
        f"{test['tokens']:,} held-out tokens of {test['documents']:,} documents, after fits on "
        f"{found['folds']['fit']['tokens']:,} and {found['folds']['second']['tokens']:,} tokens of "
        "others. "
        f"Intervals: {found['intervals']}"
        + ("; of several seeds the mean, with the hull of their intervals." if several else ".")
    )


def against_criteria(found: Found) -> list[str]:
    every = judged(found)
    lines = [
        "| claim | here | x̂ rescaled by α* | per latent | best affine map | null targets | "
        "random weights | to trained models |",
        "|---" * 8 + "|",
    ]
    for i, one in enumerate(every, 1):
        rungs = list(one.rungs.values()) or [""] * 3
        nulls = ", ".join(f"{what}: {mark}" for what, mark in one.nulls.items())
        cells = [f"**{one.mark}**", *rungs, nulls, one.random.mark, one.specific()]
        lines.append(f"| {i}. {one.title} | {' | '.join(cells)} |")
    return [
        "## Against the criteria",
        "Written before the runs: [darkmatter_criteria.md](../darkmatter_criteria.md). Under a "
        "control: the mark that the same criterion gets there. *Not specific*: a control meets it "
        "as well as the SAEs do.",
        in_short(every),
        "\n".join(lines),
        "\n".join(f"{i}. {spoken(one)}" for i, one in enumerate(every, 1)),
        f"{of_shrinkage(found)} {floor(found)} {ceiling(found)}",
    ]


def in_short(every: Sequence[Judged]) -> str:
    """How many claims got which mark, and what the controls leave of them."""
    parts = []
    for mark in (REPRODUCED, PART, NOT, NONE):
        found = [str(i) for i, one in enumerate(every, 1) if one.mark == mark]
        if found:
            parts.append(f"{mark}: {', '.join(found)}")
    shared = [str(i) for i, one in enumerate(every, 1) if one.specific().startswith("not")]
    controls = f"A control meets as well as the SAEs do: {', '.join(shared)}." if shared else ""
    said = f"{'; '.join(parts)}. {controls}".strip()
    return said[0].upper() + said[1:]


def spoken(one: Judged) -> str:
    several = len(one.seeds) > 1
    lines = [
        f"{where.replace('-', ' ')} ({check.mark}): {check.said}" if several else check.said
        for where, check in one.seeds.items()
    ]
    text = f"**{one.title}: {one.mark}.** {'. '.join(lines)}."
    if one.random.mark != NONE:
        text += f" Random weights: {one.random.mark}; {one.random.said}."
    return text


def mean(found: Found, saes: Sequence[Sae | None], name: str) -> Number | None:
    return over([number(sae, name) if sae else None for sae in saes])


def cell(value: Number | None) -> str:
    return "–" if value is None else str(value)


def table(
    found: Found, head: str, rows: Mapping[str, Sequence[Sae | None]], columns: Mapping[str, str]
) -> str:
    """A row per label, of the SAEs of every seed; columns that nothing was measured for are out."""
    cells = {
        label: {title: mean(found, [s for s in saes if s], name) for title, name in columns.items()}
        for label, saes in rows.items()
    }
    shown = [t for t in columns if any(row[t] is not None for row in cells.values())]
    lines = [f"| {head} | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    lines += [
        f"| {label} | {' | '.join(cell(row[title]) for title in shown)} |"
        for label, row in cells.items()
    ]
    return "\n".join(lines)


def layers(found: Found) -> list[str]:
    first, seeds = by_layer(found, of_seeds(found)[0]), of_seeds(found)
    rows: dict[str, list[Sae | None]] = {
        site: [by_layer(found, where).get(site) for where in seeds] for site in first
    }
    if found["random"]:
        control = by_layer(found, "random")
        rows |= {f"{site}, random weights": [sae] for site, sae in control.items()}
    width = next(iter(first.values()))["width"]
    parts = ["## Per layer", f"TopK, M = {width}, k = 32."]
    return parts + [table(found, "layer", rows, columns) for columns in COLUMNS.values()]


def widths(found: Found) -> list[str]:
    seeds = of_seeds(found)
    first = by_width(found, seeds[0])
    columns = {
        "FVU": "split.fvu",
        "FVU_nl": "split.fvu_nonlinear",
        "R² of e": "vector.r2_error",
        "R² of ‖e‖²": "norm.r2_error_norm",
        "pursuit: FVU": "pursuit.fvu_change",
        "pursuit: FVU_nl": "pursuit.fvu_nonlinear_change",
        "encoder error": "pursuit.encoder_error",
    }
    rows: dict[str, list[Sae | None]] = {}
    for at, sae in enumerate(first):
        rows[str(sae["width"])] = [by_width(found, where)[at] for where in seeds]
    if found["random"]:
        rows |= {f"{s['width']}, random weights": [s] for s in by_width(found, "random")}
    parts = [f"## Per width, {first[0]['site']}", table(found, "M", rows, columns)]
    for where in [*seeds, *(["random"] if found["random"] else [])]:
        saes = by_width(found, where)
        scaling = saes[0]["scaling"] if saes else None
        if scaling and scaling.get("law"):
            slopes = [number(saes[0], f"scaling.{m}_slope") for m in ("fvu", "fvu_nonlinear")]
            parts.append(
                f"{where.replace('-', ' ')}: d ln FVU / d ln M = {cell(slopes[0])}, of FVU_nl "
                f"{cell(slopes[1])}; c of FVU = c + a·M^(−m): {scaling['law']['why']}."
            )
    return [*parts, per_token(first)]


def per_token(saes: Sequence[Sae]) -> str:
    """From one width to another, token by token."""
    scaling = saes[0]["scaling"]
    if not scaling or not scaling.get("per_token"):
        return ""
    widths = [one["width"] for one in scaling["saes"]]
    lines = [
        "Token by token (first seed): R² of ‖e‖ at one width from ‖e‖ at a smaller one, and what "
        "‖u‖ of the smaller one adds, in percent of what is left.",
        "",
        "| from | to | R² | with ‖u‖ | adds |",
        "|---|---|---|---|---|",
    ]
    for pair in scaling["per_token"]:
        shown = [f"{pair[key]['value']:.3f}" for key in ("r2", "r2_with_nonlinear")]
        shown.append(f"{pair['added_percent']['value']:.1f}%")
        lines.append(f"| {widths[pair['from']]} | {widths[pair['to']]} | {' | '.join(shown)} |")
    return "\n".join(lines)


def open_question(found: Found) -> list[str]:
    """How much of the linear predictability is shrinkage, per architecture."""
    seeds = of_seeds(found)
    made = [by_arch(found, where) for where in seeds]
    columns = {
        "FVU": "split.fvu",
        "FVU_nl": "split.fvu_nonlinear",
        "α*": "shrinkage.alpha",
        "R² at x̂": "shrinkage.r2_error_as_is",
        "at α*x̂ + c": "shrinkage.r2_error_scaled",
        "floor: FVU there": "shrinkage.fvu_scaled",
        "per latent": "shrinkage.r2_error_per_latent",
        "affine": "shrinkage.r2_error_affine",
        "R² of ‖e‖² at x̂": "shrinkage.r2_error_norm_as_is",
        "affine ": "shrinkage.r2_error_norm_affine",
    }
    rows = {NAMES.get(arch, arch): [one.get(arch) for one in made] for arch in made[0]}
    held = [
        f"- {NAMES.get(arch, arch)}, {what}: **{mark}** ({said})"
        for arch, what, mark, said in predictions(found)
    ]
    site = next(iter(made[0].values()))["site"]
    return [
        "## How much of the linear predictability is shrinkage?",
        f"{site}, M = {made[0]['topk']['width']}. *Floor*: of any SAE with α* = 1 R² is at least "
        "its FVU.",
        table(found, "architecture", rows, columns),
        "The share of it that goes when x̂ is rescaled (negative: R² rises), of R², and of the "
        "linear part of the variance, L = FVU − FVU_nl:",
        shares(rows),
        "Predicted before the runs:\n\n" + "\n".join(held),
    ]


def shares(rows: Mapping[str, Sequence[Sae | None]]) -> str:
    rungs = ("scaled", "per_latent", "affine")
    lines = [
        "| architecture | R²: α*x̂ + c | per latent | affine | L: α*x̂ + c | per latent | affine |",
        "|---" * 7 + "|",
    ]
    for label, saes in rows.items():
        there = [sae for sae in saes if sae]
        cells = [cell(over([artefact(sae, rung) for sae in there])) for rung in rungs]
        cells += [cell(over([linear_lost(sae, rung) for sae in there])) for rung in rungs]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def errors(found: Found) -> list[str]:
    """SAEs on e, ℓ and u."""
    rows: dict[str, list[Sae | None]] = {
        f"TopK {sae['width']}{', random weights' if where == 'random' else ''}": [sae]
        for where in (of_seeds(found)[0], "random")
        for sae in by_width(found, where)
        if number(sae, "error_saes.u_minus_l") is not None
    }
    if not rows:
        return []
    columns = {
        "FVU on e": "error_saes.fvu_e",
        "on ℓ": "error_saes.fvu_l",
        "on u": "error_saes.fvu_u",
        "u − ℓ": "error_saes.u_minus_l",
    }
    return ["## SAEs on the error", table(found, "error of", rows, columns)]


def made_with(found: Found) -> str:
    minutes = sum(found["seconds"].values()) / 60
    names = ", ".join(f"{key} {value}" for key, value in found["versions"].items())
    machine = found["machine"]
    return (
        f"{names}; {machine['processor']}, {machine['cores']} cores; the trainings took "
        f"{minutes:.0f} minutes, other jobs on the machine."
    )
