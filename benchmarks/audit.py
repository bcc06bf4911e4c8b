"""What an audit takes beside the encode pass alone: seconds, and memory as tokens grow.

    .venv/bin/python benchmarks/audit.py                       # 1M tokens, D = 768, 4 TopK of 6144
    .venv/bin/python benchmarks/audit.py --measured command --tokens 200000 \
        --out benchmarks/results/audit_command.json            # with what the command adds
    .venv/bin/python benchmarks/audit.py --tokens 50000 --widths 512 --d 128    # a trial

Synthetic activations are made a chunk at a time and their making is not counted. Each number of
tokens is a process of its own, so that its peak is its own; the SAEs' weights are in the memory.
`base` is what `sw.audit` measures; `command` adds the probes, pursuit and fits to codes that
`saeworks audit` makes by default on a fixed number of tokens, but nothing that needs a model.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from saeworks.cost.machine import peak_bytes, processor, resident_bytes
from saeworks.files.access import write_json

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = 128


def worker(
    tokens: int, d: int, widths: list[int], threads: int | None, measured: str
) -> dict[str, Any]:
    """One process: the encode pass over every token once, then the audit of the same tokens."""
    import numpy as np
    import torch

    from saeworks.config import AuditConfig
    from saeworks.dictionary.registry import build_sae
    from saeworks.measure.audit import folds
    from saeworks.measure.audit.arrays import base
    from saeworks.measure.audit.engine import SaeOutput, SiteAudit
    from saeworks.measure.audit.fits import Tokens
    from saeworks.measure.audit.measurement import Place
    from saeworks.measure.audit.run import measurements
    from saeworks.measure.banks import double_rows_at_once

    if threads:
        torch.set_num_threads(threads)
    before = resident_bytes()
    torch.manual_seed(0)
    saes = {
        f"{at}-{width}": build_sae("topk", d, width=width, k=32).requires_grad_(False)
        for at, width in enumerate(widths)
    }
    mix_DD = torch.randn(d, d) / d**0.5
    per_chunk = max(1, double_rows_at_once(d) // DOCUMENT)
    rows = per_chunk * DOCUMENT
    chunks = -(-tokens // rows)
    chunk_fold = folds.assign(np.full(chunks, rows), seed=0)
    spent = {"encode": 0.0, "audit": 0.0}

    def made(fold: int) -> Iterator[tuple[int, torch.Tensor]]:
        for number in np.flatnonzero(chunk_fold == fold):
            generator = torch.Generator().manual_seed(int(number))
            yield int(number), torch.randn(rows, d, generator=generator).relu() @ mix_DD

    def reconstruct(sae: torch.nn.Module) -> Any:
        def apply(x_ND: torch.Tensor) -> SaeOutput:
            code = sae.encode_sparse(x_ND)
            return SaeOutput(sae.decode(code), sae, code)

        return apply

    through = {name: reconstruct(sae) for name, sae in saes.items()}
    config = AuditConfig(adjacent=False)
    make, codes = (base, 0) if measured == "base" else (measurements(config), config.codes)
    place = Place(d, chunks * per_chunk, torch.device("cpu"), 0, codes)
    site = SiteAudit("synthetic", place, list(saes), make)
    with torch.no_grad():
        for phase in range(3):
            for number, x_ND in made(phase):
                began = perf_counter()  # interleaved, so that both see the same machine
                for apply in through.values():
                    apply(x_ND)
                spent["encode"] += perf_counter() - began
                began = perf_counter()
                documents = number * per_chunk + torch.arange(rows) // DOCUMENT
                site.add(phase, x_ND, Tokens(documents), through)
                spent["audit"] += perf_counter() - began
            began = perf_counter()
            site.finish(phase)
            spent["audit"] += perf_counter() - began
        began = perf_counter()
        values = {name: one.values(1000, 0) for name, one in site.saes.items()}
        spent["audit"] += perf_counter() - began
    return {
        "tokens": chunks * rows,
        "seconds": spent,
        "audit_over_encode": spent["audit"] / spent["encode"],
        "bytes_above_import": peak_bytes() - before,
        "bytes_of_weights": sum(p.nbytes for sae in saes.values() for p in sae.parameters()),
        "threads": torch.get_num_threads(),
        "fvu": {name: asdict(found["split"]["fvu"]) for name, found in values.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--widths", type=int, nargs="+", default=[6144] * 4)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--measured", choices=("base", "command"), default="base")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "audit.json")
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(worker(args.tokens[0], args.d, args.widths, args.threads, args.measured)))
        return
    runs = []
    for tokens in args.tokens:
        command = [sys.executable, __file__, "--worker", "--tokens", str(tokens)]
        command += ["--d", str(args.d), "--widths", *map(str, args.widths)]
        command += ["--measured", args.measured]
        command += ["--threads", str(args.threads)] if args.threads else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout))
        print(json.dumps(runs[-1]), flush=True)
    found = {
        "what": "audit of TopK SAEs (k = 32) at one site, beside encoding each token once",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "d": args.d,
        "widths": args.widths,
        "measured": args.measured,
        "runs": runs,
    }
    write_json(args.out, found)


if __name__ == "__main__":
    main()
