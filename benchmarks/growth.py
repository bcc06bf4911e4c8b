"""How time and memory grow with what a user can make large.

    .venv/bin/python benchmarks/growth.py                       # about 15 minutes on 2 cores
    .venv/bin/python benchmarks/growth.py --only eval/latents plan/sites
    .venv/bin/python benchmarks/growth.py --tiny                # a trial

`step` is a TopK training step on random rows. `eval` and `audit` are the commands' own work on a
suite of the embedded model that was trained for one step, so that latents fire at random; `plan` is
on a random Llama of as many blocks; `report` is of evaluated suites, or of latents that this script
makes up, in a browser where Chromium is. Each size is a process of its own with one thread. What
counts are the processor's seconds, which other processes disturb little, and the memory above what
was there before. An exponent is the slope of log(seconds) over log(size) at the three largest
sizes, with a 95% interval over the rounds; `demanded` is what the mathematics asks for. What grows
faster is marked. The output is written after every row, and keeps rows that are not asked for.
"""

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

TOLERANCE = 0.15
"""An exponent is too large where its interval lies this much above what is demanded."""


@dataclass(frozen=True)
class Row:
    """What grows with what.

    Attributes:
        sizes: of the quantity, from small to large; `tiny` for a trial.
        demanded: the exponent that the mathematics asks for.
        options: what stays the same.
    """

    sizes: tuple[int, ...]
    tiny: tuple[int, ...]
    demanded: float
    why: str
    options: dict[str, int]


WIDTHS = (4096, 16384, 65536, 131072, 262144)
ROWS = {
    "step/latents": Row(
        WIDTHS, (256, 512, 1024), 1, "the encoder's matmul", {"d": 256, "k": 32, "batch": 1024}
    ),
    "step/k": Row(
        (16, 64, 128, 256, 512),
        (2, 4, 8),
        1,
        "gradients of active latents",
        {"d": 256, "latents": 16384, "batch": 1024},
    ),
    "step/batch": Row(
        (1024, 4096, 8192, 16384),
        (64, 128, 256),
        1,
        "rows",
        {"d": 256, "latents": 8192, "k": 32},
    ),
    "eval/latents": Row(
        WIDTHS, (256, 512, 1024), 1, "encoding; pairs are sampled", {"tokens": 10_000, "sites": 1}
    ),
    "eval/tokens": Row(
        (10_000, 20_000, 40_000, 80_000),
        (1000, 2000, 4000),
        1,
        "encoding",
        {"latents": 2048, "sites": 1},
    ),
    "eval/sites": Row(
        (1, 2, 4, 6),
        (1, 2, 3),
        2,
        "a pass from each site to the end",
        {"latents": 2048, "tokens": 10_000},
    ),
    "audit/latents": Row(WIDTHS, (256, 512, 1024), 1, "encoding", {"tokens": 10_000, "sites": 1}),
    "audit/tokens": Row(
        (10_000, 20_000, 40_000, 80_000),
        (2000, 4000, 8000),
        1,
        "encoding, sums",
        {"latents": 2048, "sites": 1},
    ),
    "audit/sites": Row(
        (1, 2, 4, 6),
        (1, 2, 3),
        2,
        "a pass from each site to the end",
        {"latents": 2048, "tokens": 10_000},
    ),
    "plan/sites": Row(
        (8, 16, 32, 64), (3, 4, 6), 2, "a distance for each pair", {"tokens": 10_000}
    ),
    "plan/tokens": Row(
        (10_000, 40_000, 160_000), (1000, 2000, 4000), 1, "distances of tokens", {"sites": 8}
    ),
    "report/sites": Row((1, 2, 4, 6), (1, 2, 3), 1, "figures", {"latents": 512, "tokens": 5000}),
    "report/latents": Row(
        (1000, 4000, 16_000, 64_000), (50, 100, 200), 1, "an entry for each latent", {}
    ),
    "browser/latents": Row(
        (1000, 4000, 16_000, 64_000), (50, 100, 200), 1, "an entry for each latent", {}
    ),
}


