"""The "Queen" question: is a known concept coded by different latents in different experts?

    python experiments/queen.py [{all,train,table}] [--seeds 0 1 2] [--set key=value ...]

Trains experiments/queen.yaml once per seed into runs/queen/seed-<i>, asks every SAE about the
concepts of the embedded grammar on held-out documents, and writes results/queen.{json,md}. What is
counted, the controls and what the verdicts rest on: queen_criteria.md, written before the runs.
What is trained already is not trained again.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from saeworks import load_suite
from saeworks.config import RunConfig
from saeworks.cost.machine import processor
from saeworks.dictionary.cosines import unit
from saeworks.lm.model import LanguageModel
from saeworks.measure.known import truth_of
from saeworks.measure.run import held_out_tokens
from saeworks.measure.studies.consistency import (
    CODED,
    METRICS,
    THRESHOLDS,
    Firing,
    Found,
    Watch,
    by_place,
    by_tokens,
    find,
    first_half,
    judge,
    summarise,
    watch,
)
from saeworks.results.statistics import student
from saeworks.suite import find_suites

HERE = Path(__file__).parent
HEADLINE = {"experts": 16, "k": 32}
SHOWN = ("concepts", "coded", "queen", "consistency", "duplicate_pairs", "places")
MEASURED = (*SHOWN, "one_latent")

Row = dict[str, Any]


def main() -> None:
    """Run the step named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", nargs="?", default="all", choices=["all", "train", "table"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], help="as of `saeworks train`")
    parser.add_argument("--tokens", type=int, default=100_000, help="held-out tokens")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = parser.parse_args()
    if given.step in ("all", "train"):
        for seed in given.seeds:
            train(given, seed)
    if given.step in ("all", "table"):
        table(given)


def folder(given: argparse.Namespace, seed: int) -> Path:
    return Path(given.runs / "queen" / f"seed-{seed}")


