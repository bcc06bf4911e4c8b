"""saeworks beside its peers: `make bench-peers`, under 30 minutes on 4 cores.

    .venv/bin/python benchmarks/peers.py                  # all parts
    .venv/bin/python benchmarks/peers.py --quick          # small sizes, some minutes
    .venv/bin/python benchmarks/peers.py --parts pipeline

Parts, the most telling first: `step` (TopK at d 768, M 24576, k 32, B 8192), `pipeline` (TopK on
every block of a language model, from its passes to the SAEs on disk), `switch` (16 experts beside
our fastest TopK), then `batchtopk`, `jumprelu`, `gated`, `matryoshka` at the size of `step`. Ours
run in float32 and with bf16 selection; of the peers, each setting that may be the fastest. All take
turns, and what each computes is checked first. A round waits for an idle machine and is run again
where others disturbed it; one that stays disturbed is marked. The output is written after every
part, and keeps parts that are not asked for: an interrupted benchmark goes on with `--parts`.

The language model is a folder in SAEWORKS_REAL_DATA (`tinystories-neox-6L256`) where that is set,
else the embedded one.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from pipelines import NAMES as PIPELINES
from pipelines import SEPARATOR, Pipeline
from step import await_quiet, environment, measure, ratios, undisturbed, versions
from trainers import ARCHS, ROOT, Options, python_of

from saeworks.cost.machine import processor
from saeworks.files.access import read_json, write_json

C = Options(d=768, width=24576, k=32, batch=8192, steps=10_000, lr=1e-4)
QUICK = Options(d=128, width=2048, k=16, batch=1024, steps=10_000, lr=1e-4)
PARTS = ("step", "pipeline", "switch", "batchtopk", "jumprelu", "gated", "matryoshka")
OURS = ("saeworks-bf16", "saeworks")


def step(args: argparse.Namespace, arch: str) -> dict[str, Any]:
    """Training steps of one architecture by all that have it."""
    options = QUICK if args.quick else C
    results = measure(
        chosen(args, ARCHS[arch]),
        options,
        args.threads,
        args.rounds,
        arch,
        patience=args.patience,
        retries=args.retries,
    )
    return {"arch": arch, **asdict(options), "results": results, **compared(results)}


def compared(results: dict[str, Any]) -> dict[str, Any]:
    """Ratios of each of ours to every peer, and to the fastest one."""
    out: dict[str, Any] = {"faster_by": {}, "faster_than_the_fastest_peer": {}}
    for ours in OURS:
        by_peer = ratios(results, ours)
        if by_peer:
            out["faster_by"][ours] = by_peer
            peer = min(by_peer, key=lambda name: by_peer[name]["of_medians"])
            out["faster_than_the_fastest_peer"][ours] = {"peer": peer, **by_peer[peer]}
    return out


def chosen(args: argparse.Namespace, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in args.trainers]


def switch(args: argparse.Namespace) -> dict[str, Any]:
    """Switch of 16 experts beside our TopK, in one process; what each has is in turn."""
    o = QUICK if args.quick else C
    command = [sys.executable, str(ROOT / "benchmarks" / "switch.py"), "--experts", "16"]
    sizes = {"d": o.d, "width": o.width, "k": o.k, "batch": o.batch}
    sizes |= {"rounds": args.rounds, "threads": args.threads}
    command += [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    busy = await_quiet(args.patience)
    done = subprocess.run([*command, "--no-dense"], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout) | {"busy_cores_before": busy}


def material(folder: Path) -> tuple[Path, Path]:
    """The folder of the language model, and its text as documents in a file."""
    real = os.environ.get("SAEWORKS_REAL_DATA")
    if real:
        return Path(real) / "tinystories-neox-6L256", Path(real) / "text/tinystories_train.txt"
    from saeworks.embedded import MODEL_DIR, documents

    text = folder / "text.txt"
    between = f"\n{SEPARATOR}\n"
    text.write_text(between.join(document.text for document in documents(0, 6000)))
    return MODEL_DIR, text


def pipeline(args: argparse.Namespace) -> dict[str, Any]:
    """Whole trainings, each round of each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        model, text = material(Path(name))
        o = Pipeline(str(model), str(text), 49_152, width=2048, k=32, batch=2048)
        if args.quick:
            o = replace(o, tokens=16_384, width=512, batch=1024, buffer=4096)
        names = chosen(args, PIPELINES)
        rounds: dict[str, list[dict[str, Any]]] = {trainer: [] for trainer in names}
        for number in range(args.rounds):
            for trainer in names:

                def work(trainer: str = trainer) -> dict[str, Any]:
                    return train(trainer, o, args.threads)

                rounds[trainer].append(undisturbed(work, args.patience, args.retries))
                seconds = rounds[trainer][-1]["seconds"]
                print(f"round {number + 1}  {trainer:20} {seconds:.1f} s", file=sys.stderr)
    sizes = {(r["saes"], r["parameters"]) for of in rounds.values() for r in of}
    if len(sizes) != 1:
        raise SystemExit(f"not all trained the same SAEs: {sizes}")
    results = {trainer: over(of) for trainer, of in rounds.items()}
    about = asdict(replace(o, model=model.name, text=text.name))
    return {**about, "results": results, **compared(results)}


