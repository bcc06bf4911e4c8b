"""TopK SAEs on every layer of two real models: train, evaluate, report, and write the tables.

    python experiments/real_topk.py [NAME ...]

NAME is a YAML file here without its ending; both by default. Each run resumes if it was
interrupted. Writes results/real_topk.md and results/<NAME>.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

from shell import saeworks

HERE = Path(__file__).parent
NAMES = ("real_topk", "real_topk_stories260K")
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


def run(name: str) -> dict[str, Any]:
    """Train and evaluate one YAML file; what each of its suites measured."""
    out = f"runs/{name}"
    saeworks("train", f"experiments/{name}.yaml", "--out", out)
    saeworks("eval", out, "--tokens", "100000", "--splice-tokens", "25000")
    saeworks("report", out)
    suites = {}
    for meta_path in sorted(Path(out).glob("*/suite.json")):
        meta = json.loads(meta_path.read_text())
        suites[meta["variant"]] = {
            "tokens": meta["tokens"],
            "epochs": meta["epochs"],
            "seconds": meta.get("seconds"),
            "versions": meta["versions"],
            "results": {
                result.stem: {
                    key: value
                    for key, value in json.loads(result.read_text()).items()
                    if key in ("tokens", "documents", "sites")
                }
                for result in sorted((meta_path.parent / "results").glob("*.json"))
                if result.stem != "latents"
            },
        }
    return {"command": f"saeworks train experiments/{name}.yaml", "suites": suites}


def table(name: str, found: dict[str, Any]) -> str:
    """Markdown: a table per variant, a row per site, values with their 95% intervals."""
    lines = [f"## {name}", "", f"`{found['command']}`", ""]
    for variant, suite in found["suites"].items():
        results = suite["results"]
        held_out = ", ".join(
            f"{key}: {value['tokens']:,} tokens of {value['documents']} documents"
            for key, value in results.items()
        )
        lines += [
            f"### {variant}",
            "",
            f"{suite['tokens']:,} training tokens, {suite['epochs']} whole epochs and part of "
            f"the next. Held out: {held_out}.",
            "",
            "| site | " + " | ".join(COLUMNS.values()) + " |",
            "|---|" + "---|" * len(COLUMNS),
        ]
        for site in next(iter(results.values()))["sites"]:
            values: dict[str, Any] = {}
            for result in results.values():
                values |= result["sites"].get(site, {})
            cells = [cell(values.get(key)) for key in COLUMNS]
            lines.append(f"| {site} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def cell(value: dict[str, float] | None) -> str:
    """`0.123 [0.120, 0.126]`."""
    if value is None or value["value"] is None:
        return "–"
    text = f"{value['value']:.4g}"
    if value.get("low") is not None and value["low"] != value["high"]:
        text += f" [{value['low']:.4g}, {value['high']:.4g}]"
    return text


def main() -> None:
    """Run the experiments named on the command line, then write every table there is."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    for name in sys.argv[1:] or NAMES:
        found = run(name)
        (results / f"{name}.json").write_text(
            json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        )
    parts = [
        "# TopK SAEs on every layer of two real models",
        "Made by `python experiments/real_topk.py`. Values are over held-out documents, with 95%\n"
        "bootstrap intervals over documents.",
    ]
    for name in NAMES:
        path = results / f"{name}.json"
        if path.exists():
            parts.append(table(name, json.loads(path.read_text())))
    (results / "real_topk.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
