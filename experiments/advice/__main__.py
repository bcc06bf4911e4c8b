"""What `saeworks advise` predicts from its pilots beside what comes true, judged by criteria.md.

    python -m experiments.advice [{all,run,collect,table}] [--models embedded …] [--budget 2h]

For each model: the advice, the two runs that it wrote, their evaluation. Each part goes on where it
was interrupted, and models whose parts are not all there are left out of the table. Writes
results/advice.json and results/advice.md.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.advice.known import known
from experiments.criteria import mark
from experiments.runs import RUNS, Found, Given, machine, read, saeworks, site_values, study
from experiments.tables import table

REAL = Path("../shared/models")
STORIES = REAL / "text" / "tinystories_train.txt"
SETTINGS: dict[str, dict[str, Any]] = {
    "embedded": {"budget": "5e12flops", "sites": ["*@resid"], "k": ["16", "32"]},
    "stories260K": {"budget": "1e12flops", "sites": ["layers.1", "layers.3"], "k": ["16"]},
    "tinystories-656K": {"budget": "2e12flops", "sites": ["layers.0", "layers.1"], "k": ["16"]},
    "tinystories-neox-6L256": {"budget": "2e13flops", "sites": ["*@resid"], "k": ["32"]},
}
"""Small enough for a busy machine of two cores; `--budget` takes another for all of them."""
TUNED = ("embedded",)
DOCUMENTS = "4000"
ARMS = {"best": "run", "runner_up": "runner-up"}
"""Record in advice.json → the YAML's name."""
HELD_OUT = ("--tokens", "40000", "--splice-tokens", "16000")
QUICK = ("--no-geometry", "--no-experts", "--latents", "0")


def folder(model: str, budget: str) -> Path:
    return RUNS / "advice" / f"{model}-{budget}"


def budget_of(given: Given, model: str) -> str:
    return str(given.budget or SETTINGS[model]["budget"])


def run(given: Given) -> None:
    """Advise, train and evaluate; what is finished is left as it is."""
    for model in given.models:
        setting, budget = SETTINGS[model], budget_of(given, model)
        out = folder(model, budget)
        real = model != "embedded"
        name, text = (REAL / model, STORIES) if real else (model, model)
        sets = [f"sites={setting['sites']}", f"text.max_documents={DOCUMENTS}"]
        options = [part for each in sets for part in ("--set", each)]
        if not (out / "advice.json").exists():
            sizes = ["--budget", budget, "--k", *setting["k"]]
            saeworks("advise", "--model", name, "--text", text, *sizes, "--out", out, *options)
        for name in ARMS.values():
            if (out / f"{name}.yaml").exists() and not (out / name / "results").exists():
                saeworks("train", out / f"{name}.yaml", "--out", out / name)
                saeworks("eval", out / name, *HELD_OUT, *QUICK)


def collect(given: Given) -> Found:
    """Predicted and true, of every model that was advised on: of the runs that are evaluated, and
    of those that were there before."""
    models = {}
    for model in given.models:
        budget = budget_of(given, model)
        out = folder(model, budget)
        if not (out / "advice.json").exists():
            continue
        arms = {
            arm: measured(out, arm)
            for arm, name in ARMS.items()
            if (out / name / "results" / "splice.json").exists()
        }
        advice = read(out / "advice.json")
        about = {key: advice[key] for key in ("pilots", "law", "scatter")}
        models[model] = {"budget": budget, **about, "arms": arms, "known": known(model, out)}
    return {"machine": machine(), "models": models}


def measured(out: Path, arm: str) -> Found:
    """One run: what was advised, and what came of it."""
    advised, suite = read(out / "advice.json")[arm], out / ARMS[arm]
    meta, sites = read(suite / "suite.json"), site_values(suite)
    true = {
        site: {key: values[key]["value"] for key in ("fvu", "delta_ce")}
        for site, values in sites.items()
    }
    return {"advised": advised, "true": true, "seconds": meta["seconds"], "cost": meta["cost"]}


def mean(sites: dict[str, Any], key: str) -> float:
    return sum(values[key] for values in sites.values()) / len(sites)


def holds(predicted: dict[str, float], value: float) -> bool:
    return predicted["low"] <= value <= predicted["high"]


def at_sites(model: Found, key: str) -> list[bool]:
    """Whether each site's number holds, of every arm."""
    return [
        holds(arm["advised"]["sites"][site][key], true[key])
        for arm in model["arms"].values()
        for site, true in arm["true"].items()
    ]


def verdicts(models: dict[str, Any]) -> Iterator[str]:
    """A line per criterion."""
    fresh = {name: model for name, model in models.items() if name not in TUNED}
    shares = []
    words = []
    for key, title in (("fvu", "FVU"), ("delta_ce", "ΔCE")):
        hits = [hit for model in fresh.values() for hit in at_sites(model, key)]
        shares += [sum(hits) >= 0.9 * len(hits)] if hits else []
        words.append(f"{title} {sum(hits)} of {len(hits)} sites")
    arms = [arm for model in fresh.values() for arm in model["arms"].values()]
    means = sum(holds(arm["advised"]["fvu"], mean(arm["true"], "fvu")) for arm in arms)
    yield (
        f"1. The intervals hold at least as often as stated: {', '.join(words)}; the mean FVU of "
        f"{means} of {len(arms)} runs: **{mark(shares, any(shares))}**."
    )
    ratios = [
        model["pilots"]["flops"] / model["arms"]["best"]["advised"]["flops"]
        for model in models.values()
        if "best" in model["arms"]
    ]
    dearest = f"{max(ratios):.1%}" if ratios else "–"
    cheap = [ratio <= 0.1 for ratio in ratios]
    yield f"2. Pilots are cheap: at most {dearest} of the run's operations: **{mark(cheap)}**."
    orders = [order for model in models.values() for order in order_of(model["arms"])]
    yield (
        f"3. The better run is better, where the intervals do not overlap: {sum(orders)} of "
        f"{len(orders)}: **{mark(orders)}**."
    )