class Clock:
    """Processor seconds and memory of what runs inside."""

    def __enter__(self) -> "Clock":
        from saeworks.cost.machine import forget_peak, resident_bytes

        gc.collect()
        forget_peak()
        self.before, self.wall, self.start = resident_bytes(), perf_counter(), process_time()
        return self

    def __exit__(self, *_: object) -> None:
        from saeworks.cost.machine import peak_bytes

        self.found = {
            "seconds": process_time() - self.start,
            "wall_seconds": perf_counter() - self.wall,
            "bytes": max(0, peak_bytes() - self.before),
        }


def step(d: int, latents: int, k: int, batch: int) -> dict[str, Any]:
    """The shortest of three training steps, after one to warm up."""
    import torch

    from saeworks.dictionary.base import Batch, Context
    from saeworks.dictionary.registry import build_sae
    from saeworks.train.optimiser import DictionaryAdam
    from saeworks.train.step import train_step

    sae = build_sae("topk", d, width=latents, k=k)
    x_BD = torch.randn(batch, d, generator=torch.Generator().manual_seed(0))
    sae.initialise(x_BD[:1024], torch.Generator().manual_seed(0))
    optimiser, context = DictionaryAdam(sae, 1e-4), Context(torch.empty(0, dtype=torch.int64), 0.5)
    found = []
    for _ in range(4):
        with Clock() as clock:
            train_step(sae, optimiser, Batch(x_BD, x_BD), context, 1e-4)
        found.append(clock.found)
    return min(found[1:], key=lambda one: one["seconds"]) | {
        "bytes": max(one["bytes"] for one in found)
    }


def suite(folder: Path, latents: int, sites: int) -> Path:
    """SAEs on the first sites of the embedded model, after one step."""
    from saeworks.config import RunConfig, from_mapping
    from saeworks.suite import find_suites
    from saeworks.train.job import train_run

    run = {
        "sites": [f"layers.{at}" for at in range(sites)],
        "text": {"max_documents": 4000},
        "saes": [{"arch": "topk", "width": latents, "k": 32}],
        "train": {"tokens": 2048, "batch": 2048, "eval_every": 0},
        "buffer": {"memory": "64MiB", "normaliser_tokens": 2048},
        "device": "cpu",
    }
    train_run(from_mapping(RunConfig, run, "benchmark"), folder, lambda line: None)
    (found,) = find_suites(folder)
    return found


def evaluation(folder: Path, latents: int, tokens: int, sites: int) -> dict[str, Any]:
    from saeworks.config import EvalConfig
    from saeworks.measure.run import evaluate

    path = suite(folder / "suite", latents, sites)
    with Clock() as clock:
        evaluate([path], EvalConfig(tokens, splice_tokens=tokens, device="cpu"))
    return clock.found


def audit(folder: Path, latents: int, tokens: int, sites: int) -> dict[str, Any]:
    from saeworks.config import AuditConfig
    from saeworks.measure.audit.run import audit_suites

    fixed = dict.fromkeys(("pursuit", "mlp", "codes", "zeroing", "downstream"), 1024)
    path = suite(folder / "suite", latents, sites)
    with Clock() as clock:
        audit_suites([path], AuditConfig(tokens, device="cpu", **fixed))
    return clock.found


def plan(folder: Path, tokens: int, sites: int) -> dict[str, Any]:
    """Distances of a random model's blocks, the groups for every number of them, and the page."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from saeworks.config import TextConfig
    from saeworks.embedded import MODEL_DIR
    from saeworks.groups.distances import angular_distances
    from saeworks.groups.plan import make_plan
    from saeworks.lm.model import LanguageModel
    from saeworks.report.plan import write_plan_page

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=sites + 1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    lm = LanguageModel.wrap(LlamaForCausalLM(config), tokenizer, name="random")
    with Clock() as clock:
        text = TextConfig("embedded", max_documents=4000)
        distances = angular_distances(lm, text, ("*@resid",), tokens, last=False)
        made = make_plan(distances, None, method="contiguous", threshold=2.0)
        made.write(folder / "plan.json")
        write_plan_page(folder / "plan.json", folder)
    return clock.found


def report(folder: Path, **sizes: int) -> dict[str, Any]:
    """Of evaluated sites; without `sites`, of a suite whose latents are made up."""
    from saeworks.report.build import write_report

    if "sites" in sizes:
        path = folder / "suite"
        evaluation(folder, **sizes)
    else:
        from latents import synthetic

        path = folder / "synthetic"
        synthetic(path, sizes["latents"])
    with Clock() as clock:
        page = write_report([path], folder / "report")
    files = [file for file in page.parent.rglob("*") if file.is_file()]
    return clock.found | {"written_bytes": sum(file.stat().st_size for file in files)}


def browser(folder: Path, latents: int) -> dict[str, Any]:
    """Until the browser of latents lists and sorts them all; memory is the page's objects."""
    from latents import browse

    report(folder, latents=latents)
    found = browse(folder / "report" / "index.html", latents)
    if "left_out" in found:
        return found
    seconds = sum(float(v) for k, v in found.items() if k not in ("heap_bytes", "longest_task"))
    return {"seconds": seconds, "bytes": found["heap_bytes"], **found}


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    "eval": evaluation,
    "audit": audit,
    "plan": plan,
    "report": report,
    "browser": browser,
}