def train(given: argparse.Namespace, seed: int) -> None:
    """One run; a finished one is known by its folder."""
    run = folder(given, seed) / "run.json"
    if run.exists() and json.loads(run.read_text())["state"] == "finished":
        print(f"{run.parent} is trained")
        return
    overrides = [part for override in given.set for part in ("--set", override)]
    arguments = [str(HERE / "queen.yaml"), "--seed", str(seed), "--out", str(run.parent)]
    command = [sys.executable, "-m", "saeworks", "train", *arguments, *overrides]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def table(given: argparse.Namespace) -> None:
    """Ask every SAE, and write what was found."""
    asked = [ask(folder(given, seed), seed, given.tokens) for seed in given.seeds]
    first = load_suite(find_suites(folder(given, given.seeds[0]))[0])
    rows = [combined([one["rows"][at] for one in asked]) for at in range(len(asked[0]["rows"]))]
    found = {
        "command": "python experiments/queen.py",
        "config": first.meta["config"],
        "seeds": given.seeds,
        "held_out": [{"tokens": one["tokens"], "documents": one["documents"]} for one in asked],
        "intervals": "95%, Student's t over seeds",
        "metrics": {name: METRICS[name].description for name in SHOWN},
        "afterwards": ["one_latent"],
        "versions": first.meta["versions"],
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "rows": rows,
        "verdicts": [verdict(row, rows) for row in rows if row["kind"] == "switch"],
        "different": different([one["words"] for one in asked]),
    }
    base = given.results / "queen"
    base.parent.mkdir(parents=True, exist_ok=True)
    base.with_suffix(".json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    base.with_suffix(".md").write_text(markdown(found))
    print(f"{base}.json, .md")


def ask(run: Path, seed: int, tokens: int) -> Row:
    """Every SAE of one seed, and the controls of those that have experts."""
    suites = [load_suite(path) for path in find_suites(run)]
    config: RunConfig = suites[0].run
    lm = LanguageModel.load(config.model)
    held_out = held_out_tokens(lm, config.text, config.seed, tokens)
    truth = truth_of(config.text, config.seed, lm, held_out)
    watches = watch({str(s.path): s.bank() for s in suites}, lm, held_out, 1)
    row_N = held_out.row_NT[held_out.keep_NT].numpy()
    rows: list[Row] = []
    words: dict[str, Any] = {}

    def tell(kind: str, firing: Firing, of: Watch, options: dict[str, Any]) -> None:
        rows_MD = unit(of.sae.w_dec).numpy()
        answer = find(firing, truth.stands, row_N, rows_MD, 0, seed)
        values = {name: value.value for name, value in summarise(answer).items()}
        values["one_latent"] = one_latent(answer, firing, of, truth.stands, row_N, seed)
        curve = [summarise(answer, threshold)["queen"].value for threshold in THRESHOLDS]
        rows.append({"kind": kind, **options, "seed": seed, **values, "by_threshold": curve})
        if kind == "switch" and options == HEADLINE:
            coded = answer.phi_SQ[0] > 0.5
            for concept in sorted(set(answer.concept_Q[coded].tolist())):
                if answer.asked[concept] > 1:
                    places = answer.place_Q[coded & (answer.concept_Q == concept)]
                    words[" = ".join(truth.concepts[concept])] = len(set(places.tolist()))

    for one, of in watches.items():
        experts = getattr(of.sae.config, "experts", None)
        if experts is None:
            continue
        k = of.sae.config.k
        firing, options = of.firing(), {"experts": experts, "k": k}
        dense = next(
            w
            for (name, site), w in watches.items()
            if site == one[1] and w.sae.arch == "topk" and w.sae.config.k == k
        )
        tell("switch", firing, of, options)
        tell("topk, same tokens", by_tokens(dense.firing().fires, firing.visits), dense, options)
        blocks = Watch(dense.sae, experts, dense.fires, [])
        tell("topk, blocks", blocks.firing(), dense, options)
    return {
        "rows": rows, "words": words, "tokens": held_out.kept, "documents": held_out.documents
    }  # fmt: skip


def one_latent(
    answer: Found, firing: Firing, of: Watch, truth: csr_matrix, row_N: NDArray[Any], seed: int
) -> float | None:
    """Of the places that code a concept, the share in which one latent does, the one that codes it
    best over all tokens of the first half. A latent of a Switch SAE is in one place."""
    every = csr_matrix(np.ones((truth.shape[0], 1), np.int32))
    fires = vstack(of.fires, format="csr")
    anywhere = by_place(fires, np.zeros(fires.shape[1], int), 1, every, "all tokens")
    best = find(anywhere, truth, row_N, np.zeros((fires.shape[1], 1)), 0, seed)
    latent = dict(zip(best.concept_Q.tolist(), best.latent_Q.tolist(), strict=True))
    coded = np.flatnonzero((answer.phi_SQ[0] > CODED) & (answer.asked[answer.concept_Q] > 1))
    unit_of = {
        (place, latent): at
        for at, (place, latent) in enumerate(zip(firing.place_U, firing.latent_U, strict=True))
    }
    asked = [(int(answer.concept_Q[at]), int(answer.place_Q[at])) for at in coded]
    pairs = [(c, unit_of[p, latent[c]]) for c, p in asked if (p, latent.get(c)) in unit_of]
    if not asked:
        return None
    concept_Q, unit_Q = np.array(pairs, int).reshape(-1, 2).T
    phis = judge(firing, truth, row_N, ~first_half(row_N, seed), concept_Q, unit_Q, 0, seed)
    return float((phis[0] > CODED).sum() / len(asked))


def interval(values: Sequence[float | None]) -> dict[str, float | None]:
    """The mean of the seeds with Student's interval; none where a seed has no value."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return {"value": None, "low": None, "high": None}
    mean, low, high = student(numbers)
    return {"value": mean, "low": low, "high": high}


def combined(seeds: Sequence[Row]) -> Row:
    """One row over the seeds."""
    by_threshold = zip(*(seed["by_threshold"] for seed in seeds), strict=True)
    return {
        **{key: seeds[0][key] for key in ("kind", "experts", "k")},
        **{name: interval([seed[name] for seed in seeds]) for name in MEASURED},
        "by_threshold": dict(
            zip(map(str, THRESHOLDS), map(interval, map(list, by_threshold)), strict=True)
        ),
        "by_seed": {str(seed["seed"]): {name: seed[name] for name in MEASURED} for seed in seeds},
    }


def verdict(row: Row, rows: Sequence[Row]) -> Row:
    """What queen_criteria.md makes of a Switch SAE beside its TopK SAE on the same tokens."""
    control = next(
        other
        for other in rows
        if other["kind"] == "topk, same tokens"
        and (other["experts"], other["k"]) == (row["experts"], row["k"])
    )
    more, turned = (
        interval([row["by_seed"][s][name] - control["by_seed"][s][name] for s in row["by_seed"]])
        for name in ("queen", "consistency")
    )
    return {
        **{key: row[key] for key in ("experts", "k")},
        "difference": more,
        "learnt_anew": side(more, "yes", "the contrary"),
        "cosine": row["consistency"],
        "cosine_of_control": control["consistency"],
        "cosine_difference": turned,
        "other_directions": side(turned, "the contrary", "yes"),
    }


def side(value: dict[str, float | None], above: str, below: str) -> str:
    """On which side of 0 the whole interval lies."""
    low, high = value["low"], value["high"]
    if low is None or high is None or low <= 0 <= high:
        return "not shown"
    return above if low > 0 else below


def different(words: Sequence[dict[str, int]]) -> dict[str, list[int]]:
    """Of the headline's SAEs: in how many experts each seed codes each concept (0: in none)."""
    names = sorted({name for seed in words for name in seed})
    return {name: [seed.get(name, 0) for seed in words] for name in names}


def shown(value: dict[str, float | None], digits: int = 2) -> str:
    if value["value"] is None:
        return "–"
    text = f"{value['value']:.{digits}f}"
    if value["low"] is None:
        return text
    return f"{text} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def markdown(found: dict[str, Any]) -> str:
    """The tables, with the headline first."""
    head = next(
        row
        for row in found["rows"]
        if row["kind"] == "switch" and {key: row[key] for key in HEADLINE} == HEADLINE
    )
    held = found["held_out"][0]
    lines = [
        "# Queen: known concepts in different experts",
        "",
        "What is counted, the controls and the rules of the verdicts: "
        "[queen_criteria.md](../queen_criteria.md). "
        f"{len(found['seeds'])} seeds; {held['tokens']:,} held-out tokens of "
        f"{held['documents']:,} documents; intervals: {found['intervals']}.",
        "",
        f"**With 16 experts and k = 32, {shown(head['queen'])} of the concepts coded at all are "
        "coded by different latents in different experts.**",
        "",
        reading(found),
        "",
        "| experts | k | SAE | concepts | coded | different latents | cosine | duplicate pairs | "
        "places |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        cells = [shown(row[name], 0 if name in ("concepts", "coded") else 2) for name in SHOWN]
        lines.append(f"| {row['experts']} | {row['k']} | {row['kind']} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Verdicts",
        "",
        "| experts | k | Switch − TopK on the same tokens | learnt anew | mean cosine | of the "
        "control | difference | other directions |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found["verdicts"]:
        lines.append(
            f"| {one['experts']} | {one['k']} | {shown(one['difference'])} | "
            f"{one['learnt_anew']} | {shown(one['cosine'])} | "
            f"{shown(one['cosine_of_control'])} | {shown(one['cosine_difference'])} | "
            f"{one['other_directions']} |"
        )
    lines += [
        "",
        "## One latent (looked at afterwards, not in the criteria)",
        "",
        "Of the experts that code a concept, the share in which one and the same latent does, the "
        "one that codes it best over all tokens of the first half: where it is high, a dictionary "
        "could do with one latent although another is a little better here and there. A latent of "
        "a Switch SAE is in one expert, so its number is at most 1 / places.",
        "",
        _row("experts, k", ["Switch", "TopK on the same tokens"]),
        "|---|---|---|",
    ]
    of = {(row["experts"], row["k"], row["kind"]): row["one_latent"] for row in found["rows"]}
    for experts, k in dict.fromkeys((row["experts"], row["k"]) for row in found["rows"]):
        kinds = ("switch", "topk, same tokens")
        cells = [shown(of[experts, k, kind]) for kind in kinds]
        lines.append(_row(f"{experts}, {k}", cells))
    lines += ["", "## By the threshold of φ", "", _row("SAE", THRESHOLDS)]
    lines.append("|---" * (len(THRESHOLDS) + 1) + "|")
    for row in found["rows"]:
        name = f"{row['kind']}, N = {row['experts']}, k = {row['k']}"
        lines.append(_row(name, [shown(value) for value in row["by_threshold"].values()]))
    lines += [
        "",
        "## Concepts",
        "",
        "Experts that code each concept, by seed (16 experts, k = 32; 0: coded in none, or not "
        "asked about in two):",
        "",
        ", ".join(
            f"{name} {'/'.join(map(str, counts))}" for name, counts in found["different"].items()
        ),
        "",
    ]
    return "\n".join(lines)


def reading(found: dict[str, Any]) -> str:
    """The verdicts in words."""
    verdicts = found["verdicts"]
    anew = sum(one["learnt_anew"] == "yes" for one in verdicts)
    turned = sum(one["other_directions"] == "yes" for one in verdicts)
    return (
        f"More often than a TopK SAE of the same width does on the same tokens: in {anew} of "
        f"{len(verdicts)} settings; there, too, another latent is often the best one. In "
        f"directions less alike than the TopK SAE's: in {turned} of {len(verdicts)}. No pair of "
        "experts has near duplicates for a concept unless the column says so."
    )


def _row(first: str, cells: Sequence[object]) -> str:
    return f"| {first} | {' | '.join(str(cell) for cell in cells)} |"


if __name__ == "__main__":
    main()