def order_of(arms: dict[str, Any]) -> list[bool]:
    """Whether best is better than the runner-up, where that was predicted."""
    if len(arms) < 2:
        return []
    best, other = arms["best"], arms["runner_up"]
    if best["advised"]["fvu"]["high"] >= other["advised"]["fvu"]["low"]:
        return []
    return [mean(best["true"], "fvu") < mean(other["true"], "fvu")]


def run_rows(name: str, model: Found) -> Iterator[list[str]]:
    """A row per run and site."""
    for title, arm in model["arms"].items():
        advised = arm["advised"]
        per_latent = advised["tokens"] / advised["width"]
        what = (
            f"G {advised['groups']}, M {advised['width']:,}, N {advised['experts']}, k "
            f"{advised['k']}, {advised['tokens']:,} tokens ({per_latent:,.0f} per latent, "
            f"{advised['tokens'] / model['pilots']['tokens']:.0f} × the pilots')"
        )
        for site, true in arm["true"].items():
            pairs = [(advised["sites"][site][key], true[key]) for key in ("fvu", "delta_ce")]
            cells = [cell for pair in pairs for cell in beside(*pair)]
            seconds = f"{advised['seconds']['value']:.0f} / {arm['seconds']:.0f}"
            yield [name, title.replace("_", "-"), what, site, *cells, seconds]


def known_rows(name: str, model: Found) -> Iterator[list[str]]:
    """A row per run that was there before, metric and site."""
    titles = {"fvu": "FVU", "delta_ce": "ΔCE"}
    for row in model["known"]:
        cells = beside(row["predicted"], row["true"])
        yield [name, row["what"], row["site"], titles[row["metric"]], *cells]


def beside(predicted: dict[str, float], true: float) -> list[str]:
    ends = f"{predicted['low']:.4f} to {predicted['high']:.4f}"
    no = "" if holds(predicted, true) else " **no**"
    return [f"{predicted['value']:.4f} ({ends})", f"{true:.4f}{no}"]


def markdown(found: Found, _: str) -> str:
    """The verdicts, what stands beside them, and the rows."""
    models = found["models"]
    rows = [row for name, model in models.items() for row in run_rows(name, model)]
    before = [row for name, model in models.items() for row in known_rows(name, model)]
    hits = [
        holds(row["predicted"], row["true"]) for model in models.values() for row in model["known"]
    ]
    head = (
        "model", "run", "what", "site", "FVU predicted", "FVU true", "ΔCE predicted", "ΔCE true",
        "seconds predicted / true",
    )  # fmt: skip
    lines = [
        "# What was advised, and what came true",
        "",
        "Made by `python -m experiments.advice`, judged by [criteria](../criteria.md) committed "
        "before. Intervals of 90%; evaluated on 40,000 held-out tokens (ΔCE on 16,000). Other "
        f"processes were busy, so that seconds say little. Tuned on: {', '.join(TUNED)} alone.",
        "",
        *(
            verdicts(models)
            if rows
            else ["**No advised run is finished yet**, so that no criterion is judged."]
        ),
        "",
        *(table(head, rows) if rows else []),
        "",
        "## Runs that were there before",
        "",
        "The same pilots, and runs that other studies had committed (`experiments.together`, "
        "`experiments.topk`). Those are in batches of 4,096 where the pilots' were of 128, so that "
        f"they are no test of the criteria. {sum(hits)} of {len(hits)} numbers hold. A k near D "
        "(64 in stories260K) is outside what the law can say: with as many active latents as "
        "dimensions the FVU falls to nothing, and `advise` allows no k above D/2.",
        "",
        *pilots_of(models),
        "",
        *table(("model", "run", "site", "", "predicted", "true"), before),
    ]
    return "\n".join(lines) + "\n"


def pilots_of(models: dict[str, Any]) -> Iterator[str]:
    """A line per model: what its pilots took."""
    for name, model in models.items():
        pilots = model["pilots"]
        yield (
            f"- {name}: pilots of at most {pilots['tokens']:,} tokens, {pilots['flops']:.2g} FLOPs "
            f"({pilots['share_of_budget']:.1%} of the budget, {model['budget']}), "
            f"{pilots['seconds']:.0f} s; scatter about the law {model['scatter']:.1%}."
        )


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--budget", default=None)


def main(arguments: Sequence[str] | None = None) -> None:
    study(
        *(__doc__, __file__, arguments),
        collect=collect,
        table=markdown,
        before={"run": run},
        options=options,
    )


if __name__ == "__main__":
    main()