def worker(what: str, sizes: dict[str, int]) -> dict[str, Any]:
    """One process: one size."""
    import torch

    torch.set_num_threads(1)
    if what == "step":
        return step(**sizes)
    with tempfile.TemporaryDirectory() as folder:
        return WORK[what](Path(folder), **sizes)


def alone(what: str, sizes: dict[str, int]) -> dict[str, Any]:
    """A size in a process of its own, with one thread."""
    command = [sys.executable, __file__, "--worker", what, json.dumps(sizes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{what} {sizes} ended with {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def exponent(sizes: list[int], values: list[float]) -> dict[str, float | None]:
    """The slope of log(value) over log(size), with its 95% interval (None for two points)."""
    from scipy.stats import linregress, t

    fit = linregress([math.log(x) for x in sizes], [math.log(max(y, 1e-9)) for y in values])
    half = None if len(sizes) < 3 else float(t.ppf(0.975, len(sizes) - 2) * fit.stderr)
    slope = float(fit.slope)
    low, high = (None, None) if half is None else (slope - half, slope + half)
    return {"value": slope, "low": low, "high": high}


def grown(name: str, row: Row, rounds: int, tiny: bool) -> dict[str, Any]:
    """A row: every size so often, and the exponents at the three largest."""
    what, quantity = name.split("/")
    sizes = row.tiny if tiny else row.sizes
    options = row.options
    if tiny:
        small = {"latents": 256, "tokens": 1000, "batch": 64, "d": 16, "k": 4}
        options = {key: small.get(key, value) for key, value in options.items()}
    found: list[dict[str, Any]] = []
    for size in sizes:
        for _ in range(rounds):
            answer = alone(what, {**options, quantity: size})
            if "left_out" in answer:
                return answer
            found.append({"size": size, **answer})
            print(f"{name} {size:>8,}  {answer['seconds']:8.2f} s", file=sys.stderr, flush=True)
    fitted = [one for one in found if one["size"] in sizes[-3:]]
    at = [one["size"] for one in fitted]
    seconds = exponent(at, [one["seconds"] for one in fitted])
    return {
        "demanded": row.demanded,
        "why": row.why,
        "options": options,
        "sizes": list(sizes),
        "runs": found,
        "seconds_exponent": seconds,
        "bytes_exponent": exponent(at, [one["bytes"] for one in fitted]),
        "too_fast": (seconds["low"] or seconds["value"]) > row.demanded + TOLERANCE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tiny", action="store_true")
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=results / "growth.json")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        what, sizes = args.worker
        print(json.dumps(worker(what, json.loads(sizes))))
        return
    from saeworks.cost.machine import Neighbours, processor
    from saeworks.files.access import read_json, write_json

    kept = read_json(args.out) if args.out.exists() else {}
    rows: dict[str, Any] = kept.get("rows", {})
    for name in args.only:
        neighbours = Neighbours()
        rows[name] = grown(name, ROWS[name], args.rounds, args.tiny) | {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "busy_cores": neighbours.busy_cores(),
        }
        order = {key: rows[key] for key in ROWS if key in rows}
        command = f"python benchmarks/growth.py {' '.join(sys.argv[1:])}".strip()
        write_json(args.out, {"command": command, "processor": processor(), "rows": order})
    wrong = [name for name in args.only if rows[name].get("too_fast")]
    if wrong:
        raise SystemExit(f"grows faster than it must: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
