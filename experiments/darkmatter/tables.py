"""The tables of the study of dark matter, below its verdicts."""

from collections.abc import Mapping, Sequence

from experiments import tables
from experiments.criteria import NONE, NOT, PART, REPRODUCED, hull
from experiments.darkmatter.claims import (
    Judged,
    artefact,
    ceiling,
    floor,
    judged,
    linear_lost,
    of_shrinkage,
    predictions,
)
from experiments.darkmatter.saes import (
    Sae,
    arch_name,
    archs_of,
    by_layer,
    by_width,
    layers_of,
    mean,
    of_seeds,
    shown,
    value,
    widths_of,
)
from experiments.runs import Found

Rows = dict[str, list[Sae | None]]
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


def markdown(found: Found, setting: str) -> str:
    """The verdicts on the criteria, then the tables."""
    parts = [
        f"# Dark matter: {found['model']}",
        about(found, setting),
        f"![Per layer, per width, per architecture, downstream]({setting}.svg)",
        f"![Ladders]({setting}_ladders.svg)",
        *against_criteria(found),
        *open_question(found),
        *layers(found),
        *widths(found),
        *errors(found),
        made_with(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def about(found: Found, setting: str) -> str:
    test = found["folds"]["test"]
    seeds = ", ".join(map(str, found["seeds"]))
    several = len(found["seeds"]) > 1
    return (
        f"Made by `{found['command']}` from `experiments/darkmatter/{setting}_layers.yaml` and "
        f"`{setting}_layer.yaml`; seeds {seeds}, {found['tokens']:,} vectors per SAE. Measured on "
        f"{test['tokens']:,} held-out tokens of {test['documents']:,} documents, after fits on "
        f"{found['folds']['fit']['tokens']:,} and {found['folds']['second']['tokens']:,} tokens of "
        "others. "
        f"Intervals: {found['intervals']}"
        + ("; of several seeds the mean, with the hull of their intervals." if several else ".")
    )


def against_criteria(found: Found) -> list[str]:
    every = judged(found)
    head = ["claim", "here", "x̂ rescaled by α*", "per latent", "best affine map"]
    head += ["null targets", "random weights", "to trained models"]
    rows = []
    for i, claim in enumerate(every, 1):
        rungs = list(claim.rungs.values()) or [""] * 3
        nulls = ", ".join(f"{what}: {mark}" for what, mark in claim.nulls.items())
        controls = [*rungs, nulls, claim.random.mark, claim.specific()]
        rows.append([f"{i}. {claim.title}", f"**{claim.mark}**", *controls])
    return [
        "## Against the criteria",
        "Written before the runs: [criteria.md](../criteria.md). Under a "
        "control: the mark that the same criterion gets there. *Not specific*: a control meets it "
        "as well as the SAEs do.",
        in_short(every),
        "\n".join(tables.table(head, rows)),
        "\n".join(f"{i}. {spoken(claim)}" for i, claim in enumerate(every, 1)),
        f"{of_shrinkage(found)} {floor(found)} {ceiling(found)}",
    ]


def in_short(every: Sequence[Judged]) -> str:
    """How many claims got which mark, and what the controls leave of them."""
    parts = []
    for mark in (REPRODUCED, PART, NOT, NONE):
        numbers = [str(i) for i, claim in enumerate(every, 1) if claim.mark == mark]
        if numbers:
            parts.append(f"{mark}: {', '.join(numbers)}")
    shared = [str(i) for i, claim in enumerate(every, 1) if claim.specific().startswith("not")]
    controls = f"A control meets as well as the SAEs do: {', '.join(shared)}." if shared else ""
    text = f"{'; '.join(parts)}. {controls}".strip()
    return text[0].upper() + text[1:]


def spoken(claim: Judged) -> str:
    several = len(claim.seeds) > 1
    lines = [
        f"{where.replace('-', ' ')} ({check.mark}): {check.text}" if several else check.text
        for where, check in claim.seeds.items()
    ]
    text = f"**{claim.title}: {claim.mark}.** {'. '.join(lines)}."
    if claim.random.mark != NONE:
        text += f" Random weights: {claim.random.mark}; {claim.random.text}."
    return text


def table(head: str, rows: Mapping[str, Sequence[Sae | None]], columns: Mapping[str, str]) -> str:
    """A row per label, of the SAEs of every seed; columns that nothing was measured for are out."""
    cells = {
        label: {title: mean(saes, name) for title, name in columns.items()}
        for label, saes in rows.items()
    }
    titles = [t for t in columns if any(row[t] is not None for row in cells.values())]
    lines = [[label, *(shown(row[title]) for title in titles)] for label, row in cells.items()]
    return "\n".join(tables.table([head, *titles], lines))


def layers(found: Found) -> list[str]:
    rows: Rows = layers_of(found)
    width = next(sae["width"] for saes in rows.values() for sae in saes if sae)
    if found["random"]:
        control = by_layer(found, "random")
        rows |= {f"{site}, random weights": [sae] for site, sae in control.items()}
    parts = ["## Per layer", f"TopK, M = {width}, k = 32."]
    return parts + [table("layer", rows, columns) for columns in COLUMNS.values()]


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
    rows: Rows = {
        str(sae["width"]): saes for sae, saes in zip(first, widths_of(found), strict=True)
    }
    if found["random"]:
        rows |= {f"{s['width']}, random weights": [s] for s in by_width(found, "random")}
    parts = [f"## Per width, {first[0]['site']}", table("M", rows, columns)]
    for where in [*seeds, *(["random"] if found["random"] else [])]:
        saes = by_width(found, where)
        scaling = saes[0]["scaling"] if saes else None
        if scaling and scaling.get("law"):
            slopes = [value(saes[0], f"scaling.{m}_slope") for m in ("fvu", "fvu_nonlinear")]
            parts.append(
                f"{where.replace('-', ' ')}: d ln FVU / d ln M = {shown(slopes[0])}, of FVU_nl "
                f"{shown(slopes[1])}; c of FVU = c + a·M^(−m): {scaling['law']['why']}."
            )
    return [*parts, per_token(first)]


def per_token(saes: Sequence[Sae]) -> str:
    """From one width to another, token by token."""
    scaling = saes[0]["scaling"]
    if not scaling or not scaling.get("per_token"):
        return ""
    widths = [sae["width"] for sae in scaling["saes"]]
    rows = [
        [
            *(widths[pair["from"]], widths[pair["to"]]),
            *(f"{pair[key]['value']:.3f}" for key in ("r2", "r2_with_nonlinear")),
            f"{pair['added_percent']['value']:.1f}%",
        ]
        for pair in scaling["per_token"]
    ]
    text = (
        "Token by token (first seed): R² of ‖e‖ at one width from ‖e‖ at a smaller one, and what "
        "‖u‖ of the smaller one adds, in percent of what is left."
    )
    lines = tables.table(("from", "to", "R²", "with ‖u‖", "adds"), rows)
    return "\n".join([text, "", *lines])


def open_question(found: Found) -> list[str]:
    """How much of the linear predictability is shrinkage, per architecture."""
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
    rows = {arch_name(arch): saes for arch, saes in archs_of(found).items()}
    held = [
        f"- {arch_name(arch)}, {what}: **{mark}** ({numbers})"
        for arch, what, mark, numbers in predictions(found)
    ]
    topk = next(sae for sae in rows["TopK"] if sae)
    return [
        "## How much of the linear predictability is shrinkage?",
        f"{topk['site']}, M = {topk['width']}. *Floor*: of any SAE with α* = 1 R² is at least "
        "its FVU.",
        table("architecture", rows, columns),
        "The share of it that goes when x̂ is rescaled (negative: R² rises), of R², and of the "
        "linear part of the variance, L = FVU − FVU_nl:",
        shares(rows),
        "Predicted before the runs:\n\n" + "\n".join(held),
    ]


def shares(rows: Mapping[str, Sequence[Sae | None]]) -> str:
    rungs = {"scaled": "α*x̂ + c", "per_latent": "per latent", "affine": "affine"}
    first, *others = rungs.values()
    head = ("architecture", f"R²: {first}", *others, f"L: {first}", *others)
    cells = [
        [label]
        + [
            shown(hull(lost(sae, rung) for sae in saes if sae))
            for lost in (artefact, linear_lost)
            for rung in rungs
        ]
        for label, saes in rows.items()
    ]
    return "\n".join(tables.table(head, cells))


def errors(found: Found) -> list[str]:
    """SAEs on e, ℓ and u."""
    rows: Rows = {
        f"TopK {sae['width']}{', random weights' if where == 'random' else ''}": [sae]
        for where in (of_seeds(found)[0], "random")
        for sae in by_width(found, where)
        if value(sae, "error_saes.u_minus_l") is not None
    }
    if not rows:
        return []
    columns = {
        "FVU on e": "error_saes.fvu_e",
        "on ℓ": "error_saes.fvu_l",
        "on u": "error_saes.fvu_u",
        "u − ℓ": "error_saes.u_minus_l",
    }
    return ["## SAEs on the error", table("error of", rows, columns)]


def made_with(found: Found) -> str:
    minutes = sum(found["seconds"].values()) / 60
    names = ", ".join(f"{key} {value}" for key, value in found["versions"].items())
    machine = found["machine"]
    return (
        f"{names}; {machine['processor']}, {machine['cores']} cores; the trainings took "
        f"{minutes:.0f} minutes, other jobs on the machine."
    )
