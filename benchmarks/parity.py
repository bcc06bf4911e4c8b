"""Held-out FVU of saeworks's TopK beside its peers', on the same cached activations.

    .venv/bin/python benchmarks/parity.py          # needs `make peers` and the small real models

The same rows in the same order, steps, batch, k and learning rates for all; each trainer has its
own initialisation and loss, and its warm-ups are the same shares of the run. The best of the
learning rates counts, per trainer, by the mean over the seeds. Runs that are already in the output
are not repeated, so an interrupted benchmark continues.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from trainers import ROOT, Options, python_of

from saeworks.cost.machine import processor
from saeworks.files.access import read_json, replacing, write_json

TRAINERS = ("saeworks", "dictionary_learning", "saelens")
REAL = Path(os.environ.get("SAEWORKS_REAL_DATA", ROOT.parent / "shared" / "models"))


def cache(folder: Path, model: Path, text: Path, site: str, rows: int, held_out: int) -> int:
    """Write normalised activations of one site as train.npy and held_out.npy; returns D."""
    wanted = {"model": model.name, "text": text.name, "site": site, "rows": rows}
    wanted["held_out"] = held_out
    if (folder / "index.json").exists():
        index = read_json(folder / "index.json")
        if {key: index.get(key) for key in wanted} != wanted:
            raise SystemExit(f"{folder} holds other activations ({index}); choose another --data")
        return int(index["d"])
    import torch

    from saeworks.config import ModelConfig, TextConfig
    from saeworks.dictionary.normaliser import Normaliser
    from saeworks.lm.model import LanguageModel
    from saeworks.lm.text import Corpus

    lm = LanguageModel.load(ModelConfig(name=str(model)))
    (name,) = lm.sites([site])
    corpus = Corpus(
        TextConfig(source=str(text)),
        lm.tokenizer,
        bos_id=lm.bos_id,
        max_context=lm.max_context,
        seed=0,
    )

    def collect(split: str, count: int) -> torch.Tensor:
        kept, total = [], 0
        for tokens in corpus.stream(split, 64, epochs=1):
            kept.append(lm.capture(tokens.tokens, [name])[name][tokens.keep].float())
            total += len(kept[-1])
            if total >= count:
                break
        return torch.cat(kept)[:count]

    x_ND = collect("train", rows)
    normaliser = Normaliser.estimate(x_ND[:100_000], "centre-scale")
    for file, raw_ND in {"train": x_ND, "held_out": collect("held_out", held_out)}.items():
        with replacing(folder / f"{file}.npy") as temporary, temporary.open("wb") as out:
            np.save(out, normaliser.normalise(raw_ND).numpy())
    index = {**wanted, "d": x_ND.shape[1], "rows_found": len(x_ND), "module": name}
    write_json(folder / "index.json", index)
    return x_ND.shape[1]


def plan(options: Options, rates: list[float], seeds: int) -> Iterator[dict[str, Any]]:
    for seed, lr, name in itertools.product(range(seeds), rates, TRAINERS):
        yield {"trainer": name, **asdict(replace(options, lr=lr, seed=seed))}


def run(key: dict[str, Any], data: Path) -> dict[str, Any]:
    options = {name: value for name, value in key.items() if name != "trainer"}
    script = str(Path(__file__).with_name("parity_worker.py"))
    done = subprocess.run(
        [python_of(key["trainer"]), script, key["trainer"], json.dumps(options), str(data)],
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )
    if done.returncode:
        raise SystemExit(f"{key}:\n{done.stderr}")
    return {**key, **json.loads(done.stdout)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Per trainer its best learning rate; ours over theirs, seed by seed."""
    best: dict[str, dict[int, float]] = {}
    out: dict[str, Any] = {"trainers": {}, "fvu_ratio": {}}
    for name in TRAINERS:
        by_lr: dict[float, dict[int, float]] = {}
        for r in runs:
            if r["trainer"] == name:
                by_lr.setdefault(r["lr"], {})[r["seed"]] = r["fvu"]
        if not by_lr:
            continue
        lr = min(by_lr, key=lambda rate: statistics.mean(by_lr[rate].values()))
        best[name] = by_lr[lr]
        values = list(best[name].values())
        out["trainers"][name] = {
            "lr": lr,
            "fvu_mean": statistics.mean(values),
            "fvu_min": min(values),
            "fvu_max": max(values),
            "seeds": len(values),
        }
    for name in TRAINERS[1:]:
        shared = sorted(best.get(name, {}).keys() & best.get("saeworks", {}).keys())
        if shared:
            ratios = [best["saeworks"][seed] / best[name][seed] for seed in shared]
            out["fvu_ratio"][f"saeworks/{name}"] = {
                "of_means": statistics.mean(best["saeworks"][s] for s in shared)
                / statistics.mean(best[name][s] for s in shared),
                "min": min(ratios),
                "max": max(ratios),
            }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=REAL / "tinystories-neox-6L256")
    parser.add_argument("--text", type=Path, default=REAL / "text" / "tinystories_train.txt")
    parser.add_argument("--site", default="layers.2", help="the middle layer")
    sizes = {"width": 2048, "k": 32, "batch": 2048, "steps": 500, "seeds": 3, "parallel": 4}
    sizes |= {"rows": 1_024_000, "held-out": 65_536}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lrs", type=float, nargs="+", help="default: 1, 2 and 4 times the law")
    parser.add_argument("--data", type=Path, default=ROOT / "runs" / "parity")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "parity.json")
    args = parser.parse_args()
    d = cache(args.data, args.model, args.text, args.site, args.rows, args.held_out)
    law = 2e-4 / sqrt(args.width / 2**14)
    rates = args.lrs or [law, 2 * law, 4 * law]
    options = Options(d, args.width, args.k, args.batch, args.steps, lr=law)
    runs = read_json(args.out)["runs"] if args.out.exists() else []
    planned = list(plan(options, rates, args.seeds))
    runs = [r for r in runs if any(key.items() <= r.items() for key in planned)]
    missing = [key for key in planned if not any(key.items() <= r.items() for r in runs)]
    print(f"{len(planned)} runs, {len(runs)} of them already done", file=sys.stderr)
    with ThreadPoolExecutor(args.parallel) as pool:
        for future in as_completed([pool.submit(run, key, args.data) for key in missing]):
            if error := future.exception():
                print(error, file=sys.stderr)  # the others are worth having; run again for this one
                continue
            runs.append(future.result())
            last = runs[-1]
            print(
                f"{len(runs)}/{len(planned)}  {last['trainer']:20} lr {last['lr']:.2e}  "
                f"seed {last['seed']}  FVU {last['fvu']:.4f}  {last['seconds']:.0f} s",
                file=sys.stderr,
            )
            record(args, d, runs)
    record(args, d, runs)
    print(json.dumps(summary(runs), indent=1))


def record(args: argparse.Namespace, d: int, runs: list[dict[str, Any]]) -> None:
    order = sorted(runs, key=lambda r: (r["trainer"], r["lr"], r["seed"]))
    lines = (ROOT / "benchmarks" / "peers.txt").read_text().split()
    write_json(
        args.out,
        {
            "command": f"python benchmarks/parity.py {' '.join(sys.argv[1:])}".strip(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "processor": processor(),
            "versions": dict(line.split("==") for line in lines),
            "model": args.model.name,
            "text": args.text.name,
            "site": args.site,
            "d": d,
            "training_tokens": args.steps * args.batch,
            "distinct_rows": args.rows,
            "held_out_rows": args.held_out,
            "summary": summary(runs),
            "runs": order,
        },
    )


if __name__ == "__main__":
    main()