def train(name: str, options: Pipeline, threads: int) -> dict[str, Any]:
    """One whole training, in a process that ends with it."""
    script = str(Path(__file__).with_name("pipelines.py"))
    with tempfile.TemporaryDirectory() as out:
        began = perf_counter()
        done = subprocess.run(
            [
                python_of(name),
                script,
                name,
                json.dumps(asdict(options)),
                str(threads),
                f"{out}/run",
            ],
            capture_output=True,
            text=True,
            check=False,
            env=environment(threads, options.device) | {"HF_HOME": f"{out}/cache"},
        )
    if done.returncode:
        raise SystemExit(f"{name}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout) | {"seconds_of_process": perf_counter() - began}


def over(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and range of a trainer's rounds."""

    def spread(key: str) -> dict[str, Any]:
        values = [r[key] for r in rounds]
        low, high = min(values), max(values)
        return {"median": statistics.median(values), "min": low, "max": high, "rounds": values}

    keys = ("layer_tokens_per_second", "seconds_of_process", "seconds_before")
    return {
        "seconds_per_step": spread("seconds"),  # named as in the other parts: what ratios are of
        **{key: spread(key) for key in keys},
        "peak_rss_bytes": max(r["peak_rss_bytes"] for r in rounds),
        "saes": rounds[0]["saes"],
        "parameters": rounds[0]["parameters"],
        "quiet": all(r["quiet"] for r in rounds),
        "quiet_reasons": [r["quiet_reason"] for r in rounds],
        "busy_cores_before": [r["busy_cores_before"] for r in rounds],
        "attempts": [r["attempts"] for r in rounds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--trainers", nargs="+", choices=PIPELINES, default=list(PIPELINES))
    parser.add_argument("--quick", action="store_true", help="small sizes, and no waiting")
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds before a round")
    parser.add_argument("--retries", type=int, default=1, help="of a round that was disturbed")
    parser.add_argument("--out", type=Path, help="default: results/peers.json, -quick with --quick")
    args = parser.parse_args()
    if args.quick:
        args.patience, args.retries = 0.0, 0
    kind = "peers-quick.json" if args.quick else "peers.json"
    out = args.out or ROOT / "benchmarks" / "results" / kind
    found = read_json(out) if out.exists() else {}
    for part in args.parts:
        print(f"== {part}", file=sys.stderr, flush=True)
        began, at = perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
        measured = {"pipeline": pipeline, "switch": switch}.get(
            part, lambda args, arch=("topk" if part == "step" else part): step(args, arch)
        )(args)
        results = measured["results"].values()
        found |= {
            "what": "saeworks beside its peers, interleaved, each in its own process",
            "command": f"python benchmarks/peers.py {' '.join(sys.argv[1:])}".strip(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "versions": versions(),
            "threads": args.threads,
        }
        found[part] = {
            "at": at,
            "took_seconds": perf_counter() - began,
            "quiet": all(r.get("quiet") for r in results),
            **measured,
        }
        write_json(out, found)
        for ours, ratio in measured.get("faster_than_the_fastest_peer", {}).items():
            print(
                f"{part}: {ours} {ratio['of_medians']:.2f}× {ratio['peer']} "
                f"({ratio['min']:.2f}–{ratio['max']:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
