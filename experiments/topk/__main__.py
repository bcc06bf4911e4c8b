"""TopK SAEs on every layer of two real models: train, evaluate, report, and write the tables.

    python -m experiments.topk [{all,collect,table}] [--models NAME ...]

NAME is a YAML file here without its ending; both by default. Each run resumes if it was
interrupted. Writes results/<NAME>.json and results/topk.md.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.criteria import number
from experiments.runs import RUNS, Found, Given, read, saeworks, steps, write
from experiments.tables import table

HERE = Path(__file__).parent
MODELS = ("tinystories-neox-6L256", "stories260K")
COLUMNS = {
    "fvu": "FVU",
    "l0": "L0",
    "dead_share": "dead share",
    "cosine": "cosine",
    "delta_ce": "ΔCE (nats)",
    "loss_recovered_zero": "loss recovered (zero)",
    "loss_recovered_mean": "loss recovered (mean)",
    "kl": "KL (nats)",
}


def run(model: str) -> Found:
    """Train and evaluate one YAML file; what each of its suites measured."""
    out = RUNS / "topk" / model
    saeworks("train", f"experiments/topk/{model}.yaml", "--out", out)
    saeworks("eval", out, "--tokens", "100000", "--splice-tokens", "25000")
    saeworks("report", out)
    metas = {path.parent: read(path) for path in sorted(out.glob("*/suite.json"))}
    return {
        "command": f"saeworks train experiments/topk/{model}.yaml",
        "suites": {
            meta["variant"]: {key: meta[key] for key in ("tokens", "epochs", "seconds", "versions")}
            | {"results": results(suite)}
            for suite, meta in metas.items()
        },
    }


def results(suite: Path) -> dict[str, Any]:
    """Evaluation → what it measured, and on what."""
    return {
        path.stem: {key: found[key] for key in ("tokens", "documents", "sites") if key in found}
        for path in sorted((suite / "results").glob("*.json"))
        if path.stem != "latents" and (found := read(path))
    }


def tables(model: str, found: Found) -> str:
    """A table per variant, a row per site, values with their 95% intervals."""
    lines = [f"## {model}", "", f"`{found['command']}`", ""]
    for variant, suite in found["suites"].items():
        held_out = ", ".join(
            f"{key}: {value['tokens']:,} tokens of {value['documents']} documents"
            for key, value in suite["results"].items()
        )
        rows = []
        for site in next(iter(suite["results"].values()))["sites"]:
            values: dict[str, Any] = {}
            for result in suite["results"].values():
                values |= result["sites"].get(site, {})
            numbers = [number(values.get(key)) for key in COLUMNS]
            rows.append([site, *("–" if n is None else f"{n:.4g}" for n in numbers)])
        lines += [
            f"### {variant}",
            "",
            f"{suite['tokens']:,} training tokens, {suite['epochs']} whole epochs and part of "
            f"the next. Held out: {held_out}.",
            "",
            *table(["site", *COLUMNS.values()], rows),
            "",
        ]
    return "\n".join(lines)


def collect(given: Given) -> None:
    for model in given.models:
        write(given.results / f"{model}.json", run(model))


def tabulate(given: Given) -> None:
    """Every model whose JSON is there."""
    parts = [
        "# TopK SAEs on every layer of two real models",
        "Made by `python -m experiments.topk`. Values are over held-out documents, with 95%\n"
        "bootstrap intervals over documents.",
    ]
    paths = {model: given.results / f"{model}.json" for model in MODELS}
    parts += [tables(model, read(path)) for model, path in paths.items() if path.exists()]
    (given.results / "topk.md").write_text("\n\n".join(parts) + "\n")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)


def main(arguments: Sequence[str] | None = None) -> None:
    both = {"collect": collect, "table": tabulate}
    steps(__doc__, both, HERE / "results", arguments, options=options)


if __name__ == "__main__":
    main()
